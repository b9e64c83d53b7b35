"""Perturbed copies of groups' curves: a bootstrap that keeps its promise with two or three seeds.

The one idea: row 0 is the curve, every further row is the curve plus an error drawn from what is
known of its error, and whatever is worked out is worked out for all rows alike. The spread of a
figure over the rows is its uncertainty.

With several seeds the error is a random mix of the runs' own deviations from their mean: its
covariance is the runs' sample covariance over their number, evaluation error included. Resampling
two or three runs themselves would give too narrow an interval, by a lot: a spread of so few is
itself uncertain. So each mix is stretched by the root of nu over a chi-square variable of nu
degrees of freedom, which makes every linear figure's interval Student's, with Welch's and
Satterthwaite's degrees of freedom where the sides are independent. With one seed on each side the
error is the evaluations', each on its own.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.compare.group_curve import GroupCurve
from tst_megatron.statistics.interval import Array, Interval
from tst_megatron.statistics.smoothing import smoother

# Below this many common seeds, pairing leaves too few degrees of freedom: with two pairs the
# interval is 12.7 standard errors wide each way.
_FEWEST_PAIRS = 3


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


@dataclass(frozen=True)
class Resampled:
    """All groups' rows, drawn together.

    Attributes:
        baselines: rows of each baseline group.
        tst: of the TST group.
        paired: runs of one seed share their draws.
        between_seeds: the error is that between seeds; else that of evaluations.
        borrowed: names of groups of one run that took their seeds' spread from another group.
    """

    baselines: tuple[Rows, ...]
    tst: Rows
    paired: bool
    between_seeds: bool
    borrowed: tuple[str, ...]


def resample(
    baselines: tuple[GroupCurve, ...], tst: GroupCurve, draws: int, seed: int
) -> Resampled:
    """Draw ``draws`` perturbed copies of every group's curve."""
    rng = np.random.default_rng(seed)
    several = [curve for curve in (*baselines, tst) if len(curve.runs) > 1]
    paired = len(several) > 1 and _pairs(baselines[0], tst)
    spread = max(several, key=lambda curve: len(curve.runs), default=None)
    stretch = _stretch(baselines, tst, paired, draws, rng)
    by_seed: dict[object, Array] = {}
    borrowed = []

    def rows(curve: GroupCurve) -> Rows:
        if spread is None:
            return _by_evaluations(curve, draws, rng)
        if len(curve.runs) == 1:
            borrowed.append(curve.group.name)
            return _with_spread_of(curve, spread, stretch, rng)
        # Runs of one group never share a draw: their deviations from its mean would cancel.
        if paired and _distinct(curve.seeds):
            normals = [by_seed.setdefault(name, rng.standard_normal(draws)) for name in curve.seeds]
        else:
            normals = list(rng.standard_normal((len(curve.runs), draws)))
        return _between_seeds(curve, np.array(normals).T, stretch)

    drawn = [rows(curve) for curve in (*baselines, tst)]
    return Resampled(tuple(drawn[:-1]), drawn[-1], paired, spread is not None, tuple(borrowed))


def interval(rows: Array, confidence: float) -> Interval:
    """A figure from its rows: the first, and the quantiles of the others.

    Args:
        rows: ``[rows]``; infinite where the figure has no bound, NaN where it is not known.
        confidence: such as 0.95.
    """
    value = float(rows[0])
    if not np.isfinite(value):
        return Interval()
    if np.isnan(rows[1:]).any() or len(rows) == 1:
        return Interval(value)
    copies = np.sort(rows[1:])
    # Of two copies beside a quantile the outer one.
    outer = math.floor((1 - confidence) / 2 * (len(copies) - 1))
    low, high = min(float(copies[outer]), value), max(float(copies[-1 - outer]), value)
    return Interval(value, low if np.isfinite(low) else None, high if np.isfinite(high) else None)


def _pairs(baseline: GroupCurve, tst: GroupCurve) -> bool:
    """Both sides ran the same seeds, enough of them, each once."""
    seeds = set(tst.seeds)
    return (
        seeds == set(baseline.seeds)
        and _distinct(tst.seeds)
        and _distinct(baseline.seeds)
        and len(seeds) >= _FEWEST_PAIRS
    )


def _distinct(seeds: tuple[object, ...]) -> bool:
    """All of them known, each once."""
    return None not in seeds and len(set(seeds)) == len(seeds)


def _stretch(
    baselines: tuple[GroupCurve, ...],
    tst: GroupCurve,
    paired: bool,
    draws: int,
    rng: np.random.Generator,
) -> Array:
    """The factor ``[draws]`` that makes normal mixes Student's."""
    baseline = max(baselines, key=lambda curve: len(curve.runs))
    sides = [(len(c.runs), c.losses[:, -1]) for c in (baseline, tst) if len(c.runs) > 1]
    if not sides:
        return np.ones(draws)
    variances = np.array([finals.var(ddof=1) / runs for runs, finals in sides])
    freedoms = np.array([runs - 1.0 for runs, _ in sides])
    if paired or not variances.any():
        freedom = float(freedoms.min())
    else:
        freedom = float(variances.sum() ** 2 / (variances**2 / freedoms).sum())
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, draws)))


def _smooth(curve: GroupCurve, points: Array, mix: Array | None) -> Rows:
    mean = curve.losses.mean(axis=0)
    matrix = smoother(curve.steps, mean, curve.stderrs, curve.segments)
    return Rows(curve, points @ matrix.T, points, mix)


def _by_evaluations(curve: GroupCurve, draws: int, rng: np.random.Generator) -> Rows:
    errors = rng.standard_normal((draws, len(curve.steps))) * curve.stderrs
    if not curve.freedom:
        errors = np.full_like(errors, np.nan)
    elif np.isfinite(curve.freedom):
        errors *= np.sqrt(curve.freedom / rng.chisquare(curve.freedom, (draws, 1)))
    return _smooth(curve, curve.losses + np.vstack([np.zeros_like(curve.stderrs), errors]), None)


def _between_seeds(curve: GroupCurve, normals: Array, stretch: Array) -> Rows:
    runs = len(curve.runs)
    mix = np.vstack([np.zeros(runs), normals * stretch[:, None] / np.sqrt(runs * (runs - 1))])
    mean = curve.losses.mean(axis=0)
    return _smooth(curve, mean + mix @ (curve.losses - mean), mix)


def _with_spread_of(
    curve: GroupCurve, spread: GroupCurve, stretch: Array, rng: np.random.Generator
) -> Rows:
    """One run, as uncertain as a run of the other group is: its losses step by step, its costs."""
    runs = len(spread.runs)
    apart = spread.losses - spread.losses.mean(axis=0)
    apart = np.array([np.interp(curve.steps, spread.steps, run) for run in apart])
    mix = rng.standard_normal((len(stretch), runs)) * stretch[:, None] / np.sqrt(runs - 1)
    mix = np.vstack([np.zeros(runs), mix])
    return replace(_smooth(curve, curve.losses + mix @ apart, mix), lender=spread)
