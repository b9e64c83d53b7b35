"""Means of few readings, against Student's t as tables have it."""

from math import sqrt
from statistics import fmean, stdev

import numpy as np
import pytest

from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.student import mean_of

REACHES = {2: 12.7062, 3: 4.30265, 5: 2.77645}


@pytest.mark.parametrize("count", REACHES)
def test_an_interval_reaches_as_far_as_students_t_says(count: int) -> None:
    readings = [0.3, -0.1, 0.25, 0.4, 0.05][:count]
    found = mean_of(readings, 0.95)
    half = REACHES[count] * stdev(readings) / sqrt(count)
    assert found.value == pytest.approx(fmean(readings))
    assert found.high == pytest.approx(fmean(readings) + half, rel=1e-5)
    assert found.low == pytest.approx(fmean(readings) - half, rel=1e-5)


def test_a_single_reading_has_no_interval_and_none_no_mean() -> None:
    assert mean_of([2.5], 0.95) == Interval(2.5)
    assert mean_of([], 0.95) == Interval()


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    draws, count = 2000, 3
    readings = np.random.default_rng(0).normal(-0.1, 0.03, (draws, count))
    held = sum(mean_of(row, 0.95).holds(-0.1) for row in readings.tolist())
    # Five standard deviations of a binomial count.
    assert abs(held - 0.95 * draws) < 5 * sqrt(draws * 0.95 * 0.05)
