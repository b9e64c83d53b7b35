"""The report as one page that loads nothing: charts, tables, settings, and how it was made."""

import json
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tst_megatron.analysis.compare.charts.logged import without_chart
from tst_megatron.analysis.compare.charts.palette import left_out
from tst_megatron.analysis.compare.findings import Findings
from tst_megatron.analysis.compare.sentences import (
    between,
    first_sentences,
    notes,
    notes_of_others,
    warnings,
)
from tst_megatron.analysis.compare.tables import settings_tables, tables_of
from tst_megatron.report import live, still
from tst_megatron.report.chart import Chart
from tst_megatron.report.thinning import MOST_POINTS

_PACKAGE = "tst_megatron.analysis.compare.output"
_TITLE = "Token superposition (TST) against the baseline"
_METHOD = (
    "All figures come from what the runs logged. Ratios are the baseline's amount over TST's: "
    "above 1, TST needed less. Differences are TST minus baseline: below 0, TST is ahead.",
    "The held-out loss is the ordinary next-token loss, in nats a token, on the same held-out text "
    "for every run, also while training is on bags.",
    "A run reaches a loss where its smoothed held-out curve gets there for good.",
    "The headline compares whole runs, each with its own decay of the learning rate, where the "
    "baseline was run in several lengths. Else the crossing is inside one run of the baseline, and "
    "it is said in which part.",
    "What is extrapolated comes from a power law fitted to the baseline, beyond what it ran.",
    "Intervals come from the spread between seeds and evaluations, or, with one seed, from the "
    "error of the evaluations; seeds then move the result by an amount that is not measured.",
    "Where an interval holds 1 (of a ratio) or 0 (of a difference), no difference is shown.",
    "Where the learning rate of one side has decayed at the loss compared and the other's has not, "
    "the figure stays and nothing is claimed of it.",
    "A position is one place in a sequence that the transformer computes on; in bags of s it reads "
    "s data tokens. FLOPs count positions: a step costs the same in bags and in single tokens.",
    "Wall-clock and GPU hours count everything since a run began: start-up, evaluation, "
    "checkpoints and what was lost to restarts as well as training.",
)


def page(findings: Findings, charts: Sequence[Chart]) -> str:
    """The page's HTML.

    Args:
        findings: what it shows.
        charts: in their order; the first is the widest.
    """
    environment = Environment(
        loader=PackageLoader(_PACKAGE, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {chart.name: live.figure(chart) for chart in charts}
    return environment.get_template("page.html.j2").render(
        title=_TITLE,
        between=between(findings),
        warnings=warnings(findings),
        headline=first_sentences(findings),
        charts=[(chart, Markup(still.svg(chart)), live.height(chart)) for chart in charts],
        charts_note=_charts_note(findings),
        tables=tables_of(findings),
        notes=[*notes(findings), *notes_of_others(findings)],
        settings=settings_tables(findings),
        method=_METHOD,
        charts_json=_in_script(json.dumps(figures, allow_nan=False)),
        plotly_js=Markup(live.plotly_js()),
        page_js=Markup((files(_PACKAGE) / "page.js").read_text()),
    )


def _in_script(text: str) -> Markup:
    """JSON inside a ``<script>``, which nothing in it can end."""
    return Markup(text.replace("<", "\\u003c"))


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
