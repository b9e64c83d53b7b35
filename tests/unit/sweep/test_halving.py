"""Successive halving: its rungs, who goes on, what it costs and what it misses."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surfaces import paper

from tst_megatron.sweep.grid import Config
from tst_megatron.sweep.halving import Rung, Search, better, rungs_of, steps_of


@given(configs=st.integers(1, 100), steps=st.integers(8, 10**6))
@settings(deadline=None)
def test_rungs_end_in_whole_runs_and_always_lose_half(configs: int, steps: int) -> None:
    rungs = rungs_of(configs, steps)
    assert rungs[0].num_configs == configs
    assert rungs[-1].steps == steps
    for before, after in pairwise(rungs):
        assert after.num_configs == -(-before.num_configs // 2)
        assert abs(after.steps - 2 * before.steps) <= 1
    assert len(rungs) <= 4
    assert steps_of(rungs, 1) <= configs * steps


def test_an_eighth_of_all_down_to_whole_runs_of_an_eighth() -> None:
    assert rungs_of(28, 20_000) == (
        *(Rung(2500, 28), Rung(5000, 14), Rung(10_000, 7), Rung(20_000, 4)),
    )
    assert rungs_of(2, 1000) == (Rung(500, 2), Rung(1000, 1))
    assert rungs_of(1, 1000) == (Rung(1000, 1),)


def test_the_lowest_go_on_and_what_diverged_does_not() -> None:
    a, b, c = (Config(s, 0.3) for s in (2, 4, 8))
    assert better({a: float("nan"), b: 3.0, c: 2.9}, 2) == (c, b)


def test_regret_is_what_was_chosen_over_the_best() -> None:
    losses = {r.config: r.loss for r in paper() if not r.config.is_baseline}
    rungs = rungs_of(4, 20_000)
    four = [Config(7, 0.3), Config(6, 0.3), Config(4, 0.5), Config(2, 0.1)]
    # A first rung in whose short runs the best is among the worst.
    first = dict(zip(four, (9.0, 5.0, 6.0, 8.0), strict=True))
    second = {config: losses[config] for config in better(first, 2)}
    search = Search(rungs, (first, second, {Config(6, 0.3): 3.1423}), 1, 80_000, (four[0], 3.1392))
    assert search.chosen == Config(6, 0.3)
    assert search.regret == pytest.approx(0.0031)
    # 4 of a quarter, 2 of a half, 1 whole, of 4 whole ones.
    assert search.cost_share == pytest.approx(3 / 4)


def test_a_search_cut_short_has_chosen_nothing() -> None:
    search = Search(rungs_of(4, 1000), ({Config(2, 0.3): 3.0},), 1, 4000, None)
    assert (search.chosen, search.regret, search.is_done) == (None, None, False)
