"""The mean of a few readings, and how far it may be from the truth by Student's t."""

from collections.abc import Collection
from math import sqrt

import numpy as np

from tst_megatron.statistics.f_test import student_quantile
from tst_megatron.statistics.interval import Interval


def mean_of(readings: Collection[float], confidence: float) -> Interval:
    """The mean of readings, with its interval.

    Args:
        readings: such as what each seed came to.
        confidence: of the interval, such as 0.95.

    Returns:
        Nothing of no reading; a mean without an interval of a single one.
    """
    values = np.array(list(readings), np.float64)
    if not values.size:
        return Interval()
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean)
    reach = student_quantile(confidence, values.size - 1)
    half = reach * float(values.std(ddof=1)) / sqrt(values.size)
    return Interval(mean, mean - half, mean + half)
