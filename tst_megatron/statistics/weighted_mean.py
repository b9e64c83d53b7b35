"""A mean of items that count differently, and how far another draw of items would move it.

The one idea: an item's influence is how much it moves the mean away from where it is, times the
number of items. Influences of several means over the same items add up as the means do, so that of
a difference the error is paired by item; and the error of a mean is the spread of its influences
over the root of their number (of a ratio of sums to the first order: Cochran, Sampling Techniques,
6.4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tst_megatron.statistics.array import Array
from tst_megatron.statistics.f_test import student_quantile
from tst_megatron.statistics.interval import Interval


@dataclass(frozen=True)
class Variance:
    """A part of a figure's error.

    Attributes:
        value: the square of a standard error.
        freedom: degrees of freedom that it is known with; infinite where it is given.
    """

    value: float
    freedom: float


def weighted_mean(values: Array, weights: Array) -> float:
    """The sum of ``values * weights`` over the sum of the weights, of items ``[n]``."""
    return float((values * weights).sum() / weights.sum())


def influences(values: Array, weights: Array) -> Array:
    """Of each item ``[n]`` on the weighted mean; their mean is 0."""
    apart = values - weighted_mean(values, weights)
    return apart * weights * (len(weights) / weights.sum())


def variance_of(influence: Array) -> Variance | None:
    """The error of a mean, or of a sum of means over the same items; None of a single item.

    Args:
        influence: ``[n]``, of each item.
    """
    n = len(influence)
    if n < 2:
        return None
    return Variance(float((influence**2).sum()) / (n * (n - 1)), n - 1.0)


def interval_of(value: float, parts: Sequence[Variance], confidence: float) -> Interval:
    """A figure whose error has several independent parts, by Student's t.

    Degrees of freedom are Welch's and Satterthwaite's. Where nothing varied, as where every answer
    was right, the figure has no interval: that no item differed says little of the next one.

    Args:
        value: the figure.
        parts: none where nothing is known of its error.
        confidence: such as 0.95.
    """
    total = sum(part.value for part in parts)
    if total <= 0:
        return Interval(value)
    known = sum(part.value**2 / part.freedom for part in parts if math.isfinite(part.freedom))
    freedom = total**2 / known if known > 0 else _AS_NORMAL
    half = student_quantile(confidence, min(freedom, _AS_NORMAL)) * math.sqrt(total)
    return Interval(value, value - half, value + half)


# Degrees of freedom from which on Student's t is the normal distribution to six digits.
_AS_NORMAL = 1e6
