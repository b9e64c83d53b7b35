"""Laws are found again: exactly without noise, and within their own standard errors with it."""

import numpy as np
import pytest
from made_laws import CHINCHILLA, METHOD, STUDY, grid, iso_flop_lines, made_study

from tst_megatron.analysis.scaling.design import expected
from tst_megatron.analysis.scaling.fitting import (
    CHINCHILLA_DELTA,
    EFFICIENT_DELTA,
    LEAST_ABSOLUTE,
    fit,
    refit,
)
from tst_megatron.analysis.scaling.law import Law, Multiplier
from tst_megatron.errors import UserError

REST = 0.003


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def numbers(law: Law) -> list[float]:
    own = [law.E, law.A, law.alpha, law.B, law.beta]
    return own + [c for m in law.multipliers.values() for c in (m.c0, m.c_n, m.c_d)]


# A fit without noise ends where a step moves residuals by 1e-13 (root mean square). Over the least
# singular value of the slopes, the largest, above 1, over a condition of 500, that is 5e-11 of what
# is sought, and A and B are exponentials of exponents times logarithms up to 23.
EXACT = 5e-9


@pytest.mark.parametrize("delta", [None, np.inf, CHINCHILLA_DELTA])
def test_the_published_law_is_found_in_losses_without_noise(delta):
    n, d = iso_flop_lines(np.geomspace(1e18, 1e21, 5), 64)
    found = fit(n, d, CHINCHILLA.loss(n, d), delta=delta)
    assert found.converged
    np.testing.assert_allclose(numbers(found.law), numbers(CHINCHILLA), rtol=EXACT)


@pytest.mark.parametrize(
    ("law", "options"),
    [
        (STUDY, {}),
        (Law(1.0, 40.0, 0.35, 110.0, 0.35, STUDY.multipliers), {"equal_exponents": True}),
        (
            Law(1.05, 40.0, 0.34, 110.0, 0.37, {METHOD: Multiplier(0.7, -0.03, 0.04, 4e5, 9e7)}),
            {"multipliers": "log-linear"},
        ),
    ],
)
def test_multipliers_are_found_in_losses_without_noise(law, options):
    made = made_study(law)
    found = fit(made.n, made.d, np.exp(made.ln_loss), made.setting, seeds=made.seeds, **options)
    np.testing.assert_allclose(numbers(found.law)[:5], numbers(law)[:5], rtol=EXACT)
    ratios = [one.multiplier(made.n, made.d, METHOD) for one in (found.law, law)]
    np.testing.assert_allclose(*ratios, rtol=EXACT)
    np.testing.assert_allclose(found.form.levels(found.sought), 0, atol=1e-10)


def test_two_settings_have_a_multiplier_each():
    law = Law(1.05, 40.0, 0.34, 110.0, 0.37, {"s 4": Multiplier(0.7), "s 8": Multiplier(-0.2)})
    made = made_study(law, (None, "s 8", "s 4"))
    found = fit(made.n, made.d, np.exp(made.ln_loss), made.setting)
    assert found.law.multipliers["s 4"].c0 == pytest.approx(0.7, rel=EXACT)
    assert found.law.multipliers["s 8"].c0 == pytest.approx(-0.2, rel=EXACT)


def test_with_noise_it_is_found_within_its_standard_errors(rng):
    made = made_study()
    found = fit(made.n, made.d, made.noisy(rng, REST), made.setting)
    design = expected(STUDY, made.n, made.d, made.setting, rest=REST)
    away = found.sought - found.form.sought(STUDY)
    # A chi-square variable of 6 degrees of freedom, above 35 four times in a million; of Huber's
    # fit 1 / 0.95 times it.
    assert away @ np.linalg.solve(design.covariance, away) < 35 / 0.95


