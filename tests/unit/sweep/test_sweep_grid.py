"""The cells of a sweep: which there are, in which order, and which lists are refused."""

import argparse
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surfaces import SEARCH, grid

from tst_megatron.errors import UserError
from tst_megatron.experiments.words import seeds_from_words
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.sweep.grid import Grid, grid_of

SIZES = st.lists(st.integers(2, 64), min_size=1, max_size=6, unique=True)
RATIOS = st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 0.9]), min_size=1, unique=True)


@given(sizes=SIZES, ratios=RATIOS)
@settings(deadline=None)
def test_every_pair_once_and_the_baseline_first(sizes, ratios) -> None:
    asked = grid(tuple(sorted(sizes)), tuple(sorted(ratios)))
    ordered = asked.ordered()
    assert ordered[0] == BASELINE
    assert sorted(ordered[1:]) == sorted(asked.choices)
    assert len(set(ordered)) == 1 + len(sizes) * len(ratios)


def test_the_order_begins_in_the_middle_and_then_goes_where_nothing_is_known() -> None:
    asked = grid((2, 4, 6, 16), (0.1, 0.3, 0.5))
    _, first, *others = asked.ordered()
    assert first == Pair(6, 0.3)
    corners = {Pair(s, r) for s in (2, 16) for r in (0.1, 0.5)}
    assert set(others[:4]) == corners


def of_words(sizes: list[str], ratios: list[str]) -> Grid:
    return grid_of(argparse.Namespace(bag_sizes=sizes, step_ratios=ratios))


def test_words_with_spaces_and_commas_are_one_grid() -> None:
    asked = of_words(["8,2", "4", "1", "4"], ["0.4", "0.2,0.4"])
    assert asked.values == ((2, 4, 8), (0.2, 0.4))
    assert seeds_from_words(["3", "1,2"]) == (3, 1, 2)


@pytest.mark.parametrize(
    ("sizes", "ratios", "says"),
    [
        ([], ["0.2"], "--bag-sizes is empty"),
        (["4"], [], "--step-ratios is empty"),
        (["4"], [","], "--step-ratios is empty"),
        (["0"], ["0.2"], "--bag-sizes 0 is below 1"),
        (["-2"], ["0.2"], "--bag-sizes -2 is below 1"),
        (["1"], ["0.2"], "--bag-sizes has only 1, which is the baseline"),
        (["4.5"], ["0.2"], "--bag-sizes 4.5 is no whole number"),
        (["4"], ["0"], "--step-ratios 0 is not between 0 and 1"),
        (["4"], ["1"], "--step-ratios 1 is not between 0 and 1"),
        (["4"], ["nan"], "--step-ratios nan is not between 0 and 1"),
        (["4"], ["a third"], "--step-ratios a is no number"),
    ],
)
def test_a_bad_list_is_one_sentence(sizes, ratios, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        of_words(sizes, ratios)


@pytest.mark.parametrize(
    ("words", "says"),
    [([], "--seeds is empty"), (["1", "1"], "names 1 twice"), (["0"], "--seeds 0 is below 1")],
)
def test_bad_seeds_are_one_sentence(words, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        seeds_from_words(words)


@pytest.mark.parametrize(("ratio", "phase"), [(0.04, "superposition"), (0.96, "recovery")])
def test_a_phase_without_a_step_is_refused(ratio: float, phase: str) -> None:
    choices = grid((4,), (ratio,)).choices
    SEARCH.check(choices, 100)
    with pytest.raises(UserError, match=f"no step of 10 to the {phase} phase"):
        SEARCH.check(choices, 10)
