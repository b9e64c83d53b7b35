"""Derivatives against differences of the formula itself, and the minimum against its neighbours."""

from dataclasses import replace

import numpy as np
import pytest

from tst_megatron.analysis.scaling.form import form_of
from tst_megatron.analysis.scaling.newton import Objective, Terms, minimise

RUNS, ROWS = 30, 4
FORMS = [
    {},
    {"equal_exponents": True},
    {"multipliers": "log-linear"},
    {"equal_exponents": True, "multipliers": "log-linear", "seeds": tuple("abc" * 10)},
]
SETTING = (None, "one", "two") * 10


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def made(rng, options, delta):
    n, d = np.exp(rng.uniform(10, 20, RUNS)), np.exp(rng.uniform(15, 25, RUNS))
    form = form_of(n, d, SETTING, **options)
    terms = form.terms(n, d, SETTING, options.get("seeds"))
    sought = rng.normal(0, 0.2, (ROWS, form.columns))
    sought[:, [3, form.alpha]] += 0.4
    target = np.log(rng.uniform(2, 4, RUNS))
    weights = rng.uniform(0.5, 2, (ROWS, RUNS))
    return form, n, d, Objective(Terms(terms), target, weights, delta), sought


def written_out(form, n, d, target, delta, seeds, sought):
    """Huber's losses of one row, from the law as it is printed."""
    law = form.law(sought)
    level = dict(zip(form.seeds, form.levels(sought), strict=True)) if form.seeds else {}
    m = np.ones(RUNS)
    for name, of in law.multipliers.items():
        ratio = np.exp(of.c0) * (n / of.n0) ** of.c_n * (d / of.d0) ** of.c_d
        m = np.where([setting == name for setting in SETTING], ratio, m)
    losses = law.E + law.A / n**law.alpha + law.B / (m * d) ** law.beta
    if level:
        losses = losses * np.exp([level[seed] for seed in seeds])
    r = np.abs(np.log(losses) - target)
    return r**2 / 2 if np.isinf(delta) else np.where(r <= delta, r**2 / 2, delta * (r - delta / 2))


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("delta", [np.inf, 0.3])
def test_derivatives_are_those_of_the_printed_law(rng, options, delta):
    form, n, d, objective, sought = made(rng, options, delta)
    h = 1e-4
    # No residual may lie so near to the kink that a difference straddles it: slopes of ln L are
    # below the logarithms' half-width, 6, and a difference moves two things by h.
    near = np.abs(np.abs(objective.residuals(sought)) - delta) < 2 * 6 * h
    objective = replace(objective, target=objective.target + np.where(near, 0.1, 0))
    value, gradient, hessian = objective.expansion(sought)

    for row in range(ROWS):

        def at(*moves, row=row):
            moved = sought[row] + sum(moves)
            target, seeds = objective.target[row], options.get("seeds")
            losses = written_out(form, n, d, target, delta, seeds, moved)
            return float(losses @ objective.weights[row])

        steps = h * np.eye(form.columns)
        # A central difference is out by h^2 / 6 of a third derivative (over 30 runs of slopes up to
        # 6^3 and weights up to 2: at most 1e5) and by rounding, 1e-14 of a value below 100 over h.
        slopes = [(at(step) - at(-step)) / (2 * h) for step in steps]
        assert value[row] == pytest.approx(at(), rel=1e-11)
        np.testing.assert_allclose(gradient[row], slopes, atol=1e5 * h**2 / 6 + 1e-12 / h)
        # Of second differences: h^2 / 6 of fourth ones, up to 6^4, and rounding over h^2.
        bends = [
            [(at(p, q) - at(p, -q) - at(-p, q) + at(-p, -q)) / (4 * h * h) for q in steps]
            for p in steps
        ]
        np.testing.assert_allclose(hessian[row], bends, atol=1e6 * h**2 / 6 + 1e-12 / h**2)


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("delta", [np.inf, 0.02])
def test_nothing_near_a_minimum_is_lower(rng, options, delta):
    *_, objective, start = made(rng, options, delta)
    truth = Objective(objective.terms, np.zeros(RUNS), objective.weights, delta).residuals(
        start[:1]
    )[0]
    target = truth + 0.02 * rng.standard_normal((ROWS, RUNS))
    objective = Objective(objective.terms, target, objective.weights, delta)
    found = minimise(objective, np.tile(start[0], (ROWS, 1)))
    assert found.converged.all()
    np.testing.assert_allclose(found.objective, objective.value(found.sought))
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            move = size * rng.standard_normal(found.sought.shape)
            assert (objective.value(found.sought + move) > found.objective).all()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_end_does_not_depend_on_the_objective_s_scale(rng, scale):
    # What stopped Hoffmann et al. early: the mean in place of the sum, and a test of absolute size.
    *_, objective, start = made(rng, {}, 0.02)
    weights = np.ones(RUNS)
    truth = Objective(objective.terms, np.zeros(RUNS), weights, 0.02).residuals(start[:1])[0]
    target = truth + 0.02 * rng.standard_normal(RUNS)
    ends = [
        minimise(Objective(objective.terms, target, by * weights, 0.02), start[:1] + 0.1)
        for by in (1.0, scale)
    ]
    np.testing.assert_allclose(ends[0].sought, ends[1].sought, rtol=1e-9)
    np.testing.assert_array_equal(ends[0].steps, ends[1].steps)


def test_a_row_that_is_no_number_is_given_up_alone(rng):
    *_, objective, start = made(rng, {}, 0.02)
    start[1] = 1e4
    found = minimise(objective, start)
    assert not found.converged[1]
    assert np.isfinite(found.objective[[0, 2, 3]]).all()
