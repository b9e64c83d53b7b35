import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_curves import evaluated_at

from tst_megatron.statistics.power_law import FEWEST, fit_laws

STEPS = evaluated_at(10_000, 60)


def curve(floor: float, scale: float, exponent: float, steps: np.ndarray = STEPS) -> np.ndarray:
    return floor + scale * steps**-exponent


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 4.0), st.floats(0.5, 5.0), st.floats(0.1, 1.2))
def test_a_law_without_noise_is_found(floor: float, fall: float, exponent: float):
    # The fall is that over all the steps, so that every example has one to see.
    scale = fall / (STEPS[0] ** -exponent - STEPS[-1] ** -exponent)
    laws = fit_laws(STEPS, curve(floor, scale, exponent)[None], np.full(60, 1e-3))
    assert laws is not None
    assert laws.exponents[0] == pytest.approx(exponent, rel=1e-2)
    later = np.array([20_000.0, 40_000.0])
    np.testing.assert_allclose(laws.at(later)[0], curve(floor, scale, exponent, later), rtol=1e-3)


def test_every_row_has_its_own_law():
    rows = np.array([curve(2, 20, 0.4), curve(1, 30, 0.6)])
    laws = fit_laws(STEPS, rows, np.full(60, 1e-3))
    assert laws is not None
    np.testing.assert_allclose(laws.floors, [2, 1], rtol=1e-3)


def test_an_outlier_hardly_matters():
    losses = curve(2, 20, 0.4)
    losses[30] += 1.0
    laws = fit_laws(STEPS, losses[None], np.full(60, 0.01))
    assert laws is not None
    assert laws.floors[0] == pytest.approx(2, abs=0.02)


def test_a_transient_before_the_law_is_left_out():
    losses = curve(2, 20, 0.4) + np.where(STEPS < 2500, 2 - STEPS / 1250, 0)
    laws = fit_laws(STEPS, losses[None], np.full(60, 0.01))
    assert laws is not None
    assert 2000 <= laws.first_step <= 6000
    assert laws.floors[0] == pytest.approx(2, abs=0.02)


def test_no_law_of_too_few_points_or_of_a_curve_that_rises():
    few = STEPS[: FEWEST - 1]
    assert fit_laws(few, curve(2, 20, 0.4, few)[None], np.ones(len(few))) is None
    assert fit_laws(STEPS, 3 + STEPS[None] / 1e4, np.ones(60)) is None


def test_a_copy_that_rises_is_flat():
    laws = fit_laws(STEPS, np.array([curve(2, 20, 0.4), 3 + STEPS / 1e4]), np.ones(60))
    assert laws is not None
    assert laws.scales[1] == 0
    assert laws.at(np.array([1e6]))[1, 0] == pytest.approx(3.5, abs=0.1)
