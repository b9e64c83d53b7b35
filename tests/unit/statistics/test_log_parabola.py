import numpy as np
import pytest

from tst_megatron.statistics.log_parabola import lowest


def test_losses_of_a_parabola_give_it_back():
    draw = np.random.default_rng()
    optimum, bend, least = 10 ** draw.uniform(-4, -2), draw.uniform(0.01, 0.2), draw.uniform(1, 3)
    rates = optimum * np.exp(draw.uniform(0.1, 0.6, 5).cumsum() - 1.0)
    losses = least + bend * np.log(rates / optimum) ** 2
    order = draw.permutation(5)
    found = lowest(rates[order], losses[order])
    assert found is not None
    # A quadratic through points that are one: what is lost is float64's, stretched by the points
    # lying as near as 0.1 to each other in the logarithm (1e-16 over 0.01 x 0.1 squared).
    close = {"rel": 1e-9, "abs": 1e-9}
    inside = float(np.clip(optimum, rates.min(), rates.max()))
    assert found.optimum == pytest.approx(inside, **close)
    if inside == optimum:
        added = bend * np.log(2) ** 2
        assert (found.value, found.added_at_half, found.added_at_double) == pytest.approx(
            (least, added, added), **close
        )
    at = rates[:1] * 1.3
    assert found.losses(at) == pytest.approx(least + bend * np.log(at / optimum) ** 2, **close)


def test_only_the_best_and_two_neighbours_a_side_are_fitted():
    rates = 1e-3 * 2.0 ** np.arange(-4, 5)
    losses = 2 + 0.05 * np.log(rates / 1e-3) ** 2
    losses[[0, 1, -2, -1]] += 3.0
    found = lowest(rates, losses)
    assert found is not None
    assert found.optimum == pytest.approx(1e-3)
    assert found.edge is None


def test_the_demos_baseline_has_its_minimum_between_the_rates_tried():
    found = lowest([2e-3, 1e-3, 5e-4, 2.5e-4], [1.651, 1.621, 1.585, 1.621])
    assert found is not None
    # By the normal equations of four points a factor of two apart, the best one second.
    steps = np.log(2) * np.arange(-1, 3)
    design = np.stack([steps**2, steps, np.ones(4)], axis=1)
    bend, slope, height = np.linalg.inv(design.T @ design) @ design.T @ [1.621, 1.585, 1.621, 1.651]
    assert found.optimum == pytest.approx(5e-4 * np.exp(-slope / 2 / bend))
    assert found.value == pytest.approx(height - slope**2 / 4 / bend)
    assert found.added_at_double == pytest.approx(bend * np.log(2) ** 2)


def test_seeds_of_a_rate_count_each():
    twice = lowest([1e-3, 2e-3, 4e-3, 2e-3], [2.0, 1.8, 2.1, 1.9])
    once = lowest([1e-3, 2e-3, 4e-3], [2.0, 1.85, 2.1])
    assert twice is not None
    assert once is not None
    assert twice.optimum == pytest.approx(once.optimum)


def test_a_minimum_beyond_what_was_tried_is_held_at_the_edge():
    found = lowest([1e-3, 2e-3, 4e-3], [2.0, 1.7, 1.5])
    assert found is not None
    assert (found.optimum, found.edge) == (4e-3, "highest")
    assert found.value == pytest.approx(1.5)
    # Half of it was tried; what twice would add nobody knows.
    assert found.added_at_half == pytest.approx(0.2)
    assert found.added_at_double is None


def test_a_best_rate_at_the_edge_says_so_although_the_parabola_turns_inside():
    found = lowest([1e-3, 2e-3, 4e-3], [2.0, 1.6, 1.59])
    assert found is not None
    assert 2e-3 < found.optimum < 4e-3
    assert found.edge == "highest"


def test_a_rate_beyond_that_diverged_makes_the_best_one_no_edge():
    found = lowest([1e-3, 2e-3, 4e-3, 8e-3], [2.0, 1.7, 1.5, np.nan])
    assert found is not None
    assert (found.optimum, found.edge) == (4e-3, None)


def test_losses_that_do_not_bend_upwards_have_no_parabola():
    # The candidate's of the demo: the best one is an edge, and the rest is a hill.
    found = lowest([2e-3, 1e-3, 5e-4], [1.478, 1.490, 1.486])
    assert found is not None
    assert (found.optimum, found.value, found.edge) == (2e-3, 1.478, "highest")
    assert found.added_at_half is None
    assert np.isnan(found.losses(np.array([1e-3]))).all()
    flat = lowest([1e-3, 2e-3, 4e-3], [1.5, 1.5, 1.5])
    assert flat is not None
    assert flat.coefficients is None


def test_five_points_that_do_not_bend_leave_three():
    found = lowest([1, 2, 4, 8, 16], [1.0, 2.0, 0.5, 2.0, 1.0])
    assert found is not None
    assert found.optimum == pytest.approx(4)
    assert found.value == pytest.approx(0.5)


def test_fewer_than_three_rates_have_none():
    assert lowest([1e-3, 2e-3, 2e-3, 4e-3], [1.5, 1.4, 1.3, np.inf]) is None


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        lowest([0, 1, 2], [1, 1, 1])
