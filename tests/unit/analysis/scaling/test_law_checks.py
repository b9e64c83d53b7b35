"""What speaks against a law is said, with its numbers, and not of runs that it is not true of."""

import numpy as np
import pytest
from made_laws import CHINCHILLA, METHOD, STUDY, grid, iso_flop_lines, made_study

from tst_megatron.analysis.scaling import checks
from tst_megatron.analysis.scaling.fitting import fit
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.analysis.scaling.law_file import LawRecord, LawRun
from tst_megatron.errors import UserError

REST, LEVEL = 0.003, 0.01
# The paper's six dense baselines, arXiv 2605.06546, table 1: parameters, positions, final loss.
PAPER = np.array(
    [
        (270e6, 42e9, 3.212),
        (270e6, 209e9, 3.092),
        (600e6, 42e9, 3.019),
        (3e9, 42e9, 2.808),
        (3e9, 75e9, 2.677),
        (3e9, 105e9, 2.640),
    ]
).T


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(13)


def names(findings) -> list[str]:
    return [finding.name for finding in findings]


def fitted_study(rng, distort=0.0, **options):
    made = made_study()
    losses = made.noisy(rng, REST, LEVEL) * np.exp(distort)
    return fit(made.n, made.d, losses, made.setting, seeds=made.seeds, **options)


def test_the_study_s_runs_bear_a_law(rng):
    made = made_study()
    assert checks.of_runs(made.n, made.d, made.setting, log_linear=True) == ()
    for multipliers in ("constant", "log-linear"):
        assert checks.of_fit(fitted_study(rng, multipliers=multipliers)) == ()


def test_the_paper_s_six_baselines_bear_none():
    n, d, losses = PAPER
    assert checks.of_runs(n, d) == ()
    found = fit(n, d, losses)
    assert found.law.beta == pytest.approx(3.5, abs=0.05)
    assert np.abs(found.residuals * losses).max() == pytest.approx(0.016, abs=0.0005)
    edge = {finding.name: finding for finding in checks.of_fit(found)}["beta at an edge"]
    assert edge.refuses
    assert edge.figures["beta"] == found.law.beta
    assert edge.sentence.startswith("beta came out as 3.51, outside 0.01 to 2:")


@pytest.mark.parametrize(
    ("runs", "expected", "number"),
    [
        (grid(80, 2), ["too few sizes", "too few lengths"], "2 sizes (1e+08 and 8e+09 parameters)"),
        ((grid(16, 3)[0], np.full(9, 1e10)), ["too few lengths"], "1 lengths (1e+10 positions)"),
        (iso_flop_lines(np.array([1e20]), 64), ["one isoFLOP line"], "1 times apart"),
        (
            (np.geomspace(1e8, 1e10, 9), 21 * np.geomspace(1e8, 1e10, 9)),
            ["one D/N ratio"],
            "1 times apart",
        ),
        (grid(16, 3), [], ""),
        # Sizes and lengths without a gap, as points read off a figure, are not all one.
        (grid(16, 80), [], ""),
    ],
)
def test_runs_that_bear_no_law(runs, expected, number):
    found = checks.of_runs(*runs)
    assert names(found) == expected
    assert number in (found[0].sentence if found else "")


def test_a_multiplier_that_moves_wants_three_sizes_and_lengths_of_its_own():
    made = made_study()
    few = np.array([s is None or n > 1e6 for n, s in zip(made.n, made.setting, strict=True)])
    runs = made.n[few], made.d[few], tuple(np.array(made.setting)[few])
    assert checks.of_runs(*runs) == ()
    found = checks.of_runs(*runs, log_linear=True)
    assert names(found) == ["too few sizes", "too few lengths"]
    assert f"the runs of {METHOD} have 2 sizes" in found[0].sentence


def test_an_ill_conditioned_law_is_refused():
    n, d = grid(2, 3)
    found = checks.of_fit(fit(n, d, CHINCHILLA.loss(n, d)))
    assert names(found) == ["ill-conditioned"]
    assert found[0].figures["condition"] > 500


def test_e_at_an_edge(rng):
    made = made_study(Law(-0.15, 60.0, 0.34, 160.0, 0.37, STUDY.multipliers))
    found = checks.of_fit(fit(made.n, made.d, made.noisy(rng, REST), made.setting))
    assert "E at an edge" in names(found)


