"""A schedule that is closed while a run goes on: always a schedule, with text for any switch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.methods.superposition.open_schedule import (
    AutoLengths,
    OpenSchedule,
    is_auto,
    parse_auto,
)
from tst_megatron.methods.superposition.schedule import BagSchedule, Stage
from tst_megatron.methods.superposition.stage_lengths import (
    RunLength,
    ScheduleError,
    StageLength,
)


def open_schedule(train_iters=100, low=0.1, high=0.5):
    lengths = AutoLengths(4, StageLength(low), StageLength(high))
    return OpenSchedule(lengths, RunLength(train_iters, lambda steps: 8 * steps))


def given_as(text, train_iters=100):
    run = RunLength(train_iters, lambda steps: 8 * steps, lambda bag_size: 16 * bag_size)
    return OpenSchedule(parse_auto(text), run)


def test_the_flag():
    assert parse_auto("auto:4") == AutoLengths(4, StageLength(0.1), StageLength(0.5))
    assert parse_auto("auto:8:0.2,0.4") == AutoLengths(8, StageLength(0.2), StageLength(0.4))
    limits = StageLength(2000, "steps"), StageLength(10**9, "tokens")
    assert parse_auto("auto:8:2000steps,1Btokens") == AutoLengths(8, *limits)
    assert is_auto("auto:4")
    assert not is_auto("4:0.1")
    assert not is_auto(None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("auto", "auto:4:0.1,0.5"),
        ("auto:x", "auto:4:0.1,0.5"),
        ("auto:4:0.1", "auto:4:0.1,0.5"),
        ("auto:4:0.1,0.2,0.3", "auto:4:0.1,0.5"),
        ("auto:4:0.1,0.2:8", "auto:4:0.1,0.5"),
        ("auto:1", "use 2 or more"),
        ("auto:4:0.5,0.1", "the smaller one first"),
        ("auto:4:0.5,0.5", "the smaller one first"),
        ("auto:4:0.1,1.1", "between 0 and 1"),
        ("auto:4:nan,0.5", "between 0 and 1"),
        ("auto:4:20steps,10steps", "the smaller one first"),
        ("auto:4:20step,30steps", "auto:4:2000steps,6000steps"),
    ],
)
def test_another_form_is_refused(text, says):
    with pytest.raises(ScheduleError, match=says):
        parse_auto(text)


def test_a_stage_of_no_steps_is_refused():
    with pytest.raises(ScheduleError, match="rounds to 0 of 10 steps"):
        open_schedule(10, 0.0, 0.01)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("auto:4:20steps,0.5", 20, 50),
        ("auto:4:0.1,60steps", 10, 60),
        # A step reads 8 samples of 16 positions of 4 tokens.
        ("auto:4:0steps,10Ktokens", 0, round(10_000 / (8 * 16 * 4))),
    ],
)
def test_limits_in_steps_and_tokens(text, first, last):
    schedule = given_as(text)
    assert (schedule.first_switch, schedule.last_switch) == (first, last)


@pytest.mark.parametrize("text", ["auto:4:60steps,0.5", "auto:4:0.1,101steps"])
def test_limits_that_do_not_fit_the_run_are_told_in_steps(text):
    with pytest.raises(ScheduleError, match="steps of 100: use a least below the most"):
        given_as(text)


def test_open_it_is_superposed_as_long_as_may_be():
    assert open_schedule().stages == (Stage(4, 400), Stage(1, 400))


@given(st.integers(10, 50), st.integers(0, 1000))
def test_closed_it_is_the_fixed_schedule(switch, index):
    schedule = open_schedule()
    schedule.close(switch)
    fixed = BagSchedule((Stage(4, 8 * switch), Stage(1, 800 - 8 * switch)))
    assert schedule.stages == fixed.stages
    assert schedule.starts == fixed.starts
    assert schedule.num_samples == fixed.num_samples == 800
    assert schedule.locate(index) == fixed.locate(index)
    # Text is there for what is read, and is laid out the same wherever the switch is.
    for bag_size in (1, 4):
        read = fixed.samples_of_bag_size(bag_size)
        assert read <= schedule.text.samples_of_bag_size(bag_size)
    assert schedule.text == open_schedule().text
    schedule.close(None)
    assert schedule.stages == open_schedule().stages


@pytest.mark.parametrize("step", [9, 51])
def test_a_switch_without_text_for_it_is_an_error(step):
    with pytest.raises(ValueError, match="from 10 to 50"):
        open_schedule().close(step)
