"""What each side needed to get to one loss.

The one idea: the loss is TST's final one and TST needed its whole run for it, so the fair figure
of the baseline is a whole run's too: how long a run, with its own decay, would have ended there.
Inside one run a loss that is met during the decay is met late, by a run not made to end there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.compare.decays import decay_share, why_unlike
from tst_megatron.analysis.compare.paths import Fit, Path, along, extended, whole_runs
from tst_megatron.analysis.compare.resampling import Rows, interval
from tst_megatron.analysis.compare.result import BASELINE_FINAL, EqualLoss, Needed
from tst_megatron.statistics.interval import Array, Interval

WHOLE_RUNS = "whole runs"
BY_LAW = "whole runs, by a fitted law"
ALONG = "along the run"
STABLE = "inside the stable phase"
DECAY = "inside the decay"


@dataclass(frozen=True)
class Side:
    """What a side needed: steps ``[rows]``, and by name the costs of that many."""

    steps: Array
    cost: Callable[[str], Array]


def at_tst_final(
    groups: tuple[Rows, ...], longest: Rows, tst: Rows, fit: Fit | None, confidence: float
) -> EqualLoss:
    """The headline: whole runs where that can be told, else along the run.

    Args:
        groups: of the baseline, one a length, ascending, each lower than the one before.
        longest: of the baseline's whole runs, as low or not.
        tst: the TST group.
        fit: the baseline's law.
        confidence: of the intervals.

    Returns:
        Where the baseline does not get there and no law says when it would, what its longest run
        spent, at least, if that is longer than TST's; else neither reached nor extrapolated, and
        without figures. Reached and without figures where it was there by its first evaluation.
    """
    path, where, inside = _headline_path(groups, tst.finals, fit)
    needed = path.crossing(tst.finals)
    if not np.isfinite(needed[0]):
        return _beyond_the_longest(groups, longest, tst, needed, confidence) or EqualLoss(
            loss=interval(tst.finals, confidence), where=where
        )
    if _is_there_from_the_first(path, tst.finals):
        return EqualLoss(loss=interval(tst.finals, confidence), reached=True, where=where)
    extrapolated = bool(needed[0] > path.measured)
    ends = [(rows, float(rows.steps[-1])) for rows in groups]
    return _equal_loss(
        tst.finals,
        Side(needed, lambda name: _paid(groups, name, needed)),
        _whole(tst),
        confidence,
        reached=not extrapolated,
        extrapolated=extrapolated,
        whole_runs=len(path.lengths) > 1,
        where=where,
        rough=where == BY_LAW and fit is not None and fit.rough,
        unlike=_unlike(
            ends if inside is None else [(inside, float(needed[0]))],
            [(tst, float(tst.steps[-1]))],
        ),
    )


def _beyond_the_longest(
    groups: tuple[Rows, ...], longest: Rows, tst: Rows, needed: Array, confidence: float
) -> EqualLoss | None:
    """What whole runs were not enough; None where the longest is no longer than TST's.

    None as well where a run was at the loss for a while, and could have been stopped there. In a
    copy in which one was, or got there, it counts with what that took, so that the lower ends hold
    what was measured and no law.
    """
    most = float(longest.steps[-1])
    lengths = groups if groups[-1] is longest else (*groups, longest)
    touched = np.min([_first_at(rows, tst.finals) for rows in lengths], axis=0)
    if most <= tst.steps[-1] or np.isfinite(touched[0]):
        return None
    spent = np.minimum(np.minimum(needed, touched), most)
    found = _equal_loss(
        tst.finals,
        Side(spent, lambda name: _paid(lengths, name, spent)),
        _whole(tst),
        confidence,
        whole_runs=len(lengths) > 1,
        where=WHOLE_RUNS,
        at_least=True,
        unlike=_unlike([(longest, most)], [(tst, float(tst.steps[-1]))]),
    )
    opened = {
        name: replace(value, high=None)
        for name, value in vars(found).items()
        if name.endswith("_ratio")
    }
    spent_at_least = {n: replace(value, high=None) for n, value in vars(found.baseline).items()}
    return replace(found, baseline=Needed(**spent_at_least), **opened)


def _first_at(rows: Rows, levels: Array) -> Array:
    """Steps ``[rows]`` of the first evaluation at the levels ``[rows]`` or below; infinite else."""
    is_at = rows.losses <= levels[:, None]
    return np.where(is_at.any(axis=1), rows.steps[is_at.argmax(axis=1)], np.inf)


def along_baseline(baseline: Rows, tst: Rows, confidence: float) -> EqualLoss | None:
    """At TST's final loss inside one run of the baseline; None if it is not known to get there."""
    path = along(baseline)
    needed = path.crossing(tst.finals)
    if not np.isfinite(needed[0]) or _is_there_from_the_first(path, tst.finals):
        return None
    return _equal_loss(
        tst.finals,
        Side(needed, lambda name: baseline.costs_at(name, needed)),
        _whole(tst),
        confidence,
        reached=True,
        where=where_inside(baseline, needed[0]),
        unlike=_unlike([(baseline, float(needed[0]))], [(tst, float(tst.steps[-1]))]),
    )


