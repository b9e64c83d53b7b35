"""What is recommended: the bottom of the U, within the text, and not more than was shown."""

from dataclasses import replace
from functools import partial

import pytest
from surfaces import SEARCH, made, paper

from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.methods.superposition.fitted_u import fit_u
from tst_megatron.methods.superposition.search import BagLimit
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.statistics.interval import Interval
from tst_megatron.sweep.recommendation import recommend as recommend_of

recommend = partial(recommend_of, SEARCH)
POSITIONS = 20_000 * 1024 * 2048


def test_the_papers_table() -> None:
    found = recommend(paper())
    assert found.choice == Pair(7, 0.29)
    assert found.best == Pair(7, 0.3)
    assert {Pair(6, 0.3), Pair(8, 0.3)} <= set(found.alike)
    assert Pair(2, 0.3) not in found.alike
    assert not found.flat
    headline, *notes = found.sentences
    assert headline.startswith("Take s = ")
    assert headline.endswith("below the baseline.")
    assert any("s = 4, r = 0.3 needs the least text" in note for note in notes)


@pytest.mark.parametrize("tokens", [60e9, 80e9, 105e9])
def test_it_fits_the_text_there_is(tokens: float) -> None:
    limit = BagLimit(int(tokens), POSITIONS)
    found = recommend(paper(), limit)
    assert limit.needed(found.choice) <= tokens
    assert limit.needed(found.choice) > 0.9 * tokens
    assert limit.holds(found.best)
    assert all(not limit.holds(config) for config in found.too_much_text)
    assert not set(found.alike) & set(found.too_much_text)
    assert "of the" in found.sentences[-1]


def test_text_enough_for_everything_changes_nothing() -> None:
    assert recommend(paper(), BagLimit(10**13, POSITIONS)).choice == recommend(paper()).choice


def test_text_for_no_cell_recommends_none() -> None:
    found = recommend(paper(), BagLimit(POSITIONS, POSITIONS))
    assert found.choice is None
    assert found.optimum is None
    assert "--tst-superpose output" in found.sentences[0]


def test_output_superposition_needs_no_more_text() -> None:
    found = recommend(paper(), BagLimit(POSITIONS, POSITIONS, reads_bags=False))
    assert found.choice == recommend(paper()).choice


def test_no_gain_recommends_no_bags() -> None:
    found = recommend(made(depth=-0.05))
    assert found.choice == BASELINE
    assert found.sentences[0].startswith("No gain")


def test_a_gain_within_the_noise_is_not_claimed() -> None:
    found = recommend(made(seeds=2, noise=0.05, depth=0.02))
    assert found.gain.low < 0
    assert found.choice == BASELINE or "no gain over the baseline is shown" in found.sentences[0]


def test_a_flat_grid_is_called_flat() -> None:
    configs = [Pair(s, r) for s in (4, 6, 8) for r in (0.2, 0.4)]
    losses = [3.001, 2.999, 3.0, 3.002, 3.0, 3.001]
    results = [
        Outcome(config, seed, loss + 0.002 * (-1) ** (seed + i))
        for i, (config, loss) in enumerate(zip(configs, losses, strict=True))
        for seed in (1, 2)
    ]
    found = recommend([*results, Outcome(BASELINE, 1, 3.1), Outcome(BASELINE, 2, 3.1)])
    assert found.flat
    assert any("The grid is flat" in s and "s = 4, r = 0.2" in s for s in found.sentences)


def test_one_cell_is_recommended_without_a_fit() -> None:
    found = recommend([Outcome(BASELINE, 1, 3.2), Outcome(Pair(4, 0.3), 1, 3.1)])
    assert found.choice == Pair(4, 0.3)
    assert found.fit is None
    assert found.gain.value == pytest.approx(0.1)
    assert "with no interval" in found.sentences[0]
    assert any("add --seeds" in sentence for sentence in found.sentences)


def test_without_a_baseline_no_gain_is_named() -> None:
    found = recommend([r for r in paper() if not r.choice.is_baseline])
    assert "there is no baseline" in found.sentences[0]


def test_a_seed_a_run_halves_nothing() -> None:
    found = recommend([replace(result, seed=seed) for seed, result in enumerate(paper())])
    assert (found.choice, found.best) == (Pair(7, 0.29), Pair(7, 0.3))
    assert found.gain.value == pytest.approx(0.0731, abs=0.001)
    assert any("at 3.1392" in note for note in found.sentences)


def test_the_error_of_the_evaluation_makes_no_interval() -> None:
    results = [replace(r, stderr=0.003) for r in made(sizes=(4, 8), ratios=(0.2, 0.4), noise=0.01)]
    found = recommend(results)
    assert found.noise is None
    assert found.gain.low is None
    assert any(note.startswith("There are no intervals: one seed") for note in found.sentences)


def test_seeds_that_look_like_cells_make_no_interval() -> None:
    rows = {0.0: 1, 0.1: 2, 0.3: 3, 0.5: 4}
    found = recommend([r for r in made(seeds=4, noise=0.01) if rows[r.choice.step_ratio] == r.seed])
    assert found.noise is None
    assert found.optimum is not None
    assert found.optimum.bag_size.low is None
    assert any("the seeds' differences look like the cells'" in note for note in found.sentences)


def test_no_gain_is_not_said_of_a_cell_below_the_baseline() -> None:
    results = [
        replace(r, loss=3.1999) if r.choice == Pair(8, 0.1) else r for r in made(depth=-0.003)
    ]
    found = recommend(results)
    assert found.gain.value < 0
    assert found.choice != BASELINE
    assert "though no gain over the baseline is shown: it is -0.0" in found.sentences[0]


def test_no_gain_with_one_in_the_interval_is_not_shown() -> None:
    results = made(depth=-0.004, noise=0.002, sizes=(2, 4, 8))
    results = [replace(r, loss=3.2) if r.choice == BASELINE else r for r in results]
    found = recommend(results)
    assert found.choice == BASELINE
    assert found.gain.high > 0
    assert found.sentences[0].startswith("No gain is shown: neither a cell nor the fitted U")


def test_a_recommendation_stays_in_the_grid() -> None:
    results = made(best=(20.0, 0.05), sizes=(2, 4, 8), ratios=(0.125, 0.3, 0.5), seeds=2)
    noisy = [replace(r, loss=r.loss + 1e-4 * ((i * 7) % 5)) for i, r in enumerate(results)]
    found = recommend(noisy)
    assert found.choice == Pair(8, 0.125)
    assert found.sentences[0].startswith("Take s = 8 (8 or more), r = 0.125 (0.125 or less): ")
    assert any("so extend the grid there" in note for note in found.sentences)
    # Half of the grid was run whole, as after halving: its edges are not the grid's.
    asked = [Pair(s, r) for s in (2, 4, 8, 16) for r in (0.125, 0.3, 0.5)]
    notes = recommend(noisy, asked=asked).sentences
    assert any("so run more of the grid whole" in note for note in notes)


def test_the_smaller_size_is_taken_only_where_the_interval_holds_both() -> None:
    fit = fit_u(paper(), None)
    optimum = fit.optimum()
    assert fit.recommended(optimum, None).bag_size == 7
    narrow = replace(optimum, bag_size=Interval(7.6, 6.9, 7.8))
    assert fit.recommended(narrow, None).bag_size == 8
