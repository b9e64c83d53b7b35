"""Scores on tasks and texts, where both sides have spent equally and where losses are equal.

The one idea: a run at a step is its evaluations around that step, weighted; a side is the mean of
its runs. So a difference is a sum of evaluations with weights, and where all of them are of the
very same items it is known item by item: what is hard for both sides moves neither. Between seeds
the error is that of the runs' scores; the two errors are of different causes and add up. (What
seeds do to single items is in both of them, which makes intervals a little wide.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tst_megatron.analysis.compare.courses import along
from tst_megatron.analysis.compare.equal_budget import step_of
from tst_megatron.analysis.compare.group_curve import decay_share, why_unlike
from tst_megatron.analysis.compare.result import (
    AT_ENDS,
    AT_FLOPS,
    AT_LOSS,
    AT_STEPS,
    EqualFlops,
    EqualSteps,
    ScoreRow,
    ScoresAt,
)
from tst_megatron.analysis.compare.rows import Rows
from tst_megatron.runs.evaluations import Evaluation, Items, Score, read_items
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.weighted_mean import (
    Variance,
    influences,
    interval_of,
    variance_of,
)

PAIRED, NOT_PAIRED, BY_SEED = "paired by item", "not paired by item", "paired by seed"
# A checkpoint so near to a step is that step's: the last one may be before the last evaluation.
_NEAR = 0.01
# As of curves: with fewer pairs there are too few degrees of freedom.
_FEWEST_PAIRS = 3


@dataclass(frozen=True)
class _Point:
    """A run at a step: evaluations of one task with weights that sum to 1."""

    run: RecordedRun
    parts: tuple[tuple[float, Evaluation], ...]

    def score(self, metric: str) -> float:
        """Straight between evaluations; NaN where one has none."""
        values = [(weight, one.scores[metric].value) for weight, one in self.parts]
        return sum(weight * (np.nan if v is None else v) for weight, v in values)

    def stderr(self, metric: str) -> float | None:
        """Of the score, as if both evaluations erred alike; None where one is not known."""
        errors = [(weight, one.scores[metric].stderr) for weight, one in self.parts]
        if any(error is None for _, error in errors):
            return None
        return sum(weight * (error or 0.0) for weight, error in errors)

    def influences(self, metric: str) -> dict[tuple[str, int], float] | None:
        """Of every item on the score; None where an evaluation's items are not there, or differ."""
        found = [(weight, read_items(one, metric)) for weight, one in self.parts]
        every = [(weight, items) for weight, items in found if items is not None]
        if len(every) < len(found) or len({frozenset(items.keys) for _, items in every}) > 1:
            return None
        moved: dict[tuple[str, int], float] = {}
        for weight, items in every:
            for key, value in _influences(items).items():
                moved[key] = moved.get(key, 0.0) + weight * value
        return moved


def _influences(items: Items) -> dict[tuple[str, int], float]:
    found = influences(items.values, items.weights).tolist()
    return dict(zip(items.keys, found, strict=True))


@dataclass(frozen=True)
class _Side:
    """A side at a step; where the step is itself uncertain, its copies.

    Attributes:
        rows: of its group.
        step: of the run.
        steps: ``[rows]``, copies of it; None where it is given.
    """

    rows: Rows
    step: float
    steps: Array | None = None

    @property
    def runs(self) -> tuple[RecordedRun, ...]:
        """That stand for the group."""
        return self.rows.curve.runs

    def points(self, task: str) -> list[_Point]:
        """Of its runs, those that were evaluated at the step or around it."""
        found = [(run, _at(_of(run, task), self.step)) for run in self.runs]
        return [_Point(run, parts) for run, parts in found if parts]

    def moved_by_step(self, task: str, metric: str) -> float:
        """The variance of the score because the step is not known exactly."""
        if self.steps is None:
            return 0.0
        known = self.steps[np.isfinite(self.steps)]
        scores = [
            np.interp(known, *np.array(told, np.float64).T)
            for run in self.runs
            if (told := [(e.step, e.scores[metric].value) for e in _of(run, task, metric)])
        ]
        return float(np.mean(scores, axis=0).var()) if scores and known.size else 0.0


def _of(run: RecordedRun, task: str, metric: str | None = None) -> list[Evaluation]:
    """A run's evaluations on a task, those alone that have a score of a metric."""
    return [
        one for one in run.evaluations if one.task == task and (metric is None or _has(one, metric))
    ]


