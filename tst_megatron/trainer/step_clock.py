"""Where a run's seconds go: computation, and everything else by its name.

The one idea: what is timed is what the trainer calls, so that a second is counted once: data waited
for inside a step is not computation.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

COMPUTE = "compute"
DATA_WAIT = "data_wait"
EVALUATION = "evaluation"
CHECKPOINT = "checkpoint"
STARTUP = "startup"
_NAMED = (DATA_WAIT, EVALUATION, CHECKPOINT, STARTUP)


class StepClock:
    """Seconds since the last logged step.

    Args:
        started: when the process started, seconds since the epoch.
    """

    def __init__(self, started: float) -> None:
        # The epoch's clock may be set while we run; it is read this once.
        self._last = time.monotonic() - max(0.0, time.time() - started)
        self._spent: dict[str, float] = {}
        self._open: list[str] = []
        self.has_started = False
        """Whether a step or an evaluation has begun."""

    def start(self) -> None:
        """The first step or evaluation begins: all time up to here was start-up."""
        if not self.has_started:
            self.has_started = True
            self._spent[STARTUP] = time.monotonic() - self._last

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count a block's time under a name, and not under that of the block around it."""
        begin = time.monotonic()
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()
            spent = time.monotonic() - begin
            self._add(name, spent)
            if self._open:
                self._add(self._open[-1], -spent)

    def take(self) -> dict[str, float]:
        """Seconds since the last call, for a ``step`` line of the ledger.

        Returns:
            ``compute_s`` and ``other_s``, which make up the whole time, and the known parts of the
            latter: ``data_wait_s``, ``evaluation_s``, ``checkpoint_s``, ``startup_s``.
        """
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        spent, self._spent = self._spent, {}
        compute = spent.get(COMPUTE, 0.0)
        return {
            "compute_s": round(compute, 4),
            "other_s": round(max(0.0, elapsed - compute), 4),
            **{f"{name}_s": round(max(0.0, spent.get(name, 0.0)), 4) for name in _NAMED},
        }

    def _add(self, name: str, seconds: float) -> None:
        self._spent[name] = self._spent.get(name, 0.0) + seconds
