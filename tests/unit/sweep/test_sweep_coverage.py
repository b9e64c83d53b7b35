"""Made-up sweeps of known truth: an interval that is printed holds it, else none is printed."""

from collections import Counter

import numpy as np
import pytest
from surfaces import SEARCH, above, lowest, made

from tst_megatron.methods.search import has_ends
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.sweep.recommendation import Recommendation, recommend

DRAWS = 200
# Of 95 % in 200 draws, 3 standard deviations below.
FEWEST = 181
BEST = (6.0, 0.27)
DEPTH = 0.06
SIZES, RATIOS = (2, 4, 8, 16), (0.1, 0.3, 0.5)
THREE, TWO = {"sizes": (2, 4, 8)}, {"sizes": (4, 8), "ratios": (0.2, 0.4)}


def sweeps(keep=lambda result: True, **grid) -> list[Recommendation]:
    rng = np.random.default_rng(7)
    return [recommend(SEARCH, [r for r in made(rng=rng, **grid) if keep(r)]) for _ in range(DRAWS)]


@pytest.mark.parametrize(
    ("grid", "keep"),
    [
        ({"noise": 0.003}, None),
        ({"noise": 0.005, "seeds": 3}, None),
        ({"noise": 0.005, "seeds": 3}, lambda r: r.seed < 3 or r.choice.bag_size <= 4),
        ({"noise": 0.003, **THREE}, None),
        ({"noise": 0.02, "seeds": 3, **THREE}, None),
        ({"noise": 0.005, "seeds": 3, "best": (20.0, 0.27), **THREE}, None),
        ({"noise": 0.003, "best": (20.0, 0.05), "ratios": (0.2, 0.4, 0.6), **THREE}, None),
    ],
    ids=["4x3", "4x3-seeds", "some-seeds", "3x3", "loud", "beyond", "beyond-both"],
)
def test_intervals_of_a_u_hold_the_truth(grid, keep) -> None:
    best = grid.get("best", BEST)
    size, ratio, height = lowest(best, grid.get("sizes", SIZES), grid.get("ratios", RATIOS))
    held: Counter[str] = Counter()
    printed: Counter[str] = Counter()
    for found in sweeps(keep or (lambda result: True), **grid):
        optimum = found.optimum
        # An end at the grid's is off by the rounding of logarithms.
        held["s"] += any(optimum.bag_size.holds(size * (1 + e)) for e in (0, 1e-9, -1e-9))
        held["r"] += any(optimum.step_ratio.holds(ratio * (1 + e)) for e in (0, 1e-9, -1e-9))
        held["beyond"] += best[0] <= 8 or optimum.bag_size.holds(best[0])
        printed["s"] += has_ends(optimum.bag_size)
        printed["r"] += has_ends(optimum.step_ratio)
        held["gain"] += found.gain.low <= DEPTH - height <= found.gain.high
    assert min(held.values()) >= FEWEST, held
    # An interval that is the whole grid holds everything: not so many of them.
    assert min(printed.values()) >= DRAWS // 3, printed


@pytest.mark.parametrize("grid", [TWO, {"sizes": (2, 4, 8), "ratios": (0.2, 0.4)}], ids=str)
def test_two_values_of_one_are_no_u_and_the_gain_of_the_best_cell_is_held(grid) -> None:
    held = 0
    for found in sweeps(noise=0.015, seeds=3, **grid):
        assert found.optimum is None
        truth = DEPTH - above((found.best.bag_size, found.best.step_ratio))
        held += found.gain.low <= truth <= found.gain.high
    assert held >= FEWEST


def no_baseline(result: Outcome) -> bool:
    return not result.choice.is_baseline


def a_row_a_seed(result: Outcome) -> bool:
    """The baseline and each share with a seed of their own."""
    return result.seed == 1 + (0.0, *RATIOS).index(result.choice.step_ratio)


@pytest.mark.parametrize(
    ("grid", "keep"),
    [
        ({"noise": 0.015, **TWO}, None),
        ({"noise": 0.015, **TWO}, no_baseline),
        ({"noise": 0.015, "seeds": 3, **TWO}, no_baseline),
        ({"noise": 0.005, "seeds": 4}, a_row_a_seed),
    ],
    ids=["2x2", "2x2-bare", "2x2-bare-seeds", "row-seeds"],
)
def test_what_the_losses_do_not_tell_has_no_interval(grid, keep) -> None:
    for found in sweeps(keep or (lambda result: True), **grid):
        intervals = [found.gain]
        if found.optimum is not None:
            intervals += [found.optimum.bag_size, found.optimum.step_ratio, found.optimum.loss]
        assert all(i.low is None and i.high is None for i in intervals)
        assert "(" not in found.sentences[0].replace("(with no interval)", "")
