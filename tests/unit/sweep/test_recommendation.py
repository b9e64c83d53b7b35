"""What is recommended: the bottom of the U, within the text, and not more than was shown."""

import pytest
from surfaces import made, paper

from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.recommendation import Limit, recommend
from tst_megatron.sweep.results import Result

POSITIONS = 20_000 * 1024 * 2048


def test_the_papers_table() -> None:
    found = recommend(paper())
    assert found.config == Config(7, 0.3)
    assert found.best == Config(7, 0.3)
    assert {Config(6, 0.3), Config(8, 0.3)} <= set(found.alike)
    assert Config(2, 0.3) not in found.alike
    assert not found.flat
    headline, *notes = found.sentences
    assert headline.startswith("Take s = ")
    assert headline.endswith("below the baseline.")
    assert any("s = 4, r = 0.3 needs the least text" in note for note in notes)


@pytest.mark.parametrize("tokens", [60e9, 80e9, 105e9])
def test_it_fits_the_text_there_is(tokens: float) -> None:
    limit = Limit(int(tokens), POSITIONS)
    found = recommend(paper(), limit)
    assert limit.needed(found.config) <= tokens
    assert limit.needed(found.config) > 0.9 * tokens
    assert limit.holds(found.best)
    assert all(not limit.holds(config) for config in found.too_much_text)
    assert not set(found.alike) & set(found.too_much_text)
    assert "of the" in found.sentences[-1]


def test_text_enough_for_everything_changes_nothing() -> None:
    assert recommend(paper(), Limit(10**13, POSITIONS)).config == recommend(paper()).config


def test_text_for_no_cell_recommends_none() -> None:
    found = recommend(paper(), Limit(POSITIONS, POSITIONS))
    assert found.config is None
    assert found.optimum is None
    assert "--tst-superpose output" in found.sentences[0]


def test_output_superposition_needs_no_more_text() -> None:
    found = recommend(paper(), Limit(POSITIONS, POSITIONS, reads_bags=False))
    assert found.config == recommend(paper()).config


def test_no_gain_recommends_no_bags() -> None:
    found = recommend(made(depth=-0.05))
    assert found.config == BASELINE
    assert found.sentences[0].startswith("No gain")


def test_a_gain_within_the_noise_is_not_claimed() -> None:
    found = recommend(made(seeds=2, noise=0.05, depth=0.02))
    assert found.gain.low < 0
    assert found.config == BASELINE or "no gain over the baseline is shown" in found.sentences[0]


def test_a_flat_grid_is_called_flat() -> None:
    configs = [Config(s, r) for s in (4, 6, 8) for r in (0.2, 0.4)]
    losses = [3.001, 2.999, 3.0, 3.002, 3.0, 3.001]
    results = [
        Result(config, seed, loss + 0.002 * (-1) ** (seed + i))
        for i, (config, loss) in enumerate(zip(configs, losses, strict=True))
        for seed in (1, 2)
    ]
    found = recommend([*results, Result(BASELINE, 1, 3.1), Result(BASELINE, 2, 3.1)])
    assert found.flat
    assert any("The grid is flat" in s and "s = 4, r = 0.2" in s for s in found.sentences)


def test_one_cell_is_recommended_without_a_fit() -> None:
    found = recommend([Result(BASELINE, 1, 3.2), Result(Config(4, 0.3), 1, 3.1)])
    assert found.config == Config(4, 0.3)
    assert found.fit is None
    assert found.gain.value == pytest.approx(0.1)
    assert "with no interval" in found.sentences[0]
    assert any("add --seeds" in sentence for sentence in found.sentences)


def test_without_a_baseline_no_gain_is_named() -> None:
    found = recommend([r for r in paper() if not r.config.is_baseline])
    assert "there is no baseline" in found.sentences[0]
