"""Rows of n-grams against Python's integers, an n-gram at a time, and how evenly they fall."""

import pytest
import torch

from tst_megatron.methods.ngrams.ngram_hashing import NOTHING, rows_of

WORD = 2**64
BASE = 0x9E3779B97F4A7C15


def mixed(number: int) -> int:
    """SplitMix64's finalizer, of unsigned numbers."""
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) % WORD
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) % WORD
    return number ^ number >> 31


def row(ngram: list[int], order: int, num_rows: int) -> int:
    """Of tokens, the last one first."""
    number = sum((token + 1) * BASE**back for back, token in enumerate(ngram))
    number = mixed((number + (order - 1) * BASE) % WORD)
    signed = number - WORD if number >= WORD // 2 else number
    return signed % num_rows


def slow_rows(text: list[int], orders: tuple[int, ...], num_rows: int, end: int | None) -> list:
    found = []
    for place, token in enumerate(text):
        here = []
        for table, order in enumerate(orders):
            ngram = [token]
            for further in reversed(text[max(0, place - order + 1) : place]):
                if further < 0 or further == end:
                    break
                ngram.append(further)
            here.append(table * num_rows + row(ngram, order, num_rows))
        found.append(here)
    return found


@pytest.mark.parametrize("end", [None, 3])
@pytest.mark.parametrize("orders", [(2,), (3, 4, 5, 6, 7, 8), (2, 5, 64)], ids=str)
def test_rows_are_those_of_pythons_integers(orders, end, generator) -> None:
    tokens = torch.randint(0, 6, (3, 90), generator=generator)
    tokens[1, 20:23] = NOTHING
    # As large as ids get.
    tokens[2] *= 50_000
    cut = 37
    reach = orders[-1] - 1
    nothing = torch.full((3, reach), NOTHING)
    whole = rows_of(tokens, nothing, orders, 1009, end)
    for sample, text in zip(whole.tolist(), tokens.tolist(), strict=True):
        # Of an empty place nobody asks.
        pairs = zip(sample, slow_rows(text, orders, 1009, end), text, strict=True)
        assert all(mine == slow for mine, slow, token in pairs if token != NOTHING)
    # The same in two stretches, the second of which is told what came before.
    before = torch.cat((nothing, tokens[:, :cut]), dim=1)[:, -reach:]
    assert torch.equal(rows_of(tokens[:, cut:], before, orders, 1009, end), whole[:, cut:])


def test_rows_fall_evenly(generator) -> None:
    """n-grams of bytes that differ in a bit, or in order, share a row as chance has it."""
    tokens = torch.randint(0, 256, (1, 200_000), generator=generator)
    num_rows, orders = 1000, (3, 8)
    rows = rows_of(tokens, torch.full((1, 7), NOTHING), orders, num_rows, None)
    for table in range(len(orders)):
        of_one = rows[0, :, table] - table * num_rows
        counts = torch.bincount(of_one, minlength=num_rows).double()
        assert len(counts) == num_rows
        # Chi-square of 999 degrees of freedom: its mean and 6 standard deviations.
        chi_square = float(((counts - 200) ** 2 / 200).sum())
        assert abs(chi_square - 999) < 6 * (2 * 999) ** 0.5
