"""A report's folder: the page, the figures and series as JSON and CSV, three pictures."""

from collections.abc import Sequence
from pathlib import Path

from tst_megatron.analysis.compare.amounts import DATA_TOKENS, FLOPS, GPU_HOURS, STEPS
from tst_megatron.analysis.compare.charts.logged import logged_charts, without_chart
from tst_megatron.analysis.compare.charts.loss import loss_chart, no_losses
from tst_megatron.analysis.compare.charts.palette import left_out
from tst_megatron.analysis.compare.charts.rates import rates_chart
from tst_megatron.analysis.compare.charts.saving import difference_chart, saving_chart
from tst_megatron.analysis.compare.charts.switch import switch_chart
from tst_megatron.analysis.compare.output.as_csv import (
    comparisons_csv,
    evaluations_csv,
    rates_csv,
    saving_csv,
    steps_csv,
)
from tst_megatron.analysis.compare.output.as_json import json_text
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.analysis.compare.sentences import (
    between,
    explained,
    first_sentences,
    notes,
    notes_of_others,
    title,
    warnings,
)
from tst_megatron.analysis.compare.tables import settings_tables, tables_of
from tst_megatron.files import write_whole
from tst_megatron.report import picture
from tst_megatron.report.chart import MOST_POINTS, Chart
from tst_megatron.report.page import Page, Section, html

_COLUMNS = 2
_HOW_MADE = (
    "All figures come from what the runs logged. Ratios are the baseline's amount over the "
    "candidate's: above 1, the candidate needed less. Differences are candidate minus baseline: "
    "below 0, the candidate is ahead.",
    "The held-out loss is the ordinary next-token loss, in {unit}, on the same held-out text "
    "for every run, whatever a stage trains on.",
    "A run reaches a loss where its smoothed held-out curve gets there for good.",
    "The headline compares whole runs, each with its own decay of the learning rate, where the "
    "baseline was run in several lengths. Else the crossing is inside one run of the baseline, and "
    "it is said in which part.",
    "What is extrapolated comes from a power law fitted to the baseline, beyond what it ran.",
    "Intervals come from the spread between seeds and evaluations, or, with one seed, from the "
    "error of the evaluations; seeds then move the result by an amount that is not measured.",
    "Where an interval holds 1 (of a ratio) or 0 (of a difference), no difference is shown.",
    "Where runs of a side differ in the learning rate alone, the best rate is compared: it is "
    "chosen on some seeds, and its figures are of others.",
    "Where the learning rate of one side has decayed at the loss compared and the other's has not, "
    "the figure stays and nothing is claimed of it.",
    "A position is one place in a sequence that the transformer computes on; how many data tokens "
    "it reads depends on the stage. FLOPs count what was computed, not what was read.",
    "Scores are of models at one place of their runs, the mean over a side's runs; between two "
    "evaluations of a run they are straight. An interval knows of other items and, with several "
    "seeds, of other seeds.",
    "Wall-clock and GPU hours count everything since a run began: start-up, evaluation, "
    "checkpoints and what was lost to restarts as well as training.",
)


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
    if rates := rates_csv(findings):
        write_whole(out / "rates.csv", rates)
    else:
        # Of an earlier report, which this one replaces.
        (out / "rates.csv").unlink(missing_ok=True)
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
    rates = [chart for chart in charts if chart.name == "rates"]
    pictures = (("loss", losses), ("saving", savings), ("logged", logged), ("rates", rates))
    for name, pictured in pictures:
        path = out / f"{name}.png"
        if pictured:
            write_whole(path, picture.png(pictured, columns=min(len(pictured), _COLUMNS)))
        else:
            # Of an earlier report, which this one replaces.
            path.unlink(missing_ok=True)
    write_whole(out / "report.html", html(page_of(findings, charts)))


def charts_of(findings: Findings) -> list[Chart]:
    """Every chart of a report that there is something to draw in."""
    over = (GPU_HOURS, FLOPS, DATA_TOKENS) if findings.steps_compare else (GPU_HOURS, FLOPS)
    losses = [loss_chart(findings, amount) for amount in over]
    if not any(losses):
        losses = [loss_chart(findings, STEPS) or no_losses()]
    amounts = (STEPS, GPU_HOURS) if findings.clocks_compare else (STEPS,)
    savings = [saving_chart(findings, amount) for amount in amounts]
    others = [switch_chart(findings), *savings, difference_chart(findings), rates_chart(findings)]
    return [chart for chart in (*losses, *others, *logged_charts(findings)) if chart is not None]


def page_of(findings: Findings, charts: Sequence[Chart]) -> Page:
    """The page.

    Args:
        findings: what it shows.
        charts: in their order; the first is the widest.
    """
    return Page(
        title=title(findings),
        headline=first_sentences(findings),
        about=between(findings),
        warnings=tuple(warnings(findings)),
        sections=(
            Section(charts=tuple(charts), note=_charts_note(findings)),
            Section("Figures", tables=tuple(tables_of(findings))),
            Section("Notes", sentences=(*notes(findings), *notes_of_others(findings))),
            Section("Settings", tables=tuple(settings_tables(findings))),
            Section("How each figure is made", sentences=_how_made(findings)),
        ),
    )


def _how_made(findings: Findings) -> tuple[str, ...]:
    told = (sentence.format(unit=findings.unit) for sentence in _HOW_MADE)
    return (*told, *explained(findings))


def _charts_note(findings: Findings) -> str:
    sentences = [
        "Drag over a chart to zoom, double-click to see all, click a name to hide it.",
        f"Series of more than {MOST_POINTS:,} points are drawn with the lowest and the highest "
        "point of every stretch.",
    ]
    if hidden := left_out(findings):
        sentences.append(f"Groups that are in the tables alone: {hidden}.")
    if names := without_chart(findings):
        sentences.append(f"Logged series without a chart: {', '.join(names)}.")
    return " ".join(sentences)
