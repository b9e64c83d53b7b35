"""A report's folder: the page, the figures and series as JSON and CSV, three pictures."""

from pathlib import Path

from tst_megatron.analysis.compare.charts.amounts import DATA_TOKENS, FLOPS, GPU_HOURS, STEPS
from tst_megatron.analysis.compare.charts.logged import logged_charts
from tst_megatron.analysis.compare.charts.loss import loss_chart, no_losses
from tst_megatron.analysis.compare.charts.saving import difference_chart, saving_chart
from tst_megatron.analysis.compare.charts.switch import switch_chart
from tst_megatron.analysis.compare.findings import Findings
from tst_megatron.analysis.compare.output.as_csv import comparisons_csv, evaluations_csv
from tst_megatron.analysis.compare.output.as_json import json_text
from tst_megatron.analysis.compare.output.page import page
from tst_megatron.analysis.compare.output.series_as_csv import saving_csv, steps_csv
from tst_megatron.files import write_whole
from tst_megatron.report import still
from tst_megatron.report.chart import Chart

_COLUMNS = 2


def write_folder(out: Path, findings: Findings) -> None:
    """Write every file of a report, each whole or not at all.

    Args:
        out: directory, made if it is not there.
        findings: what to show.

    Raises:
        OSError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.json", json_text(findings))
    write_whole(out / "evaluations.csv", evaluations_csv(findings))
    write_whole(out / "comparisons.csv", comparisons_csv(findings))
    write_whole(out / "saving.csv", saving_csv(findings))
    write_whole(out / "steps.csv", steps_csv(findings))
    write_page(out, findings)


def write_page(out: Path, findings: Findings) -> None:
    """Write the page and the pictures beside it.

    Raises:
        OSError: a file cannot be written.
    """
    charts = charts_of(findings)
    losses = [chart for chart in charts if chart.name.startswith("loss") or chart.name == "switch"]
    savings = [chart for chart in charts if chart.name.startswith(("saving", "difference"))]
    logged = [chart for chart in charts if chart.name.startswith(("grad-norm", "extra"))]
    for name, pictured in (("loss", losses), ("saving", savings), ("logged", logged)):
        path = out / f"{name}.png"
        if pictured:
            write_whole(path, still.png(pictured, columns=min(len(pictured), _COLUMNS)))
        else:
            # Of an earlier report, which this one replaces.
            path.unlink(missing_ok=True)
    write_whole(out / "report.html", page(findings, charts))


def charts_of(findings: Findings) -> list[Chart]:
    """Every chart of a report that there is something to draw in."""
    losses = [loss_chart(findings, amount) for amount in (GPU_HOURS, FLOPS, DATA_TOKENS)]
    if not any(losses):
        losses = [loss_chart(findings, STEPS) or no_losses()]
    amounts = (STEPS, GPU_HOURS) if findings.clocks_compare else (STEPS,)
    savings = [saving_chart(findings, amount) for amount in amounts]
    others = [switch_chart(findings), *savings, difference_chart(findings)]
    return [chart for chart in (*losses, *others, *logged_charts(findings)) if chart is not None]
