import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_curves import evaluated_at, true_curve

from tst_megatron.statistics.smoothing import scatter, smoother

NOISE = 0.01


def smooth(steps: np.ndarray, losses: np.ndarray, segments: np.ndarray | None = None):
    segments = np.zeros(len(steps)) if segments is None else segments
    return smoother(steps, losses, np.full(len(steps), NOISE), segments)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_parabola_is_left_as_it_is(points: int, seed: int):
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(np.arange(100, 10_000), points, replace=False)).astype(float)
    # The widths are chosen by noisy losses; whatever they are, the matrix keeps parabolas.
    matrix = smooth(steps, 3 + rng.standard_normal(points))
    places = np.log(steps)
    for shape in (np.ones(points), places, places**2):
        np.testing.assert_allclose(matrix @ shape, shape, rtol=1e-6)


def test_nothing_is_averaged_across_segments():
    steps = evaluated_at(1000, 40)
    segments = (steps > 400).astype(float)
    matrix = smooth(steps, np.where(steps > 400, 3.0, 5.0), segments)
    assert not matrix[segments == 0][:, segments == 1].any()
    assert not matrix[segments == 1][:, segments == 0].any()


def test_few_points_are_not_smoothed():
    np.testing.assert_array_equal(smooth(evaluated_at(1000, 5), np.arange(5.0)), np.eye(5))


@pytest.mark.parametrize("known", [True, False], ids=["decay-known", "decay-not-known"])
def test_the_end_of_a_decay_and_the_fall_after_a_switch_are_not_biased(known: bool):
    steps = evaluated_at(10_000, 100)
    truth = true_curve(steps, 1.5, decay_start=9000, switch=2500)
    segments = np.searchsorted([2500, 9000] if known else [2500], steps).astype(float)
    rng = np.random.default_rng(0)
    off = []
    for _ in range(60):
        losses = truth + NOISE * rng.standard_normal(len(steps))
        off.append(smooth(steps, losses, segments) @ losses - truth)
    mean, spread = np.mean(off, axis=0), np.std(off, axis=0)
    end, after = slice(-10, None), slice(25, 35)
    assert np.abs(mean[end]).max() < 0.6 * NOISE
    assert np.abs(mean[after]).max() < 0.6 * NOISE
    assert spread[40:80].mean() < 0.6 * NOISE
    assert spread.max() < 1.2 * NOISE


def test_scatter_is_that_of_the_noise_and_not_of_the_fall():
    steps = evaluated_at(10_000, 200)
    rng = np.random.default_rng(1)
    losses = true_curve(steps) + NOISE * rng.standard_normal(200)
    found, freedom = scatter(steps, losses, np.full(200, 2 * NOISE), np.zeros(200))
    assert found == pytest.approx(0.5, rel=0.15)
    assert freedom == 99


def test_scatter_needs_three_points_of_a_segment():
    steps, ones = np.array([10.0, 20, 30, 40]), np.ones(4)
    assert np.isnan(scatter(steps, ones, ones, np.array([0.0, 0, 1, 1]))[0])
    assert scatter(steps, np.array([1.0, 2, 1, 2]), ones, np.zeros(4))[0] > 0
