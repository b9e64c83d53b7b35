import pytest

from tst_megatron.trainer import step_clock
from tst_megatron.trainer.step_clock import CHECKPOINT, COMPUTE, DATA_WAIT, StepClock


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_clock, "time", clock)
    return clock


def test_every_second_is_counted_once(clock: Clock) -> None:
    steps = StepClock(started=990.0)
    clock.now += 5
    steps.start()
    with steps.measure(COMPUTE):
        clock.now += 2
        with steps.measure(DATA_WAIT):
            clock.now += 3
        clock.now += 1
    with steps.measure(CHECKPOINT):
        clock.now += 7
    clock.now += 0.5
    assert steps.take() == {
        "compute_s": 3.0,
        "other_s": 25.5,
        "data_wait_s": 3.0,
        "evaluation_s": 0.0,
        "checkpoint_s": 7.0,
        "startup_s": 15.0,
    }


def test_a_line_has_the_seconds_since_the_last(clock: Clock) -> None:
    steps = StepClock(started=1000.0)
    steps.start()
    steps.take()
    steps.start()
    with steps.measure(COMPUTE):
        clock.now += 2
    seconds = steps.take()
    assert (seconds["compute_s"], seconds["other_s"], seconds["startup_s"]) == (2.0, 0.0, 0.0)


def test_a_step_that_fails_is_counted_too(clock: Clock) -> None:
    steps = StepClock(started=1000.0)

    def fails() -> None:
        with steps.measure(COMPUTE):
            clock.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert steps.take()["compute_s"] == 2.0