def test_a_law_that_misses_its_cells_by_more_than_seeds_scatter_is_refused(rng):
    made = made_study()
    # A size that is off by 4 %, such as one of another shape.
    found = checks.of_fit(fitted_study(rng, 0.04 * (made.n == 525e3)))
    lack = {finding.name: finding for finding in found}["lack of fit"]
    assert lack.refuses
    assert lack.figures["scatter"] == pytest.approx(REST, rel=0.4)
    # A misfit below a hundredth of the loss is said and refuses nothing.
    small = checks.of_fit(fitted_study(rng, 0.01 * (made.n == 525e3)))
    assert [finding.refuses for finding in small if finding.name == "lack of fit"] == [False]


def test_sizes_and_lengths_that_interact_are_seen(rng):
    made = made_study()
    x, y = (np.log(values / np.exp(np.log(values).mean())) for values in (made.n, made.d))
    found = checks.interaction(fitted_study(rng, 0.01 * x * y))
    assert found.chance < 1e-3
    assert found.slope == pytest.approx(0.01, rel=0.5)


def test_chance_is_what_it_says_where_the_law_is_true(rng):
    made = made_study()
    losses = np.array([made.noisy(rng, REST, LEVEL) for _ in range(100)])
    chances = [
        (checks.lack_of_fit(one).chance, checks.interaction(one).chance)
        for one in made.fits(losses, made.seeds, delta=np.inf)
    ]
    # Even over 0 to 1: a mean of 100 has a standard error of 1 / sqrt(12 * 100) = 0.029.
    np.testing.assert_allclose(np.mean(chances, axis=0), 0.5, atol=4 * 0.029)
    # Below a tenth in 10 of 100, give or take 3.
    assert (np.sum(np.array(chances) < 0.1, axis=0) <= 22).all()


def test_without_runs_alike_there_is_nothing_to_hold_a_misfit_against():
    n, d = grid(80, 4)
    assert checks.lack_of_fit(fit(n, d, CHINCHILLA.loss(n, d))) is None


def test_a_prediction_far_beyond_the_runs_is_refused(rng):
    fitted = fitted_study(rng)
    runs = tuple(
        LawRun("a run", "baseline", float(n), float(d), float(loss), float(d))
        for n, d, loss in zip(fitted.n, fitted.d, fitted.loss, strict=True)
    )
    record = LawRecord(fitted.law, fitted.law, runs, "total", {})
    at = int(np.argmax(fitted.n * fitted.d))
    n, d = float(fitted.n[at]), float(fitted.d[at])
    record.check_within(n, 9.9 * d, force=False)
    # Half as large again, so that neither size nor length alone is ten times outside.
    with pytest.raises(UserError, match="take 12 times the compute of the largest run"):
        record.check_within(1.5 * n, 8 * d, force=False)
    record.check_within(1.5 * n, 8 * d, force=True)


def test_left_out_sizes_and_lengths_are_foretold_by_the_others(rng):
    fitted = fitted_study(rng)
    sizes, lengths = checks.left_out(fitted, "size"), checks.left_out(fitted, "length")
    np.testing.assert_allclose(sizes.values, sorted({*fitted.n}), rtol=1e-12)
    np.testing.assert_allclose(lengths.values, sorted({*fitted.d}), rtol=1e-12)
    rest = fitted.n > 60e3
    alone = fit(
        fitted.n[rest],
        fitted.d[rest],
        fitted.loss[rest],
        np.array(fitted.setting)[rest],
        delta=fitted.delta,
        seeds=np.array(fitted.seeds)[rest],
    )
    assert sizes.law.alpha[0] == pytest.approx(alone.law.alpha, rel=1e-4)
    off = 0.05 * (fitted.n < 60e3)
    wrong = checks.left_out(fitted_study(rng, off), "size")
    assert wrong.error[0] > 0.03
    assert np.abs(sizes.error).max() < 0.02


def test_what_three_sizes_less_one_do_not_tell_is_not_told():
    n, d = grid(16, 3)
    found = checks.left_out(fit(n, d, CHINCHILLA.loss(n, d)), "size")
    assert np.isnan(found.law.alpha).all()
    assert np.isnan(found.error).all()
