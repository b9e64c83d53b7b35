"""What a superposed run reads of its text, by bag size."""

import pytest

from tst_megatron.methods.superposition.open_schedule import AutoLengths, OpenSchedule
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.settings import BagObjective, Superposition
from tst_megatron.methods.superposition.stage_lengths import RunLength, StageLength
from tst_megatron.methods.superposition.text import held_out_text, text_of_bags, text_of_stages

L = 8


def schedule_of(*shares: tuple[int, float]) -> BagSchedule:
    return BagSchedule.from_shares(shares, 100, lambda steps: 4 * steps)


def test_stages_of_one_bag_size_are_one_part() -> None:
    parts = text_of_stages(schedule_of((4, 0.2), (2, 0.1), (4, 0.1)), L)
    assert [(part.name, part.samples) for part in parts] == [
        ("bags of 4 (stages 1, 3)", 120),
        ("bags of 2", 40),
        ("ordinary", 240),
    ]
    assert [part.in_words for part in parts] == [
        f"the stage with bag size {size}" for size in (4, 2, 1)
    ]
    assert [part.facts for part in parts] == [{"bag_size": size} for size in (4, 2, 1)]
    assert sum(part.data_tokens for part in parts) == (120 * 4 + 40 * 2 + 240) * L


def test_bags_of_one_share_the_text_of_the_ordinary_stage() -> None:
    (part,) = text_of_stages(schedule_of((1, 0.5)), L)
    assert (part.name, part.samples) == ("bags of 1 (stages 1, 2)", 400)
    # A stage without samples reads nothing.
    (part,) = text_of_stages(schedule_of((4, 1.0)), L)
    assert (part.name, part.samples) == ("bags of 4", 400)


@pytest.mark.parametrize(("boundary", "unit"), [("any", 1), ("document", 4)])
def test_a_bag_that_ends_with_its_document_is_a_unit(boundary: str, unit: int) -> None:
    of_bags, ordinary = text_of_stages(schedule_of((4, 0.5)), L, boundary)
    assert (of_bags.unit, ordinary.unit) == (unit, 1)
    assert of_bags.step == (L + 1) * 4 - unit


def test_an_open_schedule_has_text_for_the_longest_of_either_stage() -> None:
    lengths = AutoLengths(4, StageLength(0.2), StageLength(0.6))
    parts = text_of_stages(OpenSchedule(lengths, RunLength(40, lambda steps: steps * 4)), L)
    assert [part.samples for part in parts] == [24 * 4, 32 * 4]


@pytest.mark.parametrize(("superpose", "largest"), [("both", 6), ("input", 6), ("output", 1)])
def test_the_largest_sample_of_validation_is_of_the_largest_bags(
    superpose: str, largest: int
) -> None:
    superposition = Superposition(schedule_of((2, 0.1), (6, 0.1)), superpose, BagObjective())
    part = held_out_text(superposition, 3, L)
    assert part.needed == text_of_bags(largest, 3, L).needed == 3 * ((L + 1) * largest - 1) + 1