def _has(evaluation: Evaluation, metric: str) -> bool:
    score = evaluation.scores.get(metric)
    return score is not None and score.value is not None


def _at(evaluations: Sequence[Evaluation], step: float) -> tuple[tuple[float, Evaluation], ...]:
    """The evaluation at a step, or the two around it; nothing where there are none."""
    nearest = min(evaluations, key=lambda one: abs(one.step - step), default=None)
    if nearest is None:
        return ()
    if abs(nearest.step - step) <= _NEAR * step:
        return ((1.0, nearest),)
    before = [one for one in evaluations if one.step < step]
    after = [one for one in evaluations if one.step > step]
    if not before or not after:
        return ()
    share = (step - before[-1].step) / (after[0].step - before[-1].step)
    return ((1 - share, before[-1]), (share, after[0]))


def compared_scores(
    baseline: Rows, candidate: Rows, equal: EqualFlops | EqualSteps, confidence: float
) -> tuple[list[ScoresAt], list[str]]:
    """Scores wherever both sides have some.

    Args:
        baseline: its first group.
        candidate: the candidate group.
        equal: where both have worked equally.
        confidence: of the intervals.

    Returns:
        One a place, and what a reader should know, a sentence each.
    """
    if not all(_was_evaluated(rows) for rows in (baseline, candidate)):
        return [], []
    notes: list[str] = []

    def at(place: str, amount: float | None, at_end: bool, *sides: _Side) -> ScoresAt:
        shares = [decay_share(side.rows.curve, side.step) for side in sides]
        rows = tuple(_rows(sides[0], sides[1], confidence))
        notes.extend(_left_out(sides, rows))
        return ScoresAt(place, amount, at_end, rows, why_unlike(shares[0], shares[1]))

    ends = [_Side(rows, float(rows.steps[-1])) for rows in (baseline, candidate)]
    name = "flops" if isinstance(equal, EqualFlops) else "steps"
    amount = equal.flops if isinstance(equal, EqualFlops) else equal.steps
    places: list[ScoresAt] = []
    if amount is not None:
        sides = [_Side(r, step_of(r, name, amount)) for r in (baseline, candidate)]
        place = AT_FLOPS if name == "flops" else AT_STEPS
        places.append(at(place, amount, equal.at_end, *sides))
    if not equal.at_end:
        places.append(at(AT_ENDS, None, True, *ends))
    level, sides = _at_equal_loss(baseline, candidate)
    if sides:
        places.append(at(AT_LOSS, level, False, *sides))
    return [one for one in places if one.rows], list(dict.fromkeys(notes))


def _was_evaluated(rows: Rows) -> bool:
    return any(run.evaluations for run in rows.curve.runs)


def _at_equal_loss(baseline: Rows, candidate: Rows) -> tuple[float, list[_Side]]:
    """The higher of the final losses, which both reached, and where; nothing where that is at the
    ends of both, or before the lower one's first evaluation."""
    is_candidate = bool(candidate.finals[0] < baseline.finals[0])
    lower, other = (candidate, baseline) if is_candidate else (baseline, candidate)
    steps = along(lower).crossing(other.finals)
    end = float(lower.steps[-1])
    level = float(other.finals[0])
    if not np.isfinite(steps[0]) or not lower.losses[0, 0] > level or steps[0] >= (1 - _NEAR) * end:
        return level, []
    there = _Side(lower, float(steps[0]), np.minimum(steps, end))
    here = _Side(other, float(other.steps[-1]))
    return level, [here, there] if is_candidate else [there, here]


def _rows(baseline: _Side, candidate: _Side, confidence: float) -> Iterator[ScoreRow]:
    tasks = dict.fromkeys(e.task for run in candidate.runs for e in run.evaluations)
    for task in tasks:
        points = baseline.points(task), candidate.points(task)
        if not all(points):
            continue
        parts = [one for side in points for point in side for _, one in point.parts]
        for metric, score in points[1][-1].parts[-1][1].scores.items():
            if all(_has(one, metric) for one in parts):
                moved = [side.moved_by_step(task, metric) for side in (baseline, candidate)]
                yield _row(task, metric, score, points, moved, confidence)


