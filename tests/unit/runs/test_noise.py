"""How much a loss moves by itself."""

from dataclasses import replace

import pytest
from surfaces import made, paper

from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.runs.noise import Noise, noise_between_seeds, parted, t_quantile, usable
from tst_megatron.runs.outcomes import Outcome


def test_the_spread_between_seeds_is_found_apart_from_their_shifts() -> None:
    found = noise_between_seeds(made(seeds=20, noise=0.01))
    assert found is not None
    assert found.sd == pytest.approx(0.01, rel=0.15)
    assert found.dof == 12 * 19  # 13 cells of 20 seeds, less both kinds of means.


def test_one_seed_or_one_cell_says_nothing() -> None:
    assert noise_between_seeds(made(seeds=1)) is None
    assert noise_between_seeds([Outcome(BASELINE, seed, 3.0 + seed) for seed in (1, 2, 3)]) is None
    assert noise_between_seeds([]) is None


def test_a_seed_of_its_own_takes_nothing_out_of_a_cell() -> None:
    own = [replace(result, seed=seed) for seed, result in enumerate(paper())]
    assert [run.loss for run in parted(own).runs] == [result.loss for result in paper()]
    assert parted(own).is_joined


def test_several_runs_of_seeds_of_their_own_are_a_cells_spread() -> None:
    results = [
        Outcome(config, 10 * i + j, 3.0 + loss)
        for i, config in enumerate((BASELINE, Pair(4, 0.2)))
        for j, loss in enumerate((0.0, 0.01, 0.02))
    ]
    found = noise_between_seeds(results)
    assert found.sd == pytest.approx(0.01)
    assert found.dof == 4


def test_seeds_that_no_cell_joins_leave_the_cells_apart() -> None:
    # The first seed ran one row, the second seed the other one.
    results = [
        r for r in made(ratios=(0.1, 0.3), seeds=2) if (r.choice.step_ratio < 0.2) + r.seed == 2
    ]
    apart = parted(results)
    assert not apart.is_joined
    assert [run.loss for run in apart.runs] == pytest.approx([r.loss for r in results])
    # One cell of both seeds joins them.
    joined = parted([*results, Outcome(BASELINE, 2, 3.25)])
    assert joined.is_joined
    assert joined.num_levels == 1
    levels = {r.seed: r.loss - run.loss for r, run in zip(results, joined.runs, strict=False)}
    assert levels[2] - levels[1] == pytest.approx(0.05)


def test_a_cell_with_a_run_that_diverged_is_no_cell_and_the_baseline_stays() -> None:
    results = [
        Outcome(BASELINE, 1, 3.2),
        Outcome(BASELINE, 2, float("nan")),
        Outcome(Pair(4, 0.2), 1, 3.1),
        Outcome(Pair(4, 0.2), 2, float("inf")),
        Outcome(Pair(8, 0.2), 1, 3.15),
    ]
    assert usable(results) == [results[0], results[4]]


# Two-sided 95 %, from tables of Student's t.
@pytest.mark.parametrize(("dof", "t"), [(2, 4.303), (5, 2.571), (20, 2.086)])
def test_the_quantiles_are_students(dof: float, t: float) -> None:
    assert t_quantile(dof) == pytest.approx(t, rel=0.02)
    assert Noise(1.0, dof, "").margin(2, 2) == pytest.approx(t, rel=0.02)


def test_the_lowest_of_many_is_given_more_room() -> None:
    # Two-sided 99 %, 20 degrees of freedom.
    assert Noise(1.0, 20, "").margin(2, 2, chosen_of=5) == pytest.approx(2.845, rel=0.02)
