"""How much a loss moves by itself."""

import numpy as np
import pytest
from surfaces import made

from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.noise import Noise, noise_between_seeds, noise_of_evaluation, t_quantile
from tst_megatron.sweep.results import Result


def test_the_spread_between_seeds_is_found_apart_from_their_shifts() -> None:
    found = noise_between_seeds(made(seeds=20, noise=0.01))
    assert found is not None
    assert found.sd == pytest.approx(0.01, rel=0.15)
    assert found.dof == 12 * 19  # 13 cells of 20 seeds, less both kinds of means.


def test_one_seed_or_one_cell_says_nothing() -> None:
    assert noise_between_seeds(made(seeds=1)) is None
    assert noise_between_seeds([Result(BASELINE, seed, 3.0 + seed) for seed in (1, 2, 3)]) is None
    assert noise_between_seeds([]) is None
    assert noise_of_evaluation(made()) is None


def test_the_error_of_the_evaluation_is_the_mean_of_those_known() -> None:
    results = [Result(Config(2, 0.2), 1, 3.0, 0.01), Result(Config(4, 0.2), 1, 3.0, 0.03)]
    found = noise_of_evaluation([*results, Result(BASELINE, 1, 3.0)])
    assert found.sd == pytest.approx(0.02)
    assert found.margin(1, 1) == pytest.approx(1.96 * 0.02 * np.sqrt(2), rel=0.01)


# Two-sided 95 %, from tables of Student's t.
@pytest.mark.parametrize(("dof", "t"), [(2, 4.303), (5, 2.571), (20, 2.086), (np.inf, 1.960)])
def test_the_quantiles_are_students(dof: float, t: float) -> None:
    assert t_quantile(dof) == pytest.approx(t, rel=0.02)
    assert Noise(1.0, dof, "").margin(2, 2) == pytest.approx(t, rel=0.02)