def test_the_constant_follows_from_the_scatter_and_an_outlier_hardly_counts(rng):
    n, d = iso_flop_lines(np.geomspace(1e18, 1e21, 30), 64)
    losses = CHINCHILLA.loss(n, d) * np.exp(REST * rng.standard_normal(len(n)))
    found = fit(n, d, losses)
    # The median of 270 has a relative standard error of 1.17 / sqrt(270) = 7 % as a scale.
    assert found.delta == pytest.approx(EFFICIENT_DELTA * REST, rel=0.3)
    losses[17] *= 1.5
    moved = fit(n, d, losses)
    standard_error = expected(CHINCHILLA, n, d, rest=REST).beta
    assert abs(moved.law.beta - found.law.beta) < standard_error
    squares = fit(n, d, losses, delta=np.inf)
    assert abs(squares.law.beta - found.law.beta) > 3 * standard_error


def test_least_absolute_deviations_go_through_as_many_runs_as_they_have_numbers(rng):
    n, d = grid(80, 7)
    losses = CHINCHILLA.loss(n, d) * np.exp(0.01 * rng.standard_normal(len(n)))
    found = fit(n, d, losses, delta=LEAST_ABSOLUTE)
    assert found.converged
    assert (np.abs(found.residuals) <= LEAST_ABSOLUTE).sum() == 5
    # Elsewhere the least sum of distances is a vertex of the runs' choices: the signs balance.
    push = np.clip(found.residuals / LEAST_ABSOLUTE, -1, 1)
    np.testing.assert_allclose(found.jacobian.T @ push, 0, atol=1e-4)


def test_levels_keep_uneven_seeds_out_of_the_law(rng):
    made = made_study()
    levels = {1: 0.02, 2: 0.01, 3: -0.03}
    moved = np.exp(made.ln_loss + [levels[seed] for seed in made.seeds])
    with_levels = fit(made.n, made.d, moved, made.setting, seeds=made.seeds)
    np.testing.assert_allclose(numbers(with_levels.law), numbers(STUDY), rtol=EXACT)
    np.testing.assert_allclose(with_levels.form.levels(with_levels.sought), list(levels.values()))
    # The largest size has no run of seed 3, which without levels is taken for what the size does.
    assert abs(fit(made.n, made.d, moved, made.setting).law.alpha - STUDY.alpha) > 0.01


def test_rows_are_fitted_as_if_each_were_alone(rng):
    made = made_study()
    found = fit(made.n, made.d, made.noisy(rng, REST), made.setting)
    weights = np.stack([rng.multinomial(20, np.full(20, 0.05), size=len(made.n) // 20).ravel()] * 2)
    weights = np.pad(weights, ((0, 0), (0, len(made.n) - weights.shape[1])), constant_values=1.0)
    weights[1] = 1 + (made.n > 1e6)
    losses = np.stack([made.noisy(rng, REST) for _ in range(2)])
    rows = refit(found, losses, weights)
    assert rows.converged.all()
    for row in range(2):
        alone = fit(made.n, made.d, losses[row], made.setting, weights[row], found.delta)
        # Either is within a share of 1e-12 of its least, which moves what is sought by the root of
        # that times the objective over half the least curvature.
        np.testing.assert_allclose(rows.sought[row], alone.sought, rtol=1e-5)
        assert rows.objective[row] == pytest.approx(alone.objective, rel=1e-11)


def test_a_mistake_is_one_sentence():
    n, d = grid(16, 3)
    losses = CHINCHILLA.loss(n, d)
    with pytest.raises(UserError, match="run 2 of 9 has loss nan"):
        fit(n, d, np.where(np.arange(9) == 1, np.nan, losses))
    with pytest.raises(UserError, match="5 runs tell nothing of a law of 5 numbers: train more"):
        fit(n[:5], d[:5], losses[:5])
    with pytest.raises(UserError, match="5 numbers beside the levels of 5 seeds"):
        fit(n, d, losses, seeds=[1, 1, 2, 2, 3, 3, 4, 4, 5])
    with pytest.raises(UserError, match="all runs are of bags"):
        fit(n, d, losses, ["bags"] * 9)
