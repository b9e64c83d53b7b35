import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_megatron.statistics.crossing import crossing_steps, values_at

LOSSES = st.lists(st.floats(0.5, 12.0), min_size=1, max_size=12)


def crossing(losses: list[float], level: float) -> float:
    steps = 10.0 * np.arange(1, len(losses) + 1)
    return float(crossing_steps(steps, np.array([losses]), np.array([level]))[0])


def by_walking_back(losses: list[float], level: float) -> float:
    """The same by the words of its definition, one point after the other from the end."""
    steps = [10.0 * (index + 1) for index in range(len(losses))]
    if losses[-1] > level:
        return math.inf
    for index in range(len(losses) - 2, -1, -1):
        if losses[index] > level:
            share = (losses[index] - level) / (losses[index] - losses[index + 1])
            return float(steps[index] * (steps[index + 1] / steps[index]) ** share)
    return steps[0]


@settings(deadline=None)
@given(LOSSES, st.floats(0.5, 12.0))
def test_a_crossing_is_where_the_curve_gets_for_good(losses: list[float], level: float):
    assert crossing(losses, level) == pytest.approx(by_walking_back(losses, level), rel=1e-9)


def test_a_dip_that_does_not_last_does_not_count():
    assert crossing([5.0, 3.0, 4.0, 2.0], 3.5) == pytest.approx(30 * (4 / 3) ** 0.25)
    assert crossing([5.0, 2.0, 4.0], 3.0) == math.inf


def test_a_loss_met_exactly_is_met_there():
    assert crossing([5.0, 4.0, 3.0], 4.0) == 20.0


def test_after_an_infinite_loss_the_next_point_is_the_first():
    assert crossing([5.0, 2.0, math.inf, 1.5, 1.0], 3.0) == 40.0


def test_rows_are_independent():
    curves = np.array([[5.0, 4.0, 3.0], [5.0, 4.0, 3.0], [math.nan, 4.0, 3.0], [5.0, 6.0, 7.0]])
    found = crossing_steps(np.array([10.0, 20, 30]), curves, np.array([4.0, 3.0, 4.0, 4.0]))
    np.testing.assert_array_equal(found, [20.0, 30.0, math.nan, math.inf])


@settings(deadline=None)
@given(LOSSES.filter(lambda losses: len(set(losses)) > 1), st.floats(0.05, 0.95))
def test_the_value_at_a_crossing_is_the_level(losses: list[float], share: float):
    level = (1 - share) * losses[-1] + share * max(losses)
    steps = 10.0 * np.arange(1, len(losses) + 1)
    curves = np.array([losses])
    found = crossing_steps(steps, curves, np.array([level]))
    if steps[0] < found[0] < math.inf:
        np.testing.assert_allclose(values_at(steps, curves, found), level, rtol=1e-9)


def test_there_is_no_value_outside_the_steps():
    steps, curves = np.array([10.0, 20.0]), np.array([[3.0, 2.0], [5.0, 4.0]])
    np.testing.assert_array_equal(values_at(steps, curves, np.array([9.0, 20.0])), [math.nan, 4.0])
    np.testing.assert_array_equal(values_at(steps, curves, np.array([10.0])), [3.0, 5.0])
