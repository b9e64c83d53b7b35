"""The loss difference where both sides have spent equally: FLOPs, steps, or data tokens.

The one idea: what is spent leads to a step of each side, and the step to its smooth loss.
"""

import math

import numpy as np

from tst_megatron.analysis.compare.group_curve import decay_share, why_unlike
from tst_megatron.analysis.compare.result import EqualData, EqualFlops, EqualSteps
from tst_megatron.analysis.compare.rows import Rows
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.crossing import values_at
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import interval

# Megatron sums FLOPs in floating point, so equal counts may differ in their last digits.
_TOLERANCE = 1e-6
_NONE = np.array([])


def equal_flops(baseline: Rows, candidate: Rows, confidence: float) -> EqualFlops:
    """At the largest FLOPs count that both sides have, and at evaluations up to there."""
    spent = _spent(baseline, "flops"), _spent(candidate, "flops")
    if spent[0] is None or spent[1] is None:
        return EqualFlops(Interval(), None, False, _NONE, _NONE, _NONE, _NONE)
    ends = float(spent[0][-1]), float(spent[1][-1])
    at_end = math.isclose(*ends, rel_tol=_TOLERANCE)
    last = min(ends)
    first = max(spent[0][0], spent[1][0])
    if first > last:
        return EqualFlops(Interval(), None, False, _NONE, _NONE, _NONE, _NONE)
    difference = _at_last(baseline, candidate, spent[0], spent[1], last)
    inner = spent[1][(spent[1] >= first) & (spent[1] < last * (1 - _TOLERANCE))]
    found = [
        interval(_difference(baseline, candidate, spent[0], spent[1], float(at)), confidence)
        for at in inner
    ] + [interval(difference, confidence)]
    values, lows, highs = (
        np.array([getattr(one, end) for one in found], dtype=np.float64)
        for end in ("value", "low", "high")
    )
    unlike = _unlike(baseline, candidate, "flops", last)
    return EqualFlops(found[-1], last, at_end, np.append(inner, last), values, lows, highs, unlike)


def equal_steps(baseline: Rows, candidate: Rows, confidence: float) -> EqualSteps | None:
    """At the largest number of steps that both sides have, where FLOPs are not known.

    Returns:
        None where they are, or the sides share no step.
    """
    if _spent(baseline, "flops") is not None and _spent(candidate, "flops") is not None:
        return None
    last = float(min(baseline.steps[-1], candidate.steps[-1]))
    if last < max(baseline.steps[0], candidate.steps[0]):
        return None
    difference = _at_last(baseline, candidate, baseline.steps, candidate.steps, last)
    return EqualSteps(
        interval(difference, confidence),
        last,
        bool(baseline.steps[-1] == candidate.steps[-1]),
        _unlike(baseline, candidate, "steps", last),
    )


def equal_data(
    groups: tuple[Rows, ...], candidate: Rows, confidence: float
) -> tuple[EqualData, Rows | None]:
    """At the largest count of data tokens that the candidate and a baseline group have both read.

    Args:
        groups: of the baseline; the first of those that read as much counts.
        candidate: the candidate group.
        confidence: of the interval.

    Returns:
        The figure, and the baseline group it is of.
    """
    best: tuple[float, Rows, Array] | None = None
    ours = _spent(candidate, "data_tokens")
    for rows in groups:
        theirs = _spent(rows, "data_tokens")
        if ours is None or theirs is None:
            continue
        last = float(min(ours[-1], theirs[-1]))
        if last >= max(ours[0], theirs[0]) and (best is None or last > best[0] * (1 + _TOLERANCE)):
            best = last, rows, theirs
    if best is None or ours is None:
        return EqualData(Interval(), None), None
    last, rows, theirs = best
    return (
        EqualData(
            interval(_difference(rows, candidate, theirs, ours, last), confidence),
            last,
            _unlike(rows, candidate, "data_tokens", last),
        ),
        rows,
    )


def step_of(rows: Rows, name: str, spent: float) -> float:
    """The step at which a group had spent so much; NaN where that is not known."""
    column = rows.steps if name == "steps" else _spent(rows, name)
    return float("nan") if column is None else _step_at(rows.steps, column, spent)


def _unlike(baseline: Rows, candidate: Rows, name: str, spent: float) -> str:
    shares = [decay_share(rows.curve, step_of(rows, name, spent)) for rows in (baseline, candidate)]
    return why_unlike(*shares)


def _spent(rows: Rows, name: str) -> Array | None:
    """Mean over the runs at each step of the curve; None where it is not known or does not rise."""
    spent = rows.curve.costs_at(name, rows.steps).mean(axis=0)
    if not np.isfinite(spent).all() or (np.diff(spent) <= 0).any():
        return None
    return np.asarray(spent)


def _at_last(baseline: Rows, candidate: Rows, theirs: Array, ours: Array, at: float) -> Array:
    """`_difference` at the largest count that both have; of the final losses if both end there."""
    if math.isclose(theirs[-1], ours[-1], rel_tol=_TOLERANCE):
        return candidate.finals - baseline.finals
    return _difference(baseline, candidate, theirs, ours, at)


def _difference(baseline: Rows, candidate: Rows, theirs: Array, ours: Array, at: float) -> Array:
    """candidate minus baseline ``[rows]`` where both have spent ``at``."""
    losses = [
        values_at(rows.steps, rows.losses, np.array([_step_at(rows.steps, spent, at)]))
        for rows, spent in ((baseline, theirs), (candidate, ours))
    ]
    return np.asarray(losses[1] - losses[0])


def _step_at(steps: Array, spent: Array, at: float) -> float:
    """Straight between evaluations; a last digit beyond the end is the end."""
    return float(np.interp(at, spent, steps))
