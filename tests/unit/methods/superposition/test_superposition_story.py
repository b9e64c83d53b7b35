from typing import Any

import pytest

from tst_megatron.methods.story import Told
from tst_megatron.methods.superposition.method import METHOD
from tst_megatron.runs.stages import Stage

STORY = METHOD.story()


def bags(size: int, samples: int = 100) -> Stage:
    return Stage(f"bags of {size}", samples, size, "bag loss", STORY.name, {"bag_size": size})


@pytest.mark.parametrize(
    ("facts", "flags", "words"),
    [
        ({}, {}, "bags of 4 for 25 % and of 2 for 12.5 %"),
        ({"superpose": "input"}, {}, "bags of 4 for 25 % and of 2 for 12.5 %, input only"),
        ({"bag_weights": "power"}, {}, "bags of 4 for 25 % and of 2 for 12.5 %, power weights"),
        ({}, {"tst_schedule": "auto:4"}, "bags by measurement (auto:4)"),
        ({}, {"tst_schedule": "4:0.25,2:0.125"}, "bags of 4 for 25 % and of 2 for 12.5 %"),
    ],
)
def test_groups_are_called_by_their_bags(facts: Any, flags: Any, words: str) -> None:
    stages = ((bags(4), 0.25), (bags(2), 0.125))
    assert STORY.words(Told(stages, facts, flags)) == words


def test_a_share_that_is_not_known_is_left_out() -> None:
    assert STORY.words(Told(((bags(4), None),), {}, {})) == "bags of 4"


def test_bags_of_one_change_nothing() -> None:
    assert STORY.words(Told(((bags(1), 0.5),), {}, {})) == ""


def test_a_stage_is_known_by_the_size_of_its_bags() -> None:
    found = STORY.stage({"bag_size": 4})
    assert found == Stage("bags of 4", 0, 4, "bag loss", "superposition", {"bag_size": 4})
    ordinary = STORY.stage({"bag_size": 1})
    assert ordinary is not None
    assert (ordinary.name, ordinary.is_ordinary) == ("single tokens", True)
    assert STORY.stage({}) is None
    assert STORY.stage({"other": 1}) is None


def test_the_schedule_in_a_table() -> None:
    told = Told(((bags(4, 20_000), 0.25), (bags(2), None)), {}, {})
    assert STORY.schedule(told) == "4 × 20,000, 2 × 100"
    assert STORY.schedule(None) == "none"
