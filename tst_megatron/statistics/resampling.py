"""Perturbed copies of curves: a bootstrap that keeps its promise with two or three readings.

The one idea: row 0 is the curve, every further row is the curve plus an error drawn from what is
known of its error, and whatever is worked out is worked out for all rows alike. The spread of a
figure over the rows is its uncertainty.

With several readings of a curve, such as runs of several seeds, the error is a random mix of the
readings' own deviations from their mean: its covariance is the readings' sample covariance over
their number, each reading's own error included. Resampling two or three readings themselves would
give too narrow an interval, by a lot: a spread of so few is itself uncertain. So each mix is
stretched by the root of nu over a chi-square variable of nu degrees of freedom, which makes every
linear figure's interval Student's, with Welch's and Satterthwaite's degrees of freedom where the
sides are independent. With one reading a side the error is that of its points, each on its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.smoothing import smoother

# Below this many common names, pairing leaves too few degrees of freedom: with two pairs the
# interval is 12.7 standard errors wide each way.
_FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Sample:
    """Several readings of one curve.

    Attributes:
        steps: ``[n]``, ascending.
        readings: ``[readings, n]``.
        stderrs: ``[n]``, above 0, of the mean reading by the error of its points alone.
        freedom: degrees of freedom of ``stderrs``: infinite where they are stated, 0 where no
            error is known.
        segments: ``[n]``, equal within a stretch that may be smoothed as one.
        names: of the readings, such as their seeds; None where one is not known.
    """

    steps: Array
    readings: Array
    stderrs: Array
    freedom: float
    segments: Array
    names: tuple[object, ...]


@dataclass(frozen=True)
class Copies:
    """A sample's curve and its perturbed copies.

    Attributes:
        curves: ``[rows, n]``, smooth.
        points: ``[rows, n]``, not smoothed.
        mix: ``[rows, readings]``: the share of each reading's deviation in a row; None where the
            error is that of the points.
        lender: which sample's readings these are, of a sample of one reading; None of all others.
    """

    curves: Array
    points: Array
    mix: Array | None
    lender: int | None = None


@dataclass(frozen=True)
class Drawn:
    """The copies of several samples, drawn together.

    Attributes:
        copies: of each sample.
        paired: readings of one name share their draws.
        between_readings: the error is that between readings; else that of points.
    """

    copies: tuple[Copies, ...]
    paired: bool
    between_readings: bool


def resample(samples: Sequence[Sample], draws: int, seed: int) -> Drawn:
    """Draw ``draws`` perturbed copies of every sample's curve.

    Args:
        samples: of two sides: the last is one side, the others are the other side, of which the
            first is paired with the last.
        draws: copies of each.
        seed: of the draws: the same arguments give the same copies.
    """
    rng = np.random.default_rng(seed)
    several = [place for place, sample in enumerate(samples) if len(sample.readings) > 1]
    paired = len(several) > 1 and _pairs(samples[0], samples[-1])
    spread = max(several, key=lambda place: len(samples[place].readings), default=None)
    stretch = _stretch(samples[:-1], samples[-1], paired, draws, rng)
    by_name: dict[object, Array] = {}

    def copies(sample: Sample) -> Copies:
        if spread is None:
            return _by_points(sample, draws, rng)
        if len(sample.readings) == 1:
            return replace(_with_spread_of(sample, samples[spread], stretch, rng), lender=spread)
        # Readings of one sample never share a draw: their deviations from its mean would cancel.
        if paired and _distinct(sample.names):
            normals = [by_name.setdefault(n, rng.standard_normal(draws)) for n in sample.names]
        else:
            normals = list(rng.standard_normal((len(sample.readings), draws)))
        return _between_readings(sample, np.array(normals).T, stretch)

    return Drawn(tuple(copies(sample) for sample in samples), paired, spread is not None)


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


def _pairs(one: Sample, other: Sample) -> bool:
    """Both have readings of the same names, enough of them, each once."""
    names = set(other.names)
    return (
        names == set(one.names)
        and _distinct(other.names)
        and _distinct(one.names)
        and len(names) >= _FEWEST_PAIRS
    )


def _distinct(names: tuple[object, ...]) -> bool:
    """All of them known, each once."""
    return None not in names and len(set(names)) == len(names)


def _stretch(
    side: Sequence[Sample], other: Sample, paired: bool, draws: int, rng: np.random.Generator
) -> Array:
    """The factor ``[draws]`` that makes normal mixes Student's."""
    largest = max(side, key=lambda sample: len(sample.readings))
    sides = [
        (len(sample.readings), sample.readings[:, -1])
        for sample in (largest, other)
        if len(sample.readings) > 1
    ]
    if not sides:
        return np.ones(draws)
    variances = np.array([finals.var(ddof=1) / readings for readings, finals in sides])
    freedoms = np.array([readings - 1.0 for readings, _ in sides])
    if paired or not variances.any():
        freedom = float(freedoms.min())
    else:
        freedom = float(variances.sum() ** 2 / (variances**2 / freedoms).sum())
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, draws)))


def _smooth(sample: Sample, points: Array, mix: Array | None) -> Copies:
    mean = sample.readings.mean(axis=0)
    matrix = smoother(sample.steps, mean, sample.stderrs, sample.segments)
    return Copies(points @ matrix.T, points, mix)


def _by_points(sample: Sample, draws: int, rng: np.random.Generator) -> Copies:
    errors = rng.standard_normal((draws, len(sample.steps))) * sample.stderrs
    if not sample.freedom:
        errors = np.full_like(errors, np.nan)
    elif np.isfinite(sample.freedom):
        errors *= np.sqrt(sample.freedom / rng.chisquare(sample.freedom, (draws, 1)))
    moved = sample.readings + np.vstack([np.zeros_like(sample.stderrs), errors])
    return _smooth(sample, moved, None)


def _between_readings(sample: Sample, normals: Array, stretch: Array) -> Copies:
    readings = len(sample.readings)
    share = normals * stretch[:, None] / np.sqrt(readings * (readings - 1))
    mix = np.vstack([np.zeros(readings), share])
    mean = sample.readings.mean(axis=0)
    return _smooth(sample, mean + mix @ (sample.readings - mean), mix)


def _with_spread_of(
    sample: Sample, spread: Sample, stretch: Array, rng: np.random.Generator
) -> Copies:
    """One reading, as uncertain as a reading of the other sample is, step by step."""
    readings = len(spread.readings)
    apart = spread.readings - spread.readings.mean(axis=0)
    apart = np.array([np.interp(sample.steps, spread.steps, reading) for reading in apart])
    share = rng.standard_normal((len(stretch), readings)) * stretch[:, None]
    mix = np.vstack([np.zeros(readings), share / np.sqrt(readings - 1)])
    return _smooth(sample, sample.readings + mix @ apart, mix)
