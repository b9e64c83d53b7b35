"""The held-out curves of a group's runs on one grid of steps, what a step cost them, their decay.

The one idea: the runs of a group are one curve with several readings. What is smoothed, fitted and
crossed is their mean; what they differ by is the uncertainty. And a decay at the end takes off a
loss what no steps before it could, so a loss after a decay set beside one before it shows the decay
and not the method. Where a side is known to have decayed and the other not, figures stay and
nothing is claimed of them.
"""

from dataclasses import dataclass

import numpy as np

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.resampling import Sample
from tst_megatron.statistics.smoothing import scatter

# A last evaluation so near to the end is the end.
_WHOLE = 0.99
# Shares of a decay that are as good as equal.
_ALIKE = 0.05
COSTS = ("flops", "wall_clock_s", "gpu_hours", "data_tokens")
"""Columns of a curve that a step is paid in."""


@dataclass(frozen=True)
class GroupCurve:
    """The runs of a group that have a final held-out loss.

    Attributes:
        group: they are of.
        runs: those of its runs.
        steps: ``[n]``, ascending: evaluations that all runs cover.
        losses: ``[runs, n]``, in the runs' unit.
        stderrs: ``[n]``, of the mean over the runs by evaluation error alone; 1 where no error is
            known, which is right for weights.
        freedom: degrees of freedom of ``stderrs``: infinite where the evaluations state theirs, 0
            where no error is known.
        segments: ``[n]``, number of the stretch without a phase switch or a start of decay in it.
        last_bad: the last step at which a run's held-out loss was not a number; 0 if none was.
    """

    group: Group
    runs: tuple[RecordedRun, ...]
    steps: Array
    losses: Array
    stderrs: Array
    freedom: float
    segments: Array
    last_bad: float

    @property
    def decay_start(self) -> float | None:
        """The step after which the curve holds a decay at the end; None if it is not known to."""
        start = self.runs[0].decay_start
        # A rate that stays at its highest to the last log has not been seen to decay.
        seen = min([self.steps[-1], *self.runs[0].steps.steps[-1:]])
        return None if start is None or start >= seen else float(start)

    @property
    def is_whole(self) -> bool:
        """Its last evaluation is the last there is of a whole run: no run was cut short."""
        return _at_end(self.steps, self.group.num_steps)

    @property
    def seeds(self) -> tuple[object, ...]:
        """Of the runs; None where the header does not say."""
        return tuple(seed_of(run) for run in self.runs)

    @property
    def sample(self) -> Sample:
        """What its copies are drawn from."""
        return Sample(
            self.steps, self.losses, self.stderrs, self.freedom, self.segments, self.seeds
        )

    def costs_at(self, name: str, steps: Array) -> Array:
        """What each run had paid after a number of steps.

        Straight between its evaluations; beyond its last one, and before its first, at the mean
        cost of a step so far.

        Args:
            name: one of `COSTS`.
            steps: ``[m]``.

        Returns:
            ``[runs, m]``; NaN where a run does not know.
        """
        return np.array([_cost(run, name, steps) for run in self.runs])


def runs_used(group: Group) -> tuple[RecordedRun, ...]:
    """The runs that stand for a group: those with a held-out loss at their end, after training.

    Where some of them came to the end of their plan, only those: a run cut short would cut the
    others short too, before their decay.
    """
    runs = tuple(run for run in group.runs if _ends(run))
    return tuple(run for run in runs if _came_to_its_end(run)) or runs


def group_curve(group: Group) -> GroupCurve | None:
    """Lay a group's runs over each other; None where none has a held-out loss at its end."""
    runs = runs_used(group)
    if not runs:
        return None
    points = [_points(run) for run in runs]
    first, last = max(steps[0] for steps, _, _ in points), min(steps[-1] for steps, _, _ in points)
    if first > last:
        # Runs that have no step in common are not one curve: the longest stands for them.
        longest = max(range(len(runs)), key=lambda index: points[index][0][-1])
        runs, points = (runs[longest],), [points[longest]]
        first, last = points[0][0][0], points[0][0][-1]
    coarsest = min((steps for steps, _, _ in points), key=len)
    inside = coarsest[(coarsest >= first) & (coarsest <= last)]
    grid = np.unique([*inside, last])
    losses = np.array([np.interp(grid, steps, values) for steps, values, _ in points])
    segments = _segments(runs[0], grid)
    stderrs, freedom = _stderrs(grid, losses, np.array([_at(grid, *p) for p in points]), segments)
    bad = [run.curve.steps[~np.isfinite(run.curve.losses)] for run in runs]
    last_bad = float(np.concatenate([[0.0], *bad]).max())
    return GroupCurve(group, runs, grid, losses, stderrs, freedom, segments, last_bad)


def final_loss(group: Group) -> float | None:
    """Mean of the last held-out losses of the runs that stand for a group; None without one."""
    ends = [loss for run in runs_used(group) if (loss := final(run)) is not None]
    return float(np.mean(ends)) if ends else None


