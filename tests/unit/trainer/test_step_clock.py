import inspect
from argparse import Namespace
from typing import Any

import pytest
from megatron.core.timers import Timer
from megatron.training import training as trainer

from tst_megatron.methods.events import Listener, LoggedStep, Progress
from tst_megatron.methods.method import Ordinary
from tst_megatron.runs.stages import ordinary_stage
from tst_megatron.stock.batch import Batch
from tst_megatron.trainer import forward_step, hooks, step_clock
from tst_megatron.trainer.forward_step import ForwardStep
from tst_megatron.trainer.hooks import LossAverages
from tst_megatron.trainer.pace import Pace
from tst_megatron.trainer.step_clock import (
    CHECKPOINT,
    COMPUTE,
    DATA_WAIT,
    EVALUATION,
    OnDevice,
    StepClock,
)


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


class Gpu:
    """As much of ``torch.cuda`` as a clock may ask for: a queue of work, which takes its time.

    Attributes:
        idle_from: when all work that was asked for is done.
        is_capturing: whether what is asked for goes into a CUDA graph.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.idle_from = clock.now
        self.is_capturing = False

    def work(self, seconds: float) -> None:
        """Ask for work: returns at once."""
        self.idle_from = max(self.idle_from, self._clock.now) + seconds

    def wait(self) -> None:
        """What ``.item()`` does."""
        self._clock.now = max(self._clock.now, self.idle_from)

    def is_current_stream_capturing(self) -> bool:
        return self.is_capturing

    def Event(self, enable_timing: bool) -> "Event":  # noqa: N802  # torch's name.
        assert enable_timing
        return Event(self, self._clock)


class Event:
    """Passed when the queue before it is done; whoever asks for more too soon fails."""

    def __init__(self, gpu: Gpu, clock: Clock) -> None:
        self._gpu, self._clock = gpu, clock
        self._at: float | None = None

    def record(self) -> None:
        assert not self._gpu.is_capturing
        self._at = max(self._gpu.idle_from, self._clock.now)

    def query(self) -> bool:
        assert self._at is not None
        assert not self._gpu.is_capturing
        return self._at <= self._clock.now

    def elapsed_time(self, end: "Event") -> float:
        assert self.query()
        assert end.query()
        return (end._at - self._at) * 1000.0


@pytest.fixture
def gpu(clock: Clock) -> Gpu:
    return Gpu(clock)


def on_gpu(gpu: Gpu) -> StepClock:
    """A clock that has started on it."""
    steps = StepClock(started=1000.0)
    steps.follow(OnDevice(gpu))
    steps.start()
    return steps


class Model:
    """Works for five seconds on the GPU."""

    training, vp_stage = True, None

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._gpu.work(5)


class OfPackedDocuments(Ordinary):
    """Takes a second for a batch, and then waits for the lengths of documents."""

    stages = (ordinary_stage(8),)

    def __init__(self, clock: Clock, gpu: Gpu) -> None:
        super().__init__(Namespace())
        self._clock, self._gpu = clock, gpu

    def batch(self, wanted: Any, ordinary: Any) -> Batch:
        self._clock.now += 1
        self._gpu.wait()
        return Batch()


@pytest.fixture
def forward(clock: Clock, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> ForwardStep:
    """Megatron's forward step, of a run that waits for the GPU in every batch."""
    args = Namespace(micro_batch_size=1, consumed_train_samples=0)
    monkeypatch.setattr(forward_step, "get_args", lambda: args)
    timer = Namespace(start=lambda: None, stop=lambda: None)
    monkeypatch.setattr(forward_step, "get_timers", lambda: lambda name, log_level=0: timer)
    return ForwardStep(OfPackedDocuments(clock, gpu))


