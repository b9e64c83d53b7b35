"""Held-out loss over what it took: GPU hours, FLOPs or data tokens.

The one idea: the end is where the runs differ, so the early descent and the high losses of stages
before the last start out of sight; the zoomable chart has them. Seeds are averaged step by step,
what they took to get there as well as the loss, so a slow run moves its points to the right and
does not bend the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from tst_megatron.analysis.compare.amounts import DATA_TOKENS, STEPS, Amount
from tst_megatron.analysis.compare.charts.palette import Shown, shown
from tst_megatron.analysis.compare.charts.switch import link_rules, switches
from tst_megatron.analysis.compare.group_curve import final_loss
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.result import Comparison, Findings
from tst_megatron.analysis.compare.sentences import UNLIKE, arrow_text
from tst_megatron.report import formats
from tst_megatron.report.chart import Arrow, Band, Chart, Line, Rule, thin
from tst_megatron.runs.run import Curve, RecordedRun
from tst_megatron.statistics.array import Array

_EARLY_SHARE = 0.15
_RECOVERY_SHARE = 0.05
_MARGIN = 0.06
# For the words under the arrow.
_ROOM_BELOW = 4
_MARKED_POINTS = 25
_FIT_POINTS = 200
_LAW = "#4d5156"
# An extrapolated point further out than this many times the longest run would squeeze the runs.
_FURTHEST = 3.5
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Mean:
    """The mean of a group's held-out losses, at the steps at which all its runs have one.

    Attributes:
        xs: float64 ``[n]``.
        losses: float64 ``[n]``, in the runs' unit.
        lows: the lowest run's; of a single run 95 % of its evaluation error below.
        highs: likewise above.
    """

    xs: Array
    losses: Array
    lows: Array
    highs: Array


def loss_chart(findings: Findings, amount: Amount) -> Chart | None:
    """The held-out losses over an amount; None where no run tells both.

    Args:
        findings: what to show.
        amount: what to lay them over.
    """
    groups = [one for one in shown(findings) if _has_points(one.group, amount)]
    if not groups:
        return None
    most = max(float(np.nanmax(getattr(run.curve, amount.field))) for run in _runs(groups, amount))
    per, label = amount.unit(most)
    best = findings.comparisons[0] if findings.comparisons else None
    crossing, right = _crossing(best, amount, most)
    return Chart(
        name=f"loss-{amount.field.replace('_', '-')}",
        title=f"Held-out loss over {amount.label}",
        alt=_alt(groups, amount),
        caption=_caption(groups, findings),
        x_label=label,
        y_label=f"held-out loss ({findings.unit})",
        lines=(
            *(line for one in groups for line in _lines(one, amount, per)),
            *_fitted(best, amount, per, right),
        ),
        bands=tuple(_band(one, amount, per) for one in groups),
        rules=(*_switches(findings, amount, per), *_equal_data(best, amount, per)),
        arrows=tuple(Arrow(a.start / per, a.end / per, a.y, a.text) for a in crossing),
        x_range=(0.0, right * (1 + _MARGIN) / per),
        y_range=_loss_range(_runs(_main(findings, groups), amount)),
    )


def no_losses() -> Chart:
    """What stands in the place of the losses before there are any."""
    title = "Held-out loss: no run has one yet"
    return Chart("loss", title, f"{title}.", "", STEPS.label, "held-out loss (nats a token)", ())


def mean_of(group: Group, amount: str) -> Mean:
    """The mean curve of a group.

    Args:
        group: of runs.
        amount: an attribute of `Curve` to lay it over, such as ``gpu_hours``.
    """
    curves = [run.curve for run in group.runs]
    steps = reduce(np.intersect1d, [curve.steps[known(curve, amount)] for curve in curves])
    places = [np.searchsorted(curve.steps, steps) for curve in curves]
    pairs = list(zip(curves, places, strict=True))
    xs = np.mean([getattr(curve, amount)[place] for curve, place in pairs], axis=0)
    losses = np.array([curve.losses[place] for curve, place in pairs])
    if len(curves) > 1:
        return Mean(xs, losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0))
    error = _NORMAL_95 * curves[0].stderrs[places[0]]
    return Mean(xs, losses[0], losses[0] - error, losses[0] + error)


def known(curve: Curve, amount: str) -> Array:
    """Which evaluations have a loss and the amount, bool ``[n]``."""
    return np.isfinite(curve.losses) & np.isfinite(getattr(curve, amount))


def _has_points(group: Group, amount: Amount) -> bool:
    return any(known(run.curve, amount.field).any() for run in group.runs)


def _runs(groups: Sequence[Shown], amount: Amount) -> list[RecordedRun]:
    runs = [run for one in groups for run in one.group.runs]
    return [run for run in runs if known(run.curve, amount.field).any()]


def _main(findings: Findings, groups: list[Shown]) -> list[Shown]:
    """The groups that the axes are made for: the baseline and the best candidate, if there."""
    ours = (*findings.baseline, *findings.candidate[:1])
    return [one for one in groups if any(one.group is group for group in ours)] or groups


def _lines(one: Shown, amount: Amount, per: float) -> list[Line]:
    """The mean and, behind it, each seed."""
    mean = mean_of(one.group, amount.field)
    xs, losses = thin(mean.xs / per, mean.losses)
    name = _legend(one.group)
    marked = 0 < losses.size <= _MARKED_POINTS
    lines = [Line(name, xs, losses, one.colour, dash=one.dash, marked=marked)]
    if len(one.group.runs) == 1:
        return lines
    for run in one.group.runs:
        here = known(run.curve, amount.field)
        xs, losses = thin(getattr(run.curve, amount.field)[here] / per, run.curve.losses[here])
        lines.append(Line(name, xs, losses, one.colour, width=0.8, dash=one.dash, faint=True))
    return lines


def _legend(group: Group) -> str:
    """With the final loss that the tables have: seeds need not end where their mean curve does."""
    final = final_loss(group)
    return group.name if final is None else f"{group.name}: {formats.loss(final)}"


def _band(one: Shown, amount: Amount, per: float) -> Band:
    mean = mean_of(one.group, amount.field)
    there = np.isfinite(mean.lows) & np.isfinite(mean.highs)
    xs = mean.xs[there] / per
    name = _legend(one.group)
    return Band(name, *_thinned_band(xs, mean.lows[there], mean.highs[there]), one.colour)


def _thinned_band(xs: Array, lows: Array, highs: Array) -> tuple[Array, Array, Array]:
    kept = np.isin(xs, thin(xs, highs - lows)[0])
    return xs[kept], lows[kept], highs[kept]


def _crossing(best: Comparison | None, amount: Amount, most: float) -> tuple[list[Arrow], float]:
    """The arrow from the baseline's amount to the candidate's, and how far right to show."""
    if best is None:
        return [], most
    baseline, candidate = amount.needed(best.equal_loss)
    level = best.equal_loss.loss.value
    if baseline is None or candidate is None or level is None or amount is DATA_TOKENS:
        return [], most
    start = min(baseline, _FURTHEST * most)
    text = arrow_text(best.equal_loss, amount)
    if start < baseline:
        text += "\nthe arrow begins further right"
    return [Arrow(start, candidate, level, text)], max(most, start)


def _fitted(best: Comparison | None, amount: Amount, per: float, right: float) -> list[Line]:
    """The longest baseline beyond its end, where its figures come from there.

    That is the law, moved to where the comparison found the crossing.
    """
    if best is None or best.fit is None or not best.equal_loss.extrapolated:
        return []
    longest = max(best.baseline, key=lambda group: group.num_steps)
    ends, last = mean_of(longest, amount.field), mean_of(longest, "steps").xs
    steps, level = best.equal_loss.baseline.steps.value, best.equal_loss.loss.value
    needed = amount.needed(best.equal_loss)[0]
    if not ends.xs.size or steps is None or level is None or needed is None or steps <= last[-1]:
        return []
    beyond = np.linspace(last[-1], steps, _FIT_POINTS)
    law = best.fit.floor + best.fit.scale * beyond**-best.fit.exponent
    xs = np.interp(beyond, [last[-1], steps], [ends.xs[-1], needed])
    inside = xs <= right
    losses = law[inside] - law[-1] + level
    return [Line("baseline, extrapolated", xs[inside] / per, losses, _LAW, dash="dot")]


def _switches(findings: Findings, amount: Amount, per: float) -> list[Rule]:
    """Where the best candidate group's first run went from one stage, or link, to the next."""
    if not findings.candidate:
        return []
    run = findings.candidate[0].runs[0]
    rules = [Rule(at / per, "x", text) for at, text in switches(run, amount.field)]
    return [*rules, *link_rules(run, amount.field, per)]