def at_baseline_final(baseline: Rows, tst: Rows, confidence: float) -> EqualLoss | None:
    """At the baseline's final loss inside TST's run; None if TST ended above it, or began below."""
    path = along(tst)
    needed = path.crossing(baseline.finals)
    if not np.isfinite(needed[0]) or _is_there_from_the_first(path, baseline.finals):
        return None
    return _equal_loss(
        baseline.finals,
        _whole(baseline),
        Side(needed, lambda name: tst.costs_at(name, needed)),
        confidence,
        reached=True,
        level=BASELINE_FINAL,
        where=where_inside(tst, needed[0]),
        unlike=_unlike([(baseline, float(baseline.steps[-1]))], [(tst, float(needed[0]))]),
    )


def _is_there_from_the_first(path: Path, levels: Array) -> bool:
    """The loss was met before it was looked at, so nobody knows when."""
    return not path.losses[0, 0] > levels[0]


def where_inside(rows: Rows, step: float) -> str:
    """In which part of its run a step lies, in words."""
    start = rows.curve.decay_start
    if rows.curve.runs[0].decay_start is None:
        return ALONG
    return STABLE if start is None or step <= start else DECAY


def _headline_path(
    groups: tuple[Rows, ...], levels: Array, fit: Fit | None
) -> tuple[Path, str, Rows | None]:
    """The path on which the headline is read, what it is called, and the run that it is inside."""
    laws = None if fit is None else fit.laws
    decays = any(rows.curve.decay_start is not None for rows in groups)
    path = None
    if len(groups) > 1 or (laws is not None and decays):
        path = whole_runs(groups, laws)
    # A loss above all of it says only that it was met before: along the run it is known when.
    if path is not None and path.losses[0, 0] > levels[0]:
        step = path.crossing(levels)[0]
        bracketed = len(groups) > 1 and path.lengths[0] <= step <= path.lengths[-1]
        return path, WHOLE_RUNS if bracketed else BY_LAW, None
    first = groups[0] if path is not None else groups[-1]
    path = extended(first, laws) if path is None and laws is not None else along(first)
    where = where_inside(first, min(path.crossing(levels)[0], float(first.steps[-1])))
    return path, where, first


def _unlike(baseline: list[tuple[Rows, float]], tst: list[tuple[Rows, float]]) -> str:
    """The first pair of places that are not alike in their decay, in words."""
    shares = [[decay_share(rows.curve, step) for rows, step in side] for side in (baseline, tst)]
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
    levels: Array, baseline: Side, tst: Side, confidence: float, **told: bool | str
) -> EqualLoss:
    """Figures of both sides and their ratios, row by row."""

    def ratio(theirs: Array, ours: Array) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.where(ours > 0, theirs / ours, np.nan)
        # Where TST does not get there, how much less the baseline needs has no bound.
        return interval(np.where(np.isinf(ours), -np.inf, rows), confidence)

    def costs(name: str) -> tuple[Array, Array]:
        return baseline.cost(name), tst.cost(name)

    return EqualLoss(
        loss=interval(levels, confidence),
        step_ratio=ratio(baseline.steps, tst.steps),
        flops_ratio=ratio(*costs("flops")),
        wall_clock_ratio=ratio(*costs("wall_clock_s")),
        gpu_hours_ratio=ratio(*costs("gpu_hours")),
        baseline=_needed(baseline, confidence),
        tst=_needed(tst, confidence),
        **told,  # type: ignore[arg-type]  # names of EqualLoss, given above
    )


def _needed(side: Side, confidence: float) -> Needed:
    names = ("flops", "wall_clock_s", "gpu_hours", "data_tokens")
    return Needed(
        interval(side.steps, confidence),
        **{name: interval(side.cost(name), confidence) for name in names},
    )
