"""The fitted U: known bottoms are found, intervals hold them, and small grids do what they can."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surfaces import made, paper

from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.methods.superposition.fitted_u import fit_u
from tst_megatron.runs.noise import Noise
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.statistics.interval import Interval


def test_the_papers_optimum_is_found() -> None:
    fit = fit_u(paper(), None)
    assert fit is not None
    optimum = fit.optimum()
    assert optimum is not None
    # Token-superposition.md: best cells at s = 7, r of 0.2 to 0.3, 3.1392 of 3.2124.
    assert 6 <= optimum.bag_size.value <= 8
    assert 0.2 <= optimum.step_ratio.value <= 0.3
    assert optimum.bag_size.holds(7)
    assert optimum.step_ratio.holds(0.3)
    assert optimum.loss.value == pytest.approx(3.1392, abs=0.002)
    assert optimum.gain.value == pytest.approx(0.0732, abs=0.002)
    assert optimum.edges == ()


@given(size=st.floats(3.0, 12.0), ratio=st.floats(0.15, 0.45))
@settings(max_examples=40, deadline=None)
def test_a_bottom_without_noise_is_found(size: float, ratio: float) -> None:
    results = [r for r in made(best=(size, ratio)) if not r.choice.is_baseline]
    fit = fit_u(results, None)
    assert fit is not None
    optimum = fit.optimum()
    assert optimum is not None
    assert optimum.bag_size.value == pytest.approx(size, rel=0.01)
    assert optimum.step_ratio.value == pytest.approx(ratio, abs=0.003)
    assert optimum.loss.value == pytest.approx(3.14, abs=1e-4)
    assert optimum.gain.value is None


def test_a_seeds_own_level_moves_nothing() -> None:
    results = made(seeds=3)
    raised = [
        Outcome(r.choice, r.seed, r.loss + 0.1 * r.seed)
        for r in results
        # The last seed was stopped early.
        if r.seed < 3 or r.choice.bag_size <= 4
    ]
    plain, shifted = (fit_u(rows, None).optimum() for rows in (results, raised))
    assert shifted.bag_size.value == pytest.approx(plain.bag_size.value, rel=0.03)
    assert shifted.step_ratio.value == pytest.approx(plain.step_ratio.value, abs=0.01)
    assert shifted.gain.value == pytest.approx(plain.gain.value, abs=1e-3)


@given(
    sizes=st.lists(st.integers(2, 16), min_size=1, max_size=4, unique=True),
    ratios=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.9]), min_size=1, unique=True),
    seeds=st.integers(1, 2),
    noise=st.sampled_from([0.0, 0.01]),
)
@settings(max_examples=40, deadline=None)
def test_any_grid_has_its_bottom_inside_it(sizes, ratios, seeds, noise) -> None:
    results = made(sizes=tuple(sizes), ratios=tuple(ratios), seeds=seeds, noise=noise)
    fit = fit_u(results, None)
    # Three values tell a curve; one that does not vary needs none.
    if 2 in (len(sizes), len(ratios)) or len(sizes) * len(ratios) < 3:
        assert fit is None
        return
    optimum = fit.optimum()
    slack = 1e-9
    assert min(sizes) - slack <= optimum.bag_size.value <= max(sizes) + slack
    assert min(ratios) - slack <= optimum.step_ratio.value <= max(ratios) + slack
    for interval in (optimum.bag_size, optimum.step_ratio, optimum.loss, optimum.gain):
        assert np.isfinite(interval.value)
        assert interval.low is None or interval.low <= interval.value
        assert interval.high is None or interval.value <= interval.high


def test_what_is_not_allowed_is_not_chosen() -> None:
    fit = fit_u(paper(), None)
    optimum = fit.optimum(lambda s, r: 1 + r * (s - 1) <= 2)
    size, ratio = optimum.bag_size.value, optimum.step_ratio.value
    assert 1.95 < 1 + ratio * (size - 1) <= 2
    assert optimum.loss.value > fit.optimum().loss.value
    assert fit.optimum(lambda s, r: s > 100) is None


def test_a_bottom_beyond_the_grid_is_at_its_edges() -> None:
    results = made(best=(20.0, 0.05), sizes=(2, 4, 8), ratios=(0.2, 0.4, 0.6))
    optimum = fit_u(results, Noise(0.001, 10, "")).optimum()
    assert optimum.edges == ("the largest bag size", "the smallest share")
    # Nothing was run beyond that could end the interval.
    assert optimum.bag_size.low == pytest.approx(8.0)
    assert optimum.bag_size.high is None
    assert optimum.step_ratio.low is None
    assert optimum.step_ratio.high == pytest.approx(0.2)


def test_a_share_that_does_not_vary_has_no_interval() -> None:
    optimum = fit_u(made(sizes=(2, 4, 6, 8, 16), ratios=(0.3,), noise=0.003), None).optimum()
    assert optimum.bag_size.low is not None
    assert optimum.step_ratio == Interval(0.3)


def test_runs_that_diverged_are_left_out() -> None:
    results = paper()
    diverged = [*results, Outcome(Pair(16, 0.7), 1, float("nan")), Outcome(BASELINE, 3, np.inf)]
    fit = fit_u(diverged, None)
    assert np.allclose(fit.coefficients, fit_u(results, None).coefficients)
    assert fit.baseline == pytest.approx(3.2124)


def test_a_cell_with_one_run_that_diverged_is_left_out() -> None:
    results = made(seeds=3)
    others = [r for r in results if r.choice != Pair(8, 0.3)]
    diverged = [
        Outcome(r.choice, r.seed, float("nan"))
        if (r.choice, r.seed) == (Pair(8, 0.3), 2)
        else Outcome(r.choice, r.seed, r.loss - (0.1 if r.choice == Pair(8, 0.3) else 0))
        for r in results
    ]
    assert np.allclose(fit_u(diverged, None).coefficients, fit_u(others, None).coefficients)
