"""Groups' curves with their perturbed copies: what every figure of a comparison is worked out from.

The one idea: a figure is worked out for all rows alike, of which the first is the curve itself; the
spread over the others is its interval (`tst_megatron.statistics.resampling`).
"""

from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.compare.group_curve import GroupCurve
from tst_megatron.statistics import resampling
from tst_megatron.statistics.array import Array


@dataclass(frozen=True)
class Rows:
    """A group's curve and its perturbed copies.

    Attributes:
        curve: of the group.
        losses: ``[rows, n]``, smooth.
        points: ``[rows, n]``, not smoothed.
        mix: ``[rows, runs]``: the share of each run's deviation in a row; None where the error is
            the evaluations'.
        lender: whose runs' deviations these are, of a group of one run; None of all others.
    """

    curve: GroupCurve
    losses: Array
    points: Array
    mix: Array | None
    lender: GroupCurve | None = None

    @property
    def steps(self) -> Array:
        """``[n]``."""
        return self.curve.steps

    @property
    def finals(self) -> Array:
        """The loss at the end ``[rows]``."""
        return self.losses[:, -1]

    def costs_at(self, name: str, steps: Array) -> Array:
        """What the group had paid, on the mean of its runs, after each row's number of steps.

        Args:
            name: of the cost.
            steps: ``[rows]``; infinite costs infinitely much.
        """
        finite = np.isfinite(steps)
        each = self.curve.costs_at(name, np.where(finite, steps, 1.0))
        mean = each.mean(axis=0)
        if self.mix is not None:
            theirs = each
            if self.lender is not None:
                # A clock's spread is that of a whole run: one run says nothing of its own.
                theirs = self.lender.costs_at(name, self.lender.steps[-1:])
            with np.errstate(divide="ignore", invalid="ignore"):
                apart = (self.mix * np.log(theirs / theirs.mean(axis=0)).T).sum(axis=1)
            if self.lender is not None:
                apart = np.nan_to_num(apart)
            mean = mean * np.exp(np.clip(apart, -50, 50))
        return np.where(finite | np.isnan(mean), mean, steps)


@dataclass(frozen=True)
class Resampled:
    """All groups' rows, drawn together.

    Attributes:
        baselines: rows of each baseline group.
        candidate: of the candidate group.
        paired: runs of one seed share their draws.
        between_seeds: the error is that between seeds; else that of evaluations.
        borrowed: names of groups of one run that took their seeds' spread from another group.
    """

    baselines: tuple[Rows, ...]
    candidate: Rows
    paired: bool
    between_seeds: bool
    borrowed: tuple[str, ...]


def resample(
    baselines: tuple[GroupCurve, ...], candidate: GroupCurve, draws: int, seed: int
) -> Resampled:
    """Draw ``draws`` perturbed copies of every group's curve."""
    curves = (*baselines, candidate)
    drawn = resampling.resample([curve.sample for curve in curves], draws, seed)
    rows = [
        Rows(
            curve,
            copies.curves,
            copies.points,
            copies.mix,
            None if copies.lender is None else curves[copies.lender],
        )
        for curve, copies in zip(curves, drawn.copies, strict=True)
    ]
    return Resampled(
        tuple(rows[:-1]),
        rows[-1],
        drawn.paired,
        drawn.between_readings,
        tuple(one.curve.group.name for one in rows if one.lender is not None),
    )


def until(rows: Rows, step: float) -> Rows | None:
    """The same up to a step; None where there is no evaluation by then."""
    kept = rows.steps <= step
    if not kept.any():
        return None
    curve = rows.curve
    curve = replace(
        curve,
        steps=curve.steps[kept],
        losses=curve.losses[:, kept],
        stderrs=curve.stderrs[kept],
        segments=curve.segments[kept],
    )
    return replace(rows, curve=curve, losses=rows.losses[:, kept], points=rows.points[:, kept])
