"""What the benchmarks measure with; what they measure is no test's business."""

import dataclasses

import pytest
import torch

from benchmarks.measure import Row, memory_row, peak_bytes, quartiles, take_turns

MIB = 2**20


def test_peak_memory_is_what_is_in_use_at_once():
    def prepare():
        made = torch.ones(MIB // 4)

        def work():
            for _ in range(3):
                torch.ones(2 * MIB // 4)
            return made + 1.0

        return work

    # The inputs and the larger of what is made in turn.
    assert peak_bytes(prepare) == 3 * MIB


def test_memory_that_both_need_is_taken_off():
    def of(mib):
        return lambda: lambda: torch.ones(mib * MIB // 4)

    row = memory_row("", "", of(3), of(5), at_most=0.5, without=MIB)
    assert row.ratio == 0.5
    assert row.met


def test_sides_take_turns_and_the_first_does_not_count():
    order = []

    def side(name):
        return lambda: lambda: order.append(name)

    taken = take_turns(side("ours"), side("theirs"), turns=3)
    assert order == ["theirs", "ours", "ours", "theirs"] * 2
    assert [len(values) for values in dataclasses.astuple(taken)] == [3, 3, 3, 3]


@pytest.mark.parametrize(("at_most", "met"), [(True, [True, True, False]), (False, [0, 1, 1])])
def test_a_target_is_a_bound(at_most, met):
    rows = [Row("", "", "", ratio, (ratio, ratio), 1.0, at_most, {}) for ratio in (0.9, 1.0, 1.1)]
    assert [row.met for row in rows] == met
    assert rows[0].as_json()["met"] == met[0]


def test_quartiles_lie_around_the_median():
    assert quartiles([float(n) for n in range(1, 12)]) == (3.0, 9.0)
