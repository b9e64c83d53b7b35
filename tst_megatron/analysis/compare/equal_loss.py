"""What each side needed to get to one loss.

The one idea: the loss is the candidate's final one and the candidate needed its whole run for it,
so the fair figure of the baseline is a whole run's too: how long a run, with its own decay, would
have ended there. Inside one run a loss that is met during the decay is met late, by a run not made
to end there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.compare.courses import Course, Fit, along, extended, whole_runs
from tst_megatron.analysis.compare.group_curve import decay_share, why_unlike
from tst_megatron.analysis.compare.in_bits import steps_compare
from tst_megatron.analysis.compare.result import BASELINE_FINAL, EqualLoss, Needed, SavingByLoss
from tst_megatron.analysis.compare.rows import Rows
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import interval

WHOLE_RUNS = "whole runs"
BY_LAW = "whole runs, by a fitted law"
ALONG = "along the run"
STABLE = "inside the stable phase"
DECAY = "inside the decay"
# Of the saving by loss.
_LOSSES = 48


@dataclass(frozen=True)
class Side:
    """What a side needed: steps ``[rows]``, and by name the costs of that many."""

    steps: Array
    cost: Callable[[str], Array]


def at_candidate_final(
    groups: tuple[Rows, ...], longest: Rows, candidate: Rows, fit: Fit | None, confidence: float
) -> EqualLoss:
    """The headline: whole runs where that can be told, else along the run.

    Args:
        groups: of the baseline, one a length, ascending, each lower than the one before.
        longest: of the baseline's whole runs, as low or not.
        candidate: the candidate group.
        fit: the baseline's law.
        confidence: of the intervals.

    Returns:
        Where the baseline does not get there and no law says when it would, what its longest run
        spent, at least, if that is longer than the candidate's; else neither reached nor
        extrapolated, and without figures. Reached and without figures where it was there by its
        first evaluation.
    """
    course, where, inside = _headline_course(groups, candidate.finals, fit)
    needed = course.crossing(candidate.finals)
    if not np.isfinite(needed[0]):
        return _beyond_the_longest(groups, longest, candidate, needed, confidence) or EqualLoss(
            loss=interval(candidate.finals, confidence), where=where
        )
    if _is_there_from_the_first(course, candidate.finals):
        return EqualLoss(loss=interval(candidate.finals, confidence), reached=True, where=where)
    extrapolated = bool(needed[0] > course.measured)
    ends = [(rows, float(rows.steps[-1])) for rows in groups]
    return _equal_loss(
        candidate.finals,
        Side(needed, lambda name: _paid(groups, name, needed)),
        _whole(candidate),
        confidence,
        reached=not extrapolated,
        extrapolated=extrapolated,
        whole_runs=len(course.lengths) > 1,
        where=where,
        rough=where == BY_LAW and fit is not None and fit.rough,
        unlike=_unlike(
            ends if inside is None else [(inside, float(needed[0]))],
            [(candidate, float(candidate.steps[-1]))],
        ),
    )


def _beyond_the_longest(
    groups: tuple[Rows, ...], longest: Rows, candidate: Rows, needed: Array, confidence: float
) -> EqualLoss | None:
    """What whole runs were not enough; None where the longest is no longer than the candidate's.

    None as well where a run was at the loss for a while, and could have been stopped there. In a
    copy in which one was, or got there, it counts with what that took, so that the lower ends hold
    what was measured and no law.
    """
    most = float(longest.steps[-1])
    lengths = groups if groups[-1] is longest else (*groups, longest)
    touched = np.min([_first_at(rows, candidate.finals) for rows in lengths], axis=0)
    if _length(longest, candidate) <= _length(candidate, longest) or np.isfinite(touched[0]):
        return None
    spent = np.minimum(np.minimum(needed, touched), most)
    found = _equal_loss(
        candidate.finals,
        Side(spent, lambda name: _paid(lengths, name, spent)),
        _whole(candidate),
        confidence,
        whole_runs=len(lengths) > 1,
        where=WHOLE_RUNS,
        at_least=True,
        unlike=_unlike([(longest, most)], [(candidate, float(candidate.steps[-1]))]),
    )
    opened = {
        name: replace(value, high=None)
        for name, value in vars(found).items()
        if name.endswith("_ratio")
    }
    spent_at_least = {n: replace(value, high=None) for n, value in vars(found.baseline).items()}
    return replace(found, baseline=Needed(**spent_at_least), **opened)


def _length(rows: Rows, other: Rows) -> float:
    """Of a group's run: in steps, or in FLOPs where the other group's steps are other work."""
    if steps_compare((*rows.curve.runs, *other.curve.runs)):
        return float(rows.steps[-1])
    return float(rows.curve.costs_at("flops", rows.steps[-1:]).mean())


def _first_at(rows: Rows, levels: Array) -> Array:
    """Steps ``[rows]`` of the first evaluation at the levels ``[rows]`` or below; infinite else."""
    is_at = rows.losses <= levels[:, None]
    return np.where(is_at.any(axis=1), rows.steps[is_at.argmax(axis=1)], np.inf)


def along_baseline(baseline: Rows, candidate: Rows, confidence: float) -> EqualLoss | None:
    """At the candidate's final loss inside one run of the baseline; None if it never gets there."""
    course = along(baseline)
    needed = course.crossing(candidate.finals)
    if not np.isfinite(needed[0]) or _is_there_from_the_first(course, candidate.finals):
        return None
    return _equal_loss(
        candidate.finals,
        Side(needed, lambda name: baseline.costs_at(name, needed)),
        _whole(candidate),
        confidence,
        reached=True,
        where=where_inside(baseline, needed[0]),
        unlike=_unlike([(baseline, float(needed[0]))], [(candidate, float(candidate.steps[-1]))]),
    )


