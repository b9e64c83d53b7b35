"""A method without a story of its own is told in plain words."""

from tst_megatron.methods.story import Story, Told
from tst_megatron.runs.stages import Stage

STORY = Story("growth")
SMALL = Stage("small model", 100, method="growth")


def test_it_is_called_by_its_stages_and_their_shares() -> None:
    told = Told(((SMALL, 0.125), (Stage("large model", 50, method="growth"), None)), {}, {})
    assert STORY.words(told) == "small model for 12.5 % and large model"
    assert STORY.schedule(told) == "small model × 100, large model × 50"


def test_without_stages_by_its_name() -> None:
    told = Told((), {}, {})
    assert (STORY.words(told), STORY.schedule(told), STORY.schedule(None)) == (
        "growth",
        "on",
        "none",
    )


def test_its_sentences_name_it() -> None:
    assert STORY.subject == "growth"
    assert STORY.absence == "had no growth"
    assert "the baseline had growth and the candidate had not" in STORY.swapped
    assert 'The baseline "a" had growth itself' in STORY.on_both_sides("a")
