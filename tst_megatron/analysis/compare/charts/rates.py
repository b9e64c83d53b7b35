"""Final loss over the learning rate, both sides, with the parabola that its optimum is of.

The one idea: what a rate that suits one side costs the other is seen at once, and how flat the
bottom is; so both sides have one picture, with equal ratios of the rate equally wide.
"""

from collections.abc import Iterator

import numpy as np

from tst_megatron.analysis.compare.charts.palette import colour_of
from tst_megatron.analysis.compare.group_curve import final_loss
from tst_megatron.analysis.compare.groups import Group, RateSweep
from tst_megatron.analysis.compare.rates import DIVERGED, parabola, shown_rate
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report import formats
from tst_megatron.report.chart import SOFT, Chart, Dot, Line, around
from tst_megatron.statistics.log_parabola import LogParabola

_DRAWN = 60
# Beyond the lowest and the highest rate, as a factor.
_BEYOND = 1.25
# Above the lowest loss: a rate that is far off, or nearly diverged, would squeeze the others.
_MOST_ABOVE = 0.5


def rates_chart(findings: Findings) -> Chart | None:
    """The losses of the best comparison's sweeps; None where one rate was tried on each side."""
    groups = [group for one in findings.comparisons[:1] for group in (*one.baseline, one.candidate)]
    swept = [(group, group.sweep) for group in groups if group.sweep is not None]
    lines = [line for group, sweep in swept for line in _lines(findings, group, sweep)]
    ticks = tuple(sorted({rate for _, sweep in swept for rate in sweep.rates}))
    ys = np.array([loss for _, sweep in swept for loss in sweep.losses])
    if not np.isfinite(ys).any():
        return None
    shown = ys[ys <= np.nanmin(ys) + _MOST_ABOVE]
    return Chart(
        name="rates",
        title="Final loss over the learning rate",
        alt="Final held-out loss over the learning rate: "
        + "; ".join(_in_words(sweep) for _, sweep in swept)
        + ".",
        caption="Points: the mean final loss on the seeds that every rate has. Diamonds: the rate "
        "that was chosen, with the loss of the runs that are compared. Dotted: a parabola in the "
        "rate's logarithm through the best rate and its neighbours.",
        x_label="learning rate",
        y_label=f"held-out loss ({findings.unit})",
        lines=tuple(lines),
        dots=tuple(dot for group, sweep in swept for dot in _chosen(findings, group, sweep)),
        x_range=(ticks[0] / _BEYOND, ticks[-1] * _BEYOND),
        y_range=around(shown, (), 0.0),
        x_log=True,
        x_ticks=ticks,
    )


def _lines(findings: Findings, group: Group, sweep: RateSweep) -> Iterator[Line]:
    colour = colour_of(findings, group) or SOFT
    rates = np.array(sweep.rates)
    yield Line(sweep.name, rates, np.array(sweep.losses), colour, marked=True)
    found = parabola(sweep)
    if found is not None and found.coefficients is not None:
        xs = np.geomspace(rates[0], rates[-1], _DRAWN)
        yield Line(f"{sweep.name}: {_optimum(found)}", xs, found.losses(xs), colour, 1.5, "dot")


def _chosen(findings: Findings, group: Group, sweep: RateSweep) -> Iterator[Dot]:
    loss = final_loss(group)
    if loss is not None:
        colour = colour_of(findings, group) or SOFT
        name = f"{sweep.name}: {shown_rate(sweep.best.rate)} chosen"
        yield Dot(name, sweep.best.rate, loss, None, None, colour)


def _optimum(found: LogParabola) -> str:
    at = f", the {found.edge} tried" if found.edge else ""
    return f"optimum {found.optimum:.2g}{at}"


def _in_words(sweep: RateSweep) -> str:
    told = [formats.loss(loss) if np.isfinite(loss) else DIVERGED for loss in sweep.losses]
    pairs = zip(told, map(shown_rate, sweep.rates), strict=True)
    return f"{sweep.name} " + ", ".join(f"{loss} at {rate}" for loss, rate in pairs)