def at_baseline_final(baseline: Rows, candidate: Rows, confidence: float) -> EqualLoss | None:
    """At the baseline's final loss inside the candidate's run; None if that ended above, or began
    below.
    """
    course = along(candidate)
    needed = course.crossing(baseline.finals)
    if not np.isfinite(needed[0]) or _is_there_from_the_first(course, baseline.finals):
        return None
    return _equal_loss(
        baseline.finals,
        _whole(baseline),
        Side(needed, lambda name: candidate.costs_at(name, needed)),
        confidence,
        reached=True,
        level=BASELINE_FINAL,
        where=where_inside(candidate, needed[0]),
        unlike=_unlike([(baseline, float(baseline.steps[-1]))], [(candidate, float(needed[0]))]),
    )


def _is_there_from_the_first(course: Course, levels: Array) -> bool:
    """The loss was met before it was looked at, so nobody knows when."""
    return not course.losses[0, 0] > levels[0]


def where_inside(rows: Rows, step: float) -> str:
    """In which part of its run a step lies, in words."""
    start = rows.curve.decay_start
    if rows.curve.runs[0].decay_start is None:
        return ALONG
    return STABLE if start is None or step <= start else DECAY


def _headline_course(
    groups: tuple[Rows, ...], levels: Array, fit: Fit | None
) -> tuple[Course, str, Rows | None]:
    """The course that the headline is read on, what it is called, and the run that it is inside."""
    laws = None if fit is None else fit.laws
    decays = any(rows.curve.decay_start is not None for rows in groups)
    course = None
    if len(groups) > 1 or (laws is not None and decays):
        course = whole_runs(groups, laws)
    # A loss above all of it says only that it was met before: along the run it is known when.
    if course is not None and course.losses[0, 0] > levels[0]:
        step = course.crossing(levels)[0]
        bracketed = len(groups) > 1 and course.lengths[0] <= step <= course.lengths[-1]
        return course, WHOLE_RUNS if bracketed else BY_LAW, None
    first = groups[0] if course is not None else groups[-1]
    course = extended(first, laws) if course is None and laws is not None else along(first)
    where = where_inside(first, min(course.crossing(levels)[0], float(first.steps[-1])))
    return course, where, first


