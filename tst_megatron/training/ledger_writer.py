"""Write a run's ledger: whole lines, appended, on disk within seconds.

The one idea: nothing that was written is touched again. A run that goes on in a ledger ends the
line that a kill cut short, writes another header, and keeps counting from the clock it finds.
"""

import json
import os
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from tst_megatron.files import sync_folder
from tst_megatron.strict_json import finite
from tst_megatron.training.ledger import SCHEMA_VERSION


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


class LedgerWriter:
    """Appends to a ledger, continuing the run and the clock that it finds there.

    Args:
        path: the ledger.
        header: fields of the header line, with ``step``.
        clock: of the run, made from what the ledger held before.
        fsync_interval_s: steps are on the disk this soon; headers and validations at once.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        clock: RunClock,
        fsync_interval_s: float = 10.0,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._fsync_interval_s = fsync_interval_s
        self._synced = time.monotonic()
        self._file: BinaryIO = path.open("ab")
        if self._file.tell() and not _ends_a_line(path):
            self._file.write(b"\n")
        names = {"kind": "header", "schema_version": SCHEMA_VERSION}
        self._append({**names, "run_id": clock.run_id, **header})
        self._sync()
        sync_folder(path.parent)

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """Append a ``step`` or ``validation`` line, with the run's clock in it."""
        wall_clock_s = self._clock.seconds
        clock = {
            "wall_clock_s": round(wall_clock_s, 3),
            "gpu_hours": self._clock.gpu_hours(wall_clock_s),
        }
        self._append({"kind": kind, "step": fields["step"], **clock, **fields})
        if kind == "validation" or time.monotonic() - self._synced >= self._fsync_interval_s:
            self._sync()

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(finite(line), allow_nan=False, default=str)
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


@cache
def _before(path: Path, started: float) -> tuple[str, float, float]:
    """What a run had when a process went on with it: its id, seconds and GPU hours.

    Read once a process: where Megatron restarts the training inside it, what the ledger has since
    got is of this process, whose time is counted from its start.
    """
    run_id, seconds, hours = _found_in(path)
    return run_id or uuid.uuid4().hex, seconds, hours


def _found_in(path: Path) -> tuple[str | None, float, float]:
    """The run that a ledger is of, and its seconds and GPU hours; nothing for a new one."""
    run_id, seconds, hours = None, 0.0, 0.0
    if not path.exists():
        return run_id, seconds, hours
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
            run_id = line.get("run_id", run_id)
            seconds = max(seconds, float(line.get("wall_clock_s", 0.0)))
            hours = max(hours, float(line.get("gpu_hours", 0.0)))
        except (ValueError, TypeError, AttributeError):
            continue
    return run_id, seconds, hours


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
