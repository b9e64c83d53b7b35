import pytest

from tst_megatron.methods.events import Progress
from tst_megatron.runs.stages import Stage
from tst_megatron.trainer.pace import Pace

STAGES = (Stage("slow", 40, tokens_a_position=4), Stage("quick", 60))


def progress(samples: int) -> Progress:
    """Of samples of 8 positions."""
    index = 0 if samples <= 40 else 1
    tokens = 8 * (4 * min(samples, 40) + max(0, samples - 40))
    return Progress(samples, index, STAGES[index], samples=samples, data_tokens=tokens)


def seconds(training: float, between: float = 0.0, startup: float = 0.0) -> dict[str, float]:
    """As a clock gives them: a tenth of the training waits for data."""
    return {
        "compute_s": 0.9 * training,
        "other_s": 0.1 * training + between + startup,
        "data_wait_s": 0.1 * training,
        "evaluation_s": 0.75 * between,
        "checkpoint_s": 0.25 * between,
        "startup_s": startup,
    }


def measured(*intervals: tuple[int, dict[str, float]]) -> Pace:
    """A pace after intervals that end with so many samples."""
    pace, before = Pace(), progress(0)
    for samples, spent in intervals:
        now = progress(samples)
        pace.measure(before, now, spent)
        before = now
    return pace


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert measured().in_words(STAGES, 0) == ""
    assert measured((0, seconds(3.0))).in_words(STAGES, 0) == ""


def test_tokens_are_of_the_last_interval_without_validations() -> None:
    pace = measured((10, seconds(5.0, startup=100.0)), (20, seconds(2.0, between=50.0)))
    assert pace.tokens_per_second == pytest.approx(10 * 8 * 4 / 2.0)


def test_a_stage_that_has_not_begun_is_as_fast_as_the_last_measured() -> None:
    pace = measured((10, seconds(20.0)), (20, seconds(20.0)))
    assert pace.seconds_left(STAGES, 20) == pytest.approx(2.0 * 80)


def test_each_stage_has_a_pace_of_its_own() -> None:
    pace = measured(
        *((10, seconds(20.0)), (20, seconds(20.0))),
        # An interval with the switch in it is of neither stage.
        *((50, seconds(900.0)), (60, seconds(5.0)), (70, seconds(5.0))),
    )
    assert pace.seconds_left(STAGES, 70) == pytest.approx(0.5 * 30)
    # Gone back to a checkpoint.
    assert pace.seconds_left(STAGES, 30) == pytest.approx(2.0 * 10 + 0.5 * 60)


def test_the_first_steps_are_forgotten() -> None:
    assert measured((10, seconds(900.0)), (20, seconds(20.0))).seconds_left(
        STAGES, 20
    ) == pytest.approx(2.0 * 80)


def test_what_is_spent_between_steps_is_added_in_proportion() -> None:
    pace = measured((10, seconds(20.0)), (20, seconds(20.0, between=10.0)))
    assert pace.seconds_left(STAGES, 20) == pytest.approx(2.0 * 80 * (1 + 10 / 40))


def test_the_pace_follows_the_newest_intervals() -> None:
    pace = measured(*((samples, seconds(20.0)) for samples in (10, 20)), (30, seconds(40.0)))
    left = pace.seconds_left(STAGES, 30)
    assert left is not None
    assert 2.0 * 70 < left < 4.0 * 70


def test_nothing_is_left_at_the_end_and_the_words_are_megatrons_form() -> None:
    pace = measured((10, seconds(5.0)), (20, seconds(5.0)))
    assert pace.seconds_left(STAGES, 100) == 0.0
    words = pace.in_words(STAGES, 20)
    assert words == " data tokens per second: 64.0 | time left: 40.0s |"
    fields = dict(part.split(": ") for part in words.strip(" |").split(" | "))
    assert float(fields["data tokens per second"]) == 64.0
