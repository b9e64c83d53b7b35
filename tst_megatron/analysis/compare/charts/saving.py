"""The saving by loss, and the loss difference at equal FLOPs, along the runs."""

import numpy as np
from numpy.typing import NDArray

from tst_megatron.analysis.compare.amounts import FLOPS, GPU_HOURS, STEPS, Amount
from tst_megatron.analysis.compare.charts.palette import colour_of
from tst_megatron.analysis.compare.result import Comparison, Findings
from tst_megatron.analysis.compare.sentences import marks
from tst_megatron.report.chart import (
    MARGIN,
    Chart,
    Dot,
    Figures,
    Line,
    Rule,
    around,
    on_open_ends,
    thin,
)
from tst_megatron.statistics.array import Array

_NO_SAVING = 1.0
# Of `Saving`: the ratios and the ends of their intervals.
_FIELDS = {
    STEPS: ("step_ratios", "lows", "highs"),
    GPU_HOURS: ("gpu_hours_ratios", "gpu_hours_lows", "gpu_hours_highs"),
}
_STEPS_ALONE = " In steps alone: the two sides' hours are not of the same hardware."
# For the ends of intervals, beyond the figures.
_ROOM_FOR_RATIOS, _ROOM_FOR_LOSSES = 2.0, 0.2


def saving_chart(findings: Findings, amount: Amount) -> Chart | None:
    """The baseline's amount over the candidate's by loss, the headline as a point.

    Args:
        findings: what to show.
        amount: steps or GPU hours.

    Returns:
        None without either.
    """
    lines, figures, dots = [], [], []
    for comparison in findings.comparisons:
        colour = colour_of(findings, comparison.candidate)
        if colour is None:
            continue
        name, losses = comparison.candidate.name, comparison.saving.losses
        ratios, lows, highs = (getattr(comparison.saving, field) for field in _FIELDS[amount])
        if np.isfinite(ratios).any():
            lines.append(Line(name, *thin(losses, ratios), colour))
            figures.append(Figures(name, colour, losses, ratios, lows, highs))
        dots += _headline_dot(comparison, amount, colour, len(findings.comparisons) == 1)
    if not lines and not dots:
        return None
    xs = np.concatenate([*(line.xs for line in lines), [dot.x for dot in dots]])
    ys = np.concatenate([*(line.ys for line in lines), [dot.y for dot in dots], [_NO_SAVING]])
    ends = [end for dot in dots for end in (dot.low, dot.high)]
    ends += [end for one in figures for end in (*one.lows, *one.highs)]
    y_range = around(ys, ends, _ROOM_FOR_RATIOS)
    return Chart(
        name="saving" if amount is STEPS else f"saving-{amount.field.replace('_', '-')}",
        title=f"Saving of {amount.label} by loss",
        alt=f"{amount.label} of the baseline over those of the candidate by held-out loss, the "
        f"runs' ends at the right: {_in_words(lines, dots)}.",
        caption="Training goes on to the right, as the loss falls. Lines: along the runs, with the "
        "learning rate still high in the stable phase. Point: the headline. Where a band or a bar "
        f"holds 1, no difference is shown.{on_open_ends(figures, dots, y_range)}"
        + ("" if findings.clocks_compare else _STEPS_ALONE),
        x_label=f"held-out loss ({findings.unit})",
        y_label=f"{amount.label}: baseline ÷ candidate",
        lines=tuple(lines),
        bands=tuple(band for one in figures for band in one.bands(y_range)),
        dots=tuple(dots),
        rules=(Rule(_NO_SAVING, "y", "no saving"),),
        x_range=_falling(xs),
        y_range=y_range,
    )


def difference_chart(findings: Findings) -> Chart | None:
    """The candidate's loss less the baseline's at equal FLOPs, along the runs; None without."""
    told = [
        (one, colour)
        for one in findings.comparisons
        if (colour := colour_of(findings, one.candidate)) and one.equal_flops.along.size
    ]
    if not told:
        return None
    per, label = FLOPS.unit(max(float(one.equal_flops.along.max()) for one, _ in told))
    lines, figures = [], []
    for one, colour in told:
        found, name = one.equal_flops, one.candidate.name
        xs = found.along / per
        lines.append(Line(name, *thin(xs, found.differences), colour))
        figures.append(Figures(name, colour, xs, found.differences, found.lows, found.highs))
    late = [(one.equal_flops, _in_last_stage(one)) for one, _ in told]
    ys = np.concatenate([[0.0], *(found.differences[there] for found, there in late)])
    ends = [e for found, there in late for e in (*found.lows[there], *found.highs[there])]
    y_range = around(ys, ends, _ROOM_FOR_LOSSES)
    return Chart(
        name="difference",
        title="Loss difference at equal FLOPs",
        alt="The candidate's held-out loss less the baseline's over FLOPs: at the end "
        + "; ".join(f"{line.name} {line.ys[-1]:+.3f}" for line in lines)
        + ".",
        caption="Below 0, the candidate is ahead. Before its last stage the next-token loss may be "
        "a nat or more higher: that part is out of sight at first."
        f"{on_open_ends(figures, (), y_range)}",
        x_label=label,
        y_label=f"candidate − baseline ({findings.unit})",
        lines=tuple(lines),
        bands=tuple(band for one in figures for band in one.bands(y_range)),
        rules=(Rule(0.0, "y", "no difference"),),
        x_range=(0.0, max(float(line.xs.max()) for line in lines) * (1 + MARGIN / 2)),
        y_range=y_range,
    )


def _headline_dot(comparison: Comparison, amount: Amount, colour: str, alone: bool) -> list[Dot]:
    """The headline; of several groups only a marked one has a name of its own."""
    equal = comparison.equal_loss
    found = amount.ratio(equal)
    if equal.loss.value is None or found.value is None:
        return []
    words = ", ".join([equal.where, *marks(equal)])
    name = f"{comparison.candidate.name}: {words}"
    listed = alone or bool(marks(equal))
    return [Dot(name, equal.loss.value, found.value, found.low, found.high, colour, listed)]


def _in_last_stage(comparison: Comparison) -> NDArray[np.bool_]:
    """Which differences are at FLOPs beyond the last switch; all where that is not known."""
    found = comparison.equal_flops
    known = np.isfinite(found.differences)
    run = comparison.candidate.runs[0]
    switch = max((span.last_step for span in run.stages[:-1]), default=0)
    after = run.curve.flops[run.curve.steps > switch]
    late = known & (found.along > after[0]) if after.size else known
    return np.asarray(late if late.any() else known)


def _falling(xs: Array) -> tuple[float, float]:
    low, high = float(xs.min()), float(xs.max())
    margin = MARGIN / 2 * (high - low) or 0.05
    return high + margin, low - margin


def _in_words(lines: list[Line], dots: list[Dot]) -> str:
    ends = [f"{line.name} ends at {line.ys[-1]:.2f}" for line in lines]
    return "; ".join([*ends, *(f"{dot.name} {dot.y:.2f}" for dot in dots)])