def final(run: RecordedRun) -> float | None:
    """The last held-out loss of a run; None without one, or where it is not a number."""
    losses = run.curve.losses[-1:]
    return float(losses[0]) if np.isfinite(losses).any() else None


def decay_share(curve: GroupCurve, step: float) -> float | None:
    """The share of its decay that a group has behind it at a step; None if no decay is known of.

    Args:
        curve: of the group.
        step: of its runs; beyond their end as at their end.
    """
    if curve.runs[0].decay_start is None:
        return None
    start, end = curve.decay_start, curve.group.num_steps
    if start is None or step <= start:
        return 0.0
    if (curve.is_whole and step >= _WHOLE * curve.steps[-1]) or end <= start:
        return 1.0
    return float(min((step - start) / (end - start), 1.0))


def why_unlike(baseline: float | None, candidate: float | None) -> str:
    """What is wrong with setting the sides beside each other; nothing where nothing is known to be.

    Args:
        baseline: as of `decay_share`.
        candidate: likewise.
    """
    if baseline is None or candidate is None or abs(baseline - candidate) <= _ALIKE:
        return ""
    return (
        f"the candidate's learning rate {_decayed(candidate)} there and the baseline's "
        f"{_decayed(baseline)}"
    )


def _decayed(share: float) -> str:
    if share in (0, 1):
        return "has decayed" if share else "has not decayed"
    return f"is {100 * share:.0f} % through its decay"


def seed_of(run: RecordedRun) -> object:
    """The seed that a run's header names, or None."""
    seed = run.header.get("seed")
    return (run.header.get("flags") or {}).get("seed") if seed is None else seed


def diverged(run: RecordedRun) -> bool:
    """Its last evaluation is not a number, while an earlier one is."""
    known = np.isfinite(run.curve.losses)
    return bool(known.any() and not known[-1])


def is_untrained(run: RecordedRun) -> bool:
    """It was evaluated at step 0 alone: whatever training followed, nothing tells of it."""
    return bool(run.curve.steps.size and run.curve.steps[-1] <= 0)


def _ends(run: RecordedRun) -> bool:
    """There is a last evaluation after some training, and it is a number."""
    return bool(np.isfinite(run.curve.losses[-1:]).any()) and not is_untrained(run)


def _came_to_its_end(run: RecordedRun) -> bool:
    return _at_end(run.curve.steps, run.num_steps)


def _at_end(steps: Array, end: int) -> bool:
    """There is no room for another evaluation up to the end."""
    gap = steps[-1] - steps[-2] if len(steps) > 1 else 0
    return bool(steps[-1] >= end or steps[-1] + gap > end)


def _points(run: RecordedRun) -> tuple[Array, Array, Array]:
    use = np.isfinite(run.curve.losses)
    return run.curve.steps[use], run.curve.losses[use], run.curve.stderrs[use]


def _at(grid: Array, steps: Array, _: Array, stderrs: Array) -> Array:
    """Standard errors at the grid; NaN where the run has none above 0."""
    known = np.isfinite(stderrs) & (stderrs > 0)
    if not known.any():
        return np.full(len(grid), np.nan)
    return np.interp(grid, steps[known], stderrs[known])


def _stderrs(grid: Array, losses: Array, stated: Array, segments: Array) -> tuple[Array, float]:
    """Evaluation error of the mean curve, and its degrees of freedom.

    What the evaluations state, made larger by one factor where they scatter more than that
    (Birge's ratio, as the Particle Data Group does): a held-out loss also moves with the last
    batches trained on. Never made smaller: evaluations on one fixed set of sequences scatter less
    than their errors, and it is the errors that hold for other text.
    """
    mean = losses.mean(axis=0)
    if np.isfinite(stated).all():
        stderrs = np.sqrt((stated**2).sum(axis=0)) / len(stated)
        factor, _ = scatter(grid, mean, stderrs, segments)
        return stderrs * (factor if factor > 1 else 1.0), np.inf
    ones = np.ones(len(grid))
    found, freedom = scatter(grid, mean, ones, segments)
    if not freedom:
        return ones, 0.0
    return ones * max(found, _LEAST_ERROR), freedom


# Below what a logged loss is exact to, so that a smooth curve has a weight.
_LEAST_ERROR = 1e-7


def _segments(run: RecordedRun, grid: Array) -> Array:
    """The number of phase ends and decay starts that lie before each step."""
    ends = [span.last_step for span in run.stages[:-1]]
    if run.decay_start is not None:
        ends.append(run.decay_start)
    return np.searchsorted(np.unique(ends), grid, side="left").astype(np.float64)


def _cost(run: RecordedRun, name: str, steps: Array) -> Array:
    paid = getattr(run.curve, name)
    # A step that cost nothing was not counted.
    known = np.isfinite(paid) & (paid > 0) & (run.curve.steps > 0)
    if not known.any():
        return np.full(len(steps), np.nan)
    at, paid = run.curve.steps[known], paid[known]
    inside = np.interp(steps, at, paid)
    outside = np.where(steps < at[0], paid[0] / at[0], paid[-1] / at[-1]) * steps
    return np.asarray(np.where((steps < at[0]) | (steps > at[-1]), outside, inside))
