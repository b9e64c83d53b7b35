"""Write a run's ledger: whole lines, appended, on disk within seconds.

The one idea: nothing that was written is touched again. A run that goes on in a ledger ends the
line that a kill cut short, writes another header, and keeps counting from the clock it finds.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from tst_megatron.strict_json import finite
from tst_megatron.training.ledger import SCHEMA_VERSION

_FSYNC_INTERVAL_S = 10.0


class LedgerWriter:
    """Appends to a ledger, continuing the clock of the run it finds there.

    Args:
        path: the ledger.
        header: fields of the header line, with ``step``.
        started: when this process started, seconds since the epoch.
        world_size: ranks, for GPU hours.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, header: dict[str, Any], started: float, world_size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lost_s = _clock_of(path)
        self._zero = started - lost_s
        self._world_size = world_size
        self._synced = time.monotonic()
        self._file: BinaryIO = path.open("ab")
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")
        self._append({"kind": "header", "schema_version": SCHEMA_VERSION, **header})
        self._sync()

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """Append a ``step`` or ``validation`` line, with the run's clock in it."""
        wall_clock_s = time.time() - self._zero
        clock = {
            "wall_clock_s": round(wall_clock_s, 3),
            "gpu_hours": wall_clock_s * self._world_size / 3600.0,
        }
        self._append({"kind": kind, "step": fields["step"], **clock, **fields})
        if kind == "validation" or time.monotonic() - self._synced > _FSYNC_INTERVAL_S:
            self._sync()

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(finite(line), allow_nan=False, default=str)
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _clock_of(path: Path) -> float:
    """Seconds that the ledger's run has taken so far; 0 for a new one."""
    if not path.exists() or not path.stat().st_size:
        return 0.0
    seconds = [0.0]
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
            seconds.append(float(line.get("wall_clock_s", 0.0)))
        except (ValueError, AttributeError):
            continue
    return max(seconds)