def _equal_data(best: Comparison | None, amount: Amount, per: float) -> list[Rule]:
    if best is None or amount is not DATA_TOKENS or best.equal_data.data_tokens is None:
        return []
    difference = best.equal_data.loss_difference
    if difference.value is None:
        return []
    shown = "no difference shown" if difference.holds(0) else f"{formats.signed(difference.value)}"
    if best.equal_data.unlike:
        shown += f", {UNLIKE}"
    return [Rule(best.equal_data.data_tokens / per, "x", f"equal data: {shown} ", at_foot=True)]


def _loss_range(runs: Sequence[RecordedRun]) -> tuple[float, float]:
    """Limits that hold the losses after the early descent and in ordinary stages, with a margin."""
    losses = np.concatenate([_late(run) for run in runs])
    low, high = float(losses.min()), float(losses.max())
    # Equal losses still need an axis with a height.
    margin = _MARGIN * (high - low) or 0.05
    return low - _ROOM_BELOW * margin, high + margin


def _late(run: RecordedRun) -> Array:
    curve = run.curve
    losses, steps = curve.losses[np.isfinite(curve.losses)], curve.steps[np.isfinite(curve.losses)]
    switch = max((span.last_step for span in run.stages[:-1]), default=0)
    # The recovery takes a while too.
    start = max(_EARLY_SHARE * steps[-1], switch + _RECOVERY_SHARE * steps[-1])
    late = losses[steps >= start]
    return late if late.size else losses


def _alt(groups: Sequence[Shown], amount: Amount) -> str:
    ends = "; ".join(_legend(one.group) for one in groups)
    return f"Held-out loss falls over {amount.label}. Final losses: {ends}."


def _caption(groups: Sequence[Shown], findings: Findings) -> str:
    sentences = {
        len(one.group.runs) > 1: (
            "Thick lines: the mean of the seeds, at the steps that all were evaluated at; thin: "
            "each; band: the lowest to the highest. Beside the names: the mean of the last losses."
            if len(one.group.runs) > 1
            else "Band of a single run: 95 % of its evaluation error, where that is logged."
        )
        for one in groups
    }
    told = list(sentences.values())
    if findings.candidate and findings.candidate[0].runs[0].links:
        told.append(
            f"Names along dotted lines: where the links of {findings.candidate[0].runs[0].name} "
            "begin."
        )
    return " ".join(told)
