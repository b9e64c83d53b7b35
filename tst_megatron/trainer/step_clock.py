"""Where a run's seconds go: computation, and everything else by its name.

The one idea: what is timed is what the trainer calls, so that a second is counted once: data waited
for inside a step is not computation. On a GPU a call returns before its work is done, so a block
begins and ends there when the GPU comes by: with events in its queue, which are read once they have
passed and which nobody waits for.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

COMPUTE = "compute"
DATA_WAIT = "data_wait"
EVALUATION = "evaluation"
CHECKPOINT = "checkpoint"
STARTUP = "startup"
_NAMED = (DATA_WAIT, EVALUATION, CHECKPOINT, STARTUP)


class Moments(Protocol):
    """How moments are marked, and read later."""

    @property
    def can_mark(self) -> bool:
        """Whether they can be marked now."""

    def mark(self) -> Any:
        """This moment."""

    def has_passed(self, moment: Any) -> bool:
        """Whether it is over, which is told at once."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two that have passed."""


class OnHost:
    """Moments of this process, where work is done by the time a call returns."""

    can_mark = True

    def mark(self) -> float:
        """Seconds of a clock that nobody sets."""
        return time.monotonic()

    def has_passed(self, moment: float) -> bool:
        """At once."""
        return True

    def seconds(self, begin: float, end: float) -> float:
        """The difference."""
        return end - begin


class OnDevice:
    """Moments in the queue of a GPU: those at which it gets to the mark.

    Args:
        cuda: ``torch.cuda``, whose current stream is marked.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    @property
    def can_mark(self) -> bool:
        """Not into a CUDA graph: an event of one cannot be read, and asking for any ends it."""
        return not self._cuda.is_current_stream_capturing()

    def mark(self) -> Any:
        """An event in the queue."""
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def has_passed(self, moment: Any) -> bool:
        """Whether the GPU has been there; does not wait for it."""
        return bool(moment.query())

    def seconds(self, begin: Any, end: Any) -> float:
        """By the GPU's clock, which tells milliseconds."""
        return float(begin.elapsed_time(end)) / 1000.0


@dataclass(frozen=True)
class _Block:
    """A block that is over for the process: its name, that of the block around it, and when."""

    name: str
    within: str | None
    begin: Any
    end: Any


class StepClock:
    """Seconds since the last logged step.

    Args:
        started: when the process started, seconds since the epoch.
    """

    def __init__(self, started: float) -> None:
        # The epoch's clock may be set while we run; it is read this once.
        self._last = time.monotonic() - max(0.0, time.time() - started)
        self._moments: Moments = OnHost()
        self._spent: dict[str, float] = {}
        self._open: list[str] = []
        # Blocks inside the open one, and for every one that nothing is around it and all in it.
        self._inside: list[_Block] = []
        self._closed: deque[list[_Block]] = deque()
        self.has_started = False
        """Whether a step or an evaluation has begun."""

    def follow(self, moments: Moments) -> None:
        """Measure what follows otherwise; no block is open."""
        self._moments = moments

    def start(self) -> None:
        """The first step or evaluation begins: all time up to here was start-up."""
        if not self.has_started:
            self.has_started = True
            self._spent[STARTUP] = time.monotonic() - self._last

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count a block's time under a name, and not under that of the block around it."""
        moments = self._moments
        if not moments.can_mark:
            yield
            return
        begin = moments.mark()
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()
            within = self._open[-1] if self._open else None
            self._inside.append(_Block(name, within, begin, moments.mark()))
            if within is None:
                self._closed.append(self._inside)
                self._inside = []
                self._count()

    def take(self) -> dict[str, float]:
        """Seconds since the last call, for a ``step`` line of the ledger.

        A GPU should have done all by now: what it has still to do counts in the next line.

        Returns:
            ``compute_s`` and ``other_s``, which make up the whole time, and the known parts of the
            latter: ``data_wait_s``, ``evaluation_s``, ``checkpoint_s``, ``startup_s``.
        """
        self._count()
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        spent, self._spent = self._spent, {}
        compute = spent.get(COMPUTE, 0.0)
        return {
            "compute_s": round(compute, 4),
            "other_s": round(max(0.0, elapsed - compute), 4),
            **{f"{name}_s": round(max(0.0, spent.get(name, 0.0)), 4) for name in _NAMED},
        }

    def _count(self) -> None:
        """Count what has passed: a block and all that is in it together, in their order."""
        moments = self._moments
        while self._closed and all(moments.has_passed(one.end) for one in self._closed[0]):
            for one in self._closed.popleft():
                spent = moments.seconds(one.begin, one.end)
                self._add(one.name, spent)
                if one.within is not None:
                    self._add(one.within, -spent)

    def _add(self, name: str, seconds: float) -> None:
        self._spent[name] = self._spent.get(name, 0.0) + seconds
