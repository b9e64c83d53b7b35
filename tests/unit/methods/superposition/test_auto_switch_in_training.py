"""A decision that can be made, and in time; and what goes on with a checkpoint."""

import argparse
import json

import pytest

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.open_schedule import AutoLengths, OpenSchedule
from tst_megatron.methods.superposition.resumption import is_same_schedule, settings
from tst_megatron.methods.superposition.stage_lengths import RunLength, StageLength
from tst_megatron.methods.superposition.switch import (
    AutoSwitch,
    check_auto_switch,
    rule_of,
    take_over,
)
from tst_megatron.methods.superposition.switch_rule import Rule

STEPS = 1000


def switch_of(
    high: float = 0.5, bag_size: int = 4, steps: int = STEPS
) -> tuple[AutoSwitch, OpenSchedule]:
    lengths = AutoLengths(bag_size, most=StageLength(high))
    schedule = OpenSchedule(lengths, RunLength(steps, lambda steps: 8 * steps))
    return AutoSwitch(schedule, rule_of(arguments(train_iters=steps), schedule)), schedule


def arguments(**own: object) -> argparse.Namespace:
    usual = {
        "train_iters": STEPS,
        "eval_interval": 20,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "data_parallel_size": 2,
        "num_workers": 2,
        "lr_warmup_fraction": None,
        "lr_warmup_samples": 0,
        "lr_warmup_iters": 50,
        "lr_decay_iters": None,
    }
    return argparse.Namespace(**usual | own)


def trained(switch: AutoSwitch, steps: int) -> list[int]:
    """Steps whose validation decided."""
    return [
        step
        for step in range(20, steps + 1, 20)
        if switch.measured(step, 6.0 - 0.1 * step**0.5 / 10) is not None
    ]


def test_one_validation_decides_and_closes_the_schedule() -> None:
    switch, schedule = switch_of()
    (measured_at,) = trained(switch, 480)
    assert switch.decision is not None
    assert switch.decision.measured_at == measured_at
    assert schedule.stages[0].num_samples == 8 * switch.decision.switch_step < 8 * 500


def test_going_back_before_the_decision_opens_it_again() -> None:
    switch, schedule = switch_of()
    (measured_at,) = trained(switch, 480)
    switch.go_back(measured_at)
    assert switch.decision is not None
    switch.go_back(measured_at - 1)
    assert switch.decision is None
    assert schedule.stages[0].num_samples == 8 * 500
    assert trained(switch, 480) == [measured_at]


def test_what_is_saved_goes_on_as_it_was() -> None:
    switch, schedule = switch_of()
    trained(switch, 480)
    saved = json.loads(json.dumps(switch.as_saved()))
    again, resumed = switch_of()
    again.restore(saved)
    assert again.as_saved() == switch.as_saved()
    assert again.decision == switch.decision
    assert resumed.stages == schedule.stages


def test_a_resume_compares_the_rule_and_not_the_measurements() -> None:
    switch, _ = switch_of()

    def saved(of: AutoSwitch) -> dict[str, object]:
        return settings({"stages": [], "superpose": "both", "auto": of.as_saved()})

    before = saved(switch)
    trained(switch, 480)
    assert saved(switch) == before != saved(switch_of(0.6)[0])
    assert settings({"stages": [(4, 8)]}) == {"stages": [(4, 8)]}


def test_a_switch_that_is_decided_may_be_fixed_where_it_is() -> None:
    """So that a run of ``auto`` can be extended: its stages are what a fixed schedule has."""
    switch, schedule = switch_of()
    trained(switch, 480)
    assert switch.decision is not None

    def saved(auto: AutoSwitch | None, samples: int) -> dict[str, object]:
        return {"stages": [(4, samples)]} | ({} if auto is None else {"auto": auto.as_saved()})

    end = schedule.stages[0].num_samples
    before, fixed = saved(switch, end), saved(None, end)
    assert is_same_schedule(before, fixed, step=481)
    assert not is_same_schedule(before, saved(None, end + 8), step=481)
    # Not yet decided, it may come to be another.
    undecided, open_schedule = switch_of()
    longest = open_schedule.stages[0].num_samples
    before, fixed = saved(undecided, longest), saved(None, longest)
    assert not is_same_schedule(before, fixed, step=499)
    assert is_same_schedule(before, fixed, step=500)


def test_a_longer_run_goes_on_with_what_was_measured() -> None:
    switch, _ = switch_of()
    trained(switch, 200)
    longer, _ = switch_of(steps=2 * STEPS)
    take_over(longer, switch.as_saved(), 200)
    assert longer.as_saved()["points"] == switch.as_saved()["points"]
    # The losses of other bags say nothing of these.
    other, _ = switch_of(bag_size=8)
    take_over(other, switch.as_saved(), 200)
    assert other.as_saved()["points"] == []


def test_a_longer_run_does_not_go_back_to_bags() -> None:
    decided, _ = switch_of()
    trained(decided, 480)
    assert decided.decision is not None
    ended = decided.decision.switch_step
    longer, schedule = switch_of(steps=4 * STEPS)
    with pytest.raises(UserError, match=rf"left its bags after step {ended}, .* 4:{ended}steps"):
        take_over(longer, decided.as_saved(), 600)
    # One that ended where it had to.
    undecided, _ = switch_of()
    with pytest.raises(UserError, match=r"left its bags after step 500, .* 4:500steps"):
        take_over(longer, undecided.as_saved(), 500)
    take_over(longer, undecided.as_saved(), 499)
    assert schedule.last_switch == 2000


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ({}, 50),
        ({"lr_warmup_fraction": 0.1, "lr_decay_iters": 800}, 80),
        ({"lr_warmup_samples": 81}, 11),
    ],
)
def test_the_warm_up_is_megatrons(flags: dict[str, object], steps: int) -> None:
    schedule = OpenSchedule(AutoLengths(4), RunLength(STEPS, lambda steps: 8 * steps))
    assert rule_of(arguments(**flags), schedule).warmup_steps == steps


RULE = Rule(bag_size=4, train_iters=STEPS, warmup_steps=50, first_switch=100, last_switch=500)


def test_a_decision_must_be_possible() -> None:
    check_auto_switch(arguments(eval_interval=120), RULE)  # At 480.
    with pytest.raises(UserError, match=r"--eval-interval 122 leaves .* no validation"):
        check_auto_switch(arguments(eval_interval=122), RULE)


def test_what_is_read_ahead_must_be_superposed() -> None:
    # Two micro-batches a step, two batches a worker: a step a worker.
    check_auto_switch(arguments(num_workers=16), RULE)
    with pytest.raises(UserError, match=r"reads 17 steps ahead.*use 16 or fewer"):
        check_auto_switch(arguments(num_workers=17), RULE)
