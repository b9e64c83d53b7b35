"""How long a run has taken, over all of its starts.

The one idea: a run's clock lies beside its ledger. A thread writes it there every few seconds, so
that what a start has taken counts up to its end however it ended: in a hang, before its first line,
or while it saved its last checkpoint. The next start goes on from there.
"""

import atexit
import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tst_megatron.files import write_whole

HEARTBEAT_S = 10.0


def clock_file(ledger: Path) -> Path:
    """Where the clock of a ledger's run lies."""
    return ledger.with_name(f"{ledger.name}.clock")


class RunClock:
    """Seconds and GPU hours that a run has taken, those of earlier starts included.

    Args:
        path: the run's ledger, which knows of the earlier starts; it need not be there.
        started: when this process started, seconds since the epoch.
        world_size: ranks of this start; earlier ones may have had more or fewer.

    Attributes:
        run_id: the ledger's, or a new one.
    """

    def __init__(self, path: Path, started: float, world_size: int) -> None:
        self.run_id, self._before_s, self._before_hours = _before(path, started)
        self._world_size = world_size
        # The epoch's clock may be set while we run; it is read this once.
        self._zero = time.monotonic() - max(0.0, time.time() - started)

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before_s + time.monotonic() - self._zero

    def gpu_hours(self, seconds: float) -> float:
        """GPU hours at so many `seconds`, in this start."""
        return self._before_hours + (seconds - self._before_s) * self._world_size / 3600.0

    def fields(self) -> dict[str, float]:
        """Of a line: ``wall_clock_s`` and ``gpu_hours``."""
        seconds = self.seconds
        return {"wall_clock_s": round(seconds, 3), "gpu_hours": self.gpu_hours(seconds)}


class Heartbeat:
    """Does something every few seconds as long as the process lives, and as it ends.

    Args:
        beat: what to do; an error of the disk is passed over, as the next one tries again.
        interval_s: seconds between two.
    """

    def __init__(self, beat: Callable[[], None], interval_s: float) -> None:
        self._beat = beat
        self._interval_s = interval_s
        self._has_ended = threading.Event()
        threading.Thread(target=self._run, name="ledger", daemon=True).start()
        atexit.register(self.end)

    def end(self) -> None:
        """Do it once more, and never again."""
        if not self._has_ended.is_set():
            self._has_ended.set()
            with suppress(OSError):
                self._beat()

    def _run(self) -> None:
        while not self._has_ended.wait(self._interval_s):
            with suppress(OSError):
                self._beat()


def write_clock(ledger: Path, clock: RunClock) -> None:
    """Put the clock beside the ledger.

    Raises:
        OSError: it cannot be written.
    """
    content = {"run_id": clock.run_id, **clock.fields()}
    write_whole(clock_file(ledger), json.dumps(content) + "\n")


@cache
def _before(path: Path, started: float) -> tuple[str, float, float]:
    """What a run had when a process went on with it: its id, seconds and GPU hours.

    Read once a process: where Megatron restarts the training inside it, what the ledger has since
    got is of this process, whose time is counted from its start.
    """
    run_id, seconds, hours = _latest(path)
    its_id, its_seconds, its_hours = _latest(clock_file(path))
    if its_id == run_id:
        seconds, hours = max(seconds, its_seconds), max(hours, its_hours)
    return run_id or uuid.uuid4().hex, seconds, hours


def _latest(path: Path) -> tuple[str | None, float, float]:
    """The run that a file's lines are of, and its seconds and GPU hours; nothing for a new one."""
    run_id, seconds, hours = None, 0.0, 0.0
    for line in _objects(path):
        try:
            run_id = line.get("run_id", run_id)
            seconds = max(seconds, float(line.get("wall_clock_s", 0.0)))
            hours = max(hours, float(line.get("gpu_hours", 0.0)))
        except (ValueError, TypeError):
            continue
    return run_id, seconds, hours


def _objects(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that are JSON objects."""
    if not path.exists():
        return []
    found = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found