def _unlike(baseline: list[tuple[Rows, float]], candidate: list[tuple[Rows, float]]) -> str:
    """The first pair of places that are not alike in their decay, in words."""
    shares = [
        [decay_share(rows.curve, step) for rows, step in side] for side in (baseline, candidate)
    ]
    found = [why_unlike(theirs, ours) for theirs in shares[0] for ours in shares[1]]
    return next(filter(None, found), "")


def _paid(groups: tuple[Rows, ...], name: str, steps: Array) -> Array:
    """Costs ``[rows]`` of so many steps: of the shortest group that ran as long, else the longest.

    Beyond the longest, at its mean cost of a step.
    """
    lengths = [rows.steps[-1] for rows in groups]
    group = np.minimum(np.searchsorted(lengths, steps), len(groups) - 1)
    costs = np.array([rows.costs_at(name, steps) for rows in groups])
    return costs[group, np.arange(len(steps))]


def _whole(rows: Rows) -> Side:
    ends = np.full(len(rows.losses), rows.steps[-1])
    return Side(ends, lambda name: rows.costs_at(name, ends))


def _equal_loss(
    levels: Array, baseline: Side, candidate: Side, confidence: float, **told: bool | str
) -> EqualLoss:
    """Figures of both sides and their ratios, row by row."""

    def ratio(theirs: Array, ours: Array) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.where(ours > 0, theirs / ours, np.nan)
        # Where the candidate does not get there, how much less the baseline needs has no bound.
        return interval(np.where(np.isinf(ours), -np.inf, rows), confidence)

    def costs(name: str) -> tuple[Array, Array]:
        return baseline.cost(name), candidate.cost(name)

    return EqualLoss(
        loss=interval(levels, confidence),
        step_ratio=ratio(baseline.steps, candidate.steps),
        flops_ratio=ratio(*costs("flops")),
        wall_clock_ratio=ratio(*costs("wall_clock_s")),
        gpu_hours_ratio=ratio(*costs("gpu_hours")),
        baseline=_needed(baseline, confidence),
        candidate=_needed(candidate, confidence),
        **told,  # type: ignore[arg-type]  # names of EqualLoss, given above
    )


def _needed(side: Side, confidence: float) -> Needed:
    names = ("flops", "wall_clock_s", "gpu_hours", "data_tokens")
    return Needed(
        interval(side.steps, confidence),
        **{name: interval(side.cost(name), confidence) for name in names},
    )


def saving_by_loss(baseline: Rows, candidate: Rows, confidence: float) -> SavingByLoss:
    """Ratios at losses from the first that both sides came from above to, down to the last.

    Down to the higher of the two final losses: what both reached, nothing extrapolated.
    """
    start = min(baseline.losses[0, 0], candidate.losses[0, 0])
    end = max(baseline.finals[0], candidate.finals[0])
    if not start > end:
        nothing = np.array([])
        return SavingByLoss(nothing, nothing, nothing, nothing)
    # Close together near the end, where curves are flat and readers look.
    losses = end + (start - end) * np.linspace(1, 0, _LOSSES) ** 2
    courses = along(baseline), along(candidate)
    steps, hours = [], []
    for loss in losses:
        theirs, ours = (course.crossing(np.full(len(course.losses), loss)) for course in courses)
        steps.append(interval(_ratios(theirs, ours), confidence))
        paid = baseline.costs_at("gpu_hours", theirs), candidate.costs_at("gpu_hours", ours)
        hours.append(interval(_ratios(*paid), confidence))
    return SavingByLoss(losses, *_columns(steps), *_columns(hours))


def _ratios(theirs: Array, ours: Array) -> Array:
    """Baseline over candidate ``[rows]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.isinf(ours), -np.inf, theirs / ours)
    # In a copy where neither side gets there neither is ahead.
    return np.where(np.isinf(theirs) & np.isinf(ours), 1.0, ratios)


def _columns(found: list[Interval]) -> tuple[Array, Array, Array]:
    """Values and ends; NaN for what is not there."""
    ends = [(one.value, one.low, one.high) for one in found]
    values, lows, highs = np.array(ends, dtype=np.float64).T
    return values, lows, highs
