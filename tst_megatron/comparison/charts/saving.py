"""The saving by loss, and the loss difference at equal FLOPs, along the runs."""

import numpy as np

from tst_megatron.comparison.charts.amounts import FLOPS
from tst_megatron.comparison.charts.chart import Band, Chart, Dot, Line, Rule
from tst_megatron.comparison.charts.palette import colour_of
from tst_megatron.comparison.charts.thinning import thin
from tst_megatron.comparison.findings import Findings
from tst_megatron.comparison.result import Comparison
from tst_megatron.comparison.run import Array
from tst_megatron.comparison.sentences import marks

_MARGIN = 0.1
_NO_SAVING = 1.0


def saving_chart(findings: Findings) -> Chart | None:
    """Steps of the baseline over TST's by loss, the headline as a point; None without either."""
    lines, bands, dots = [], [], []
    for comparison in findings.comparisons:
        colour = colour_of(findings, comparison.tst)
        if colour is None:
            continue
        found = comparison.saving
        if found.losses.size:
            xs, ratios = thin(found.losses, found.step_ratios)
            lines.append(Line(comparison.tst.name, xs, ratios, colour))
            bands.append(_band(comparison.tst.name, found.losses, found.lows, found.highs, colour))
        dots += _headline_dot(comparison, colour, len(findings.comparisons) == 1)
    if not lines and not dots:
        return None
    xs = np.concatenate([*(line.xs for line in lines), [dot.x for dot in dots]])
    ys = np.concatenate([*(line.ys for line in lines), [dot.y for dot in dots], [_NO_SAVING]])
    return Chart(
        name="saving",
        title="Saving by loss",
        alt="Steps of the baseline over those of TST by held-out loss, the runs' ends at the "
        f"right: {_in_words(lines, dots)}.",
        caption="Training goes on to the right, as the loss falls. Lines: along the runs, with the "
        "learning rate still high in the stable phase. Point: the headline. Where a band or a bar "
        "holds 1, no difference is shown.",
        x_label="held-out loss (nats a token)",
        y_label="steps: baseline ÷ TST",
        lines=tuple(lines),
        bands=tuple(bands),
        dots=tuple(dots),
        rules=(Rule(_NO_SAVING, "y", "no saving"),),
        x_range=_falling(xs),
        y_range=_around(ys),
    )


def difference_chart(findings: Findings) -> Chart | None:
    """TST's loss less the baseline's at equal FLOPs, along the runs; None where neither is told."""
    told = [
        (one, colour)
        for one in findings.comparisons
        if (colour := colour_of(findings, one.tst)) and one.equal_flops.along.size
    ]
    if not told:
        return None
    per, label = FLOPS.unit(max(float(one.equal_flops.along.max()) for one, _ in told))
    lines, bands = [], []
    for one, colour in told:
        found = one.equal_flops
        xs, ys = thin(found.along / per, found.differences)
        lines.append(Line(one.tst.name, xs, ys, colour))
        bands.append(_band(one.tst.name, found.along / per, found.lows, found.highs, colour))
    late = np.concatenate([_after_bags(one) for one, _ in told])
    return Chart(
        name="difference",
        title="Loss difference at equal FLOPs",
        alt="TST's held-out loss less the baseline's over FLOPs: at the end "
        + "; ".join(f"{line.name} {line.ys[-1]:+.3f}" for line in lines)
        + ".",
        caption="Below 0, TST is ahead. In bags the next-token loss is a nat or more higher: that "
        "part is out of sight at first.",
        x_label=label,
        y_label="TST − baseline (nats a token)",
        lines=tuple(lines),
        bands=tuple(bands),
        rules=(Rule(0.0, "y", "no difference"),),
        x_range=(0.0, max(float(line.xs.max()) for line in lines) * (1 + _MARGIN / 2)),
        y_range=_around(np.concatenate([late, [0.0]])),
    )


def _headline_dot(comparison: Comparison, colour: str, alone: bool) -> list[Dot]:
    """The headline; of several groups only a marked one has a name of its own."""
    equal = comparison.equal_loss
    found = equal.step_ratio
    if equal.loss.value is None or found.value is None:
        return []
    words = ", ".join([equal.where, *marks(equal)])
    name = f"{comparison.tst.name}: {words}"
    listed = alone or bool(marks(equal))
    return [Dot(name, equal.loss.value, found.value, found.low, found.high, colour, listed)]


def _band(name: str, xs: Array, lows: Array, highs: Array, colour: str) -> Band:
    there = np.isfinite(lows) & np.isfinite(highs)
    return Band(name, xs[there], lows[there], highs[there], colour)


def _after_bags(comparison: Comparison) -> Array:
    """The differences at FLOPs beyond the last switch; all where that is not known."""
    found = comparison.equal_flops
    known = np.isfinite(found.differences)
    run = comparison.tst.runs[0]
    switch = max((phase.last_step for phase in run.phases[:-1]), default=0)
    after = run.curve.flops[run.curve.steps > switch]
    late = known & (found.along > after[0]) if after.size else known
    kept = found.differences[late]
    return kept if kept.size else found.differences[known]


def _falling(xs: Array) -> tuple[float, float]:
    low, high = float(xs.min()), float(xs.max())
    margin = _MARGIN / 2 * (high - low) or 0.05
    return high + margin, low - margin


def _around(ys: Array) -> tuple[float, float]:
    ys = ys[np.isfinite(ys)]
    low, high = float(ys.min()), float(ys.max())
    margin = _MARGIN * (high - low) or 0.05
    return low - margin, high + margin


def _in_words(lines: list[Line], dots: list[Dot]) -> str:
    ends = [f"{line.name} ends at {line.ys[-1]:.2f}" for line in lines]
    return "; ".join([*ends, *(f"{dot.name} {dot.y:.2f}" for dot in dots)])