def _row(
    task: str,
    metric: str,
    score: Score,
    points: tuple[list[_Point], list[_Point]],
    moved: Sequence[float],
    confidence: float,
) -> ScoreRow:
    values = [np.array([point.score(metric) for point in side]) for side in points]
    means = [float(of_side.mean()) for of_side in values]
    by_step = [[Variance(one, np.inf)] if one else [] for one in moved]
    items = [_item_variance([side], [1.0], metric) for side in points]
    seeds = _seed_variances(values)
    sides = [
        interval_of(mean, [*_known(of_items), *of_seeds, *of_step], confidence)
        if of_items or of_seeds
        else Interval(mean)
        for mean, of_items, of_seeds, of_step in zip(means, items, seeds, by_step, strict=True)
    ]
    paired = _item_variance(points, [-1.0, 1.0], metric, needs_items=True)
    by_item = _known(paired) or [*_known(items[0]), *_known(items[1])]
    by_seed, is_by_seed = _difference_of_seeds(points, values, seeds)
    known = bool(paired or all(items) or by_seed)
    how = [PAIRED if paired else NOT_PAIRED, *([BY_SEED] if is_by_seed else [])]
    parts = [*by_item, *by_seed, *by_step[0], *by_step[1]]
    difference = means[1] - means[0]
    return ScoreRow(
        task,
        metric,
        score.higher_is_better,
        score.chance,
        sides[0],
        sides[1],
        interval_of(difference, parts, confidence) if known else Interval(difference),
        tuple(how),
    )


def _known(variance: Variance | None) -> list[Variance]:
    return [] if variance is None else [variance]


def _item_variance(
    sides: Sequence[Sequence[_Point]],
    signs: Sequence[float],
    metric: str,
    needs_items: bool = False,
) -> Variance | None:
    """Of a sum of sides' means, because other items might have been asked.

    Item by item where every run has the same ones; else, of a single side, as if its runs had:
    then their errors are one error. None where it is not known.
    """
    found = [[point.influences(metric) for point in side] for side in sides]
    flat = [one for side in found for one in side]
    first = flat[0]
    if first is not None and all(one is not None and one.keys() == first.keys() for one in flat):
        total = np.zeros(len(first))
        for side, sign in zip(found, signs, strict=True):
            for one in side:
                assert one is not None
                total += sign / len(side) * np.array([one[key] for key in first])
        return variance_of(total)
    if needs_items:
        return None
    errors = [error for point in sides[0] if (error := point.stderr(metric)) is not None]
    parts = [one for point in sides[0] for _, one in point.parts]
    counts = [n for one in parts if (n := one.scores[metric].n)]
    if len(errors) < len(sides[0]) or not counts:
        return None
    return Variance(float(np.mean(errors)) ** 2, max(1.0, min(counts) - 1.0))


def _seed_variances(values: Sequence[Array]) -> list[list[Variance]]:
    """Of each side's mean, because of its seeds; a side of one run has another's spread."""
    spreads = [(float(one.var(ddof=1)), len(one) - 1.0) for one in values if len(one) > 1]
    if not spreads:
        return [[], []]
    most = max(spreads, key=lambda spread: spread[1])
    found = []
    for one in values:
        spread, freedom = (float(one.var(ddof=1)), len(one) - 1.0) if len(one) > 1 else most
        found.append([Variance(spread / len(one), freedom)])
    return found


def _difference_of_seeds(
    points: tuple[list[_Point], list[_Point]],
    values: Sequence[Array],
    seeds: Sequence[list[Variance]],
) -> tuple[list[Variance], bool]:
    """Of the difference, because of seeds; and whether pairs of one seed are what it is of."""
    names = [[point.run.facts.seed for point in side] for side in points]
    same = set(names[0]) == set(names[1]) and None not in names[0]
    if same and len(names[0]) == len(names[1]) == len(set(names[0])) >= _FEWEST_PAIRS:
        ours = dict(zip(names[1], values[1], strict=True))
        apart = np.array([ours[n] - v for n, v in zip(names[0], values[0], strict=True)])
        return [Variance(float(apart.var(ddof=1)) / len(apart), len(apart) - 1.0)], True
    return [*seeds[0], *seeds[1]], False


def _left_out(sides: Sequence[_Side], rows: Sequence[ScoreRow]) -> Iterator[str]:
    """Runs that have no score where others have one, a sentence a task."""
    for task in dict.fromkeys(row.task for row in rows):
        for side in sides:
            there = {point.run.name for point in side.points(task)}
            missing = [run.name for run in side.runs if run.name not in there]
            if missing:
                yield (
                    f"The scores of {task} at step {side.step:,.0f} leave out "
                    f"{', '.join(missing)}: no score there."
                )
