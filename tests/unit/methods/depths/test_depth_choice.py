"""Choosing tokens, and their rows out of a sequence and back, against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.methods.depths.choice import added, highest, last_chosen, passing, taken

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))


@given(SHAPES, st.data())
def test_the_highest_of_every_part_in_order(shape, data) -> None:
    parts, length, batch = shape
    each = data.draw(st.integers(1, length))
    scores = torch.randn(parts * length, batch)
    positions = highest(scores, each * parts, parts)
    assert positions.shape == (each * parts, batch)
    for column in range(batch):
        expected: list[int] = []
        for part in range(parts):
            own = range(part * length, (part + 1) * length)
            best = sorted(own, key=lambda at: -float(scores[at, column]))[:each]
            expected += sorted(best)
        assert positions[:, column].tolist() == expected
    lowest = last_chosen(scores, positions, parts)
    for part in range(parts):
        for column in range(batch):
            rows = positions[part * each : (part + 1) * each, column]
            assert lowest[part, column] == scores[rows, column].min()


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_all_that_pass_in_order_and_then_what_fills_up(of_each, unit, least) -> None:
    passes = torch.tensor(of_each).transpose(0, 1)
    length = passes.shape[0]
    chosen = passing(passes, unit, least)
    places = chosen.positions.shape[0]
    most = max(max(map(sum, of_each)), least)
    assert places == min(-(-most // unit) * unit, length)
    for column, flags in enumerate(of_each):
        real = [at for at, is_in in enumerate(flags) if is_in]
        others = [at for at, is_in in enumerate(flags) if not is_in]
        assert chosen.positions[:, column].tolist() == (real + others)[:places]
        assert chosen.fills[:, column].tolist() == [at >= len(real) for at in range(places)]


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_go_out_and_back(batch: int) -> None:
    length, hidden, number = 7, 5, 4
    sequence = torch.randn(length, batch, hidden, dtype=torch.float64, requires_grad=True)
    order = torch.stack([torch.randperm(length)[:number].sort().values for _ in range(batch)], 1)
    change = torch.randn(number, batch, hidden, dtype=torch.float64, requires_grad=True)
    rows, _ = taken(sequence, order)
    found = added(sequence, order, change)
    for column in range(batch):
        assert torch.equal(rows[:, column], sequence[order[:, column], column])
        expected = sequence[:, column].clone()
        for place, at in enumerate(order[:, column]):
            expected[at] += change[place, column]
        assert torch.equal(found[:, column], expected)
    assert torch.autograd.gradcheck(
        lambda x, y: (
            (taken(x, order)[0] * y).sum() + added(taken(x, order)[1], order, y).square().sum()
        ),
        (sequence, change),
    )
