"""A report's folder: the page, the figures as JSON and CSV, two pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

from tst_megatron.comparison.charts import still
from tst_megatron.comparison.charts.amounts import DATA_TOKENS, FLOPS, GPU_HOURS, STEPS
from tst_megatron.comparison.charts.chart import Chart
from tst_megatron.comparison.charts.logged import logged_charts
from tst_megatron.comparison.charts.loss import loss_chart
from tst_megatron.comparison.charts.saving import difference_chart, saving_chart
from tst_megatron.comparison.charts.switch import switch_chart
from tst_megatron.comparison.findings import Findings
from tst_megatron.comparison.output.as_csv import comparisons_csv, evaluations_csv
from tst_megatron.comparison.output.as_json import as_json
from tst_megatron.comparison.output.page import page
from tst_megatron.files import write_whole


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
    write_page(out, findings)


def write_page(out: Path, findings: Findings) -> None:
    """Write the page and the pictures beside it.

    Raises:
        OSError: a file cannot be written.
    """
    losses = [loss_chart(findings, amount) for amount in (GPU_HOURS, FLOPS, DATA_TOKENS)]
    if not any(losses):
        losses = [loss_chart(findings, STEPS)]
    savings = [saving_chart(findings), difference_chart(findings)]
    others = [switch_chart(findings), *savings, *logged_charts(findings)]
    _write_picture(out / "loss.png", losses)
    _write_picture(out / "saving.png", savings)
    charts = [chart for chart in (*losses, *others) if chart is not None]
    write_whole(out / "report.html", page(findings, charts))


def json_text(findings: Findings) -> str:
    """The figures as strict JSON."""
    return json.dumps(as_json(findings), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _write_picture(path: Path, charts: Sequence[Chart | None]) -> None:
    there = [chart for chart in charts if chart is not None]
    if there:
        write_whole(path, still.png(there, columns=len(there)))