def test_what_a_gpu_still_computes_is_no_wait_for_data(
    clock: Clock, gpu: Gpu, forward: ForwardStep
) -> None:
    forward.clock = steps = on_gpu(gpu)
    with steps.measure(COMPUTE):
        for _ in range(3):
            forward(None, Model(gpu))
        # The optimizer's.
        gpu.work(2)
    assert clock.now == 1000 + 1 + 5 + 5
    # Megatron's log.
    gpu.wait()
    clock.now += 0.5
    # The GPU waits for the first batch alone: the others come while it computes.
    assert steps.take() == {
        "compute_s": 3 * 5 + 2.0,
        "other_s": 1.5,
        "data_wait_s": 1.0,
        "evaluation_s": 0.0,
        "checkpoint_s": 0.0,
        "startup_s": 0.0,
    }


def test_what_the_gpu_has_still_to_do_counts_in_the_next_line(clock: Clock, gpu: Gpu) -> None:
    steps = on_gpu(gpu)
    with steps.measure(COMPUTE):
        with steps.measure(DATA_WAIT):
            clock.now += 1
        gpu.work(3)
    # The wait is over; the step that it is taken from is not.
    seconds = steps.take()
    assert (seconds["compute_s"], seconds["data_wait_s"], seconds["other_s"]) == (0.0, 0.0, 1.0)
    with steps.measure(EVALUATION):
        gpu.work(4)
        gpu.wait()
    seconds = steps.take()
    assert (seconds["compute_s"], seconds["data_wait_s"]) == (3.0, 1.0)
    assert seconds["evaluation_s"] == 4.0


def test_nothing_is_asked_of_a_gpu_whose_graph_is_captured(clock: Clock, gpu: Gpu) -> None:
    steps = on_gpu(gpu)
    with steps.measure(COMPUTE):
        gpu.is_capturing = True
        with steps.measure(DATA_WAIT):
            clock.now += 1
        gpu.is_capturing = False
        gpu.work(3)
    gpu.wait()
    seconds = steps.take()
    assert (seconds["compute_s"], seconds["data_wait_s"]) == (4.0, 0.0)


class Steps(Listener):
    """Keeps the seconds of every logged step."""

    def __init__(self) -> None:
        self.seconds: list[Any] = []

    def step_logged(self, step: LoggedStep) -> None:
        self.seconds.append(step.seconds)


def test_a_logged_step_has_what_the_gpu_did_until_megatron_printed_it(
    clock: Clock, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it prints, Megatron waits for the GPU; before that, the step is not over there."""

    def log(loss_dict, total_loss_dict, learning_rate, iteration, *, skipped_iter, grad_norm):
        if iteration % 2 == 0:
            gpu.wait()
            trainer.print_rank_last("a step |")

    printed: list[str] = []
    monkeypatch.setitem(hooks._ORIGINALS, "training_log", log)
    monkeypatch.setattr(trainer, "print_rank_last", printed.append)
    wrapped, listener = object.__new__(hooks._Hooks), Steps()
    vars(wrapped).update(
        args=Namespace(log_interval=2),
        run=Namespace(stages=(ordinary_stage(4),)),
        progress=Namespace(after=lambda step, lengths: Progress(step, 0, ordinary_stage(4), step)),
        clock=on_gpu(gpu),
        pace=Pace(),
        losses=LossAverages(("lm loss",)),
        listeners=(listener,),
        _logged=Progress(0, 0, ordinary_stage(4)),
    )
    for step in range(1, 5):
        with wrapped.clock.measure(COMPUTE):
            gpu.work(step)
        wrapped.training_log({}, {}, 1e-3, step, skipped_iter=0, grad_norm=None)
    assert [one["compute_s"] for one in listener.seconds] == [1 + 2, 3 + 4]
    assert len(printed) == 2
    assert all(" phase: ordinary | stage: 0 |" in line for line in printed)


def test_megatron_has_waited_for_the_gpu_when_it_prints_a_step() -> None:
    """As our wrapper of its print takes for granted."""
    source = inspect.getsource(hooks._ORIGINALS["training_log"])
    waits = source.index("timers('interval-time').elapsed(barrier=True")
    assert waits < source.index("print_rank_last(log_string)")
    assert "torch.cuda.synchronize()" in inspect.getsource(Timer.stop)
    assert "self.stop(barrier=barrier)" in inspect.getsource(Timer.elapsed)
