import numpy as np
import pytest

from tst_megatron.statistics.f_test import student_quantile
from tst_megatron.statistics.weighted_mean import (
    Variance,
    influences,
    interval_of,
    variance_of,
    weighted_mean,
)


def test_equal_weights_give_the_mean_and_its_standard_error() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    ones = np.ones(5)
    assert weighted_mean(values, ones) == pytest.approx(0.6)
    variance = variance_of(influences(values, ones))
    assert variance is not None
    assert variance.value == pytest.approx(values.var(ddof=1) / 5)
    assert variance.freedom == 4
    assert variance_of(influences(values[:1], ones[:1])) is None


def test_the_error_of_a_ratio_is_the_spread_of_the_ratio_over_draws_of_items() -> None:
    rng = np.random.default_rng(1)
    n, draws = 60, 4000
    weights = rng.integers(5, 200, (draws, n)).astype(np.float64)
    values = 2 + rng.standard_normal((draws, n)) / np.sqrt(weights)
    means = [weighted_mean(*one) for one in zip(values, weights, strict=True)]
    stated = [
        variance.value
        for one in zip(values, weights, strict=True)
        if (variance := variance_of(influences(*one))) is not None
    ]
    assert np.mean(stated) == pytest.approx(np.var(means), rel=0.05)


def test_influences_of_two_means_over_the_same_items_add_up() -> None:
    rng = np.random.default_rng(2)
    easy, ones = rng.random(50), np.ones(50)
    harder = easy - 0.1 + 0.01 * rng.random(50)
    paired = variance_of(influences(harder, ones) - influences(easy, ones))
    assert paired is not None
    assert paired.value == pytest.approx((harder - easy).var(ddof=1) / 50)


def test_an_interval_is_students_and_its_parts_add_up() -> None:
    found = interval_of(1.0, [Variance(0.04, 7)], 0.95)
    assert found.low == pytest.approx(1 - 0.2 * student_quantile(0.95, 7))
    # Two parts as large and as well known as each other: twice the variance, twice the freedom.
    both = interval_of(1.0, [Variance(0.02, 7), Variance(0.02, 7)], 0.95)
    assert both.high == pytest.approx(1 + 0.2 * student_quantile(0.95, 14))
    given = interval_of(1.0, [Variance(0.04, np.inf)], 0.95)
    assert given.high == pytest.approx(1 + 0.2 * 1.959964, abs=1e-5)
    assert interval_of(1.0, [], 0.95).low is None
    # Every answer right says nothing of how far the truth is from 1.
    assert interval_of(1.0, [Variance(0.0, 9)], 0.95).low is None
