"""The ledger of a run: ``ledger.jsonl``, one JSON object a line.

The one idea: lines are only ever appended, whole, so a kill at any byte leaves a file that reads as
one run. A run that resumes writes another header; steps after the one it resumes from are replayed,
and the reader keeps the replayed ones. Time spent on steps that were lost still counts.

Line kinds:

- ``header``: ``step`` it starts from, versions, flags, layout;
- ``step``: progress at a logged step, with the training loss under its own name;
- ``validation``: the held-out next-token loss and, in a superposed stage, the loss on bags.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tst_megatron.strict_json import finite

SCHEMA_VERSION = 1
_FSYNC_INTERVAL_S = 10.0


class LedgerError(ValueError):
    """A ledger that cannot be read; the message names file and line."""


@dataclass
class Ledger:
    """A run as its ledger tells it, replayed steps in place of those they replay.

    Attributes:
        header: of the last start.
        steps: ``step`` lines, ascending.
        validations: ``validation`` lines, ascending, one a step.
    """

    header: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any] | None:
        """The last line with progress in it, if any."""
        lines = self.steps[-1:] + self.validations[-1:]
        return max(lines, key=lambda line: line["wall_clock_s"], default=None)


def read_ledger(path: Path) -> Ledger:
    """Read a ledger; a last line cut short by a kill is left out.

    Raises:
        LedgerError: the file is missing, empty, has no header or a broken line before its last.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from None
    # What comes after the last newline is a line that a kill cut short.
    lines = [_parse(text) for text in raw.split(b"\n")[:-1]]
    ledger: Ledger | None = None
    for number, line in enumerate(lines, start=1):
        if line is None:
            following = lines[number] if number < len(lines) else None
            # So is a line before a header: the run that started again has ended it.
            if ledger is not None and following is not None and following["kind"] == "header":
                continue
            raise LedgerError(f"{path}, line {number}: not a line of a ledger")
        if line["kind"] == "header":
            ledger = _restarted(ledger, line)
        elif ledger is None:
            raise LedgerError(f"{path}, line {number}: no header comes before it")
        else:
            _add(ledger, line)
    if ledger is None:
        raise LedgerError(f"{path} holds no header: it is not the ledger of a run that started")
    return ledger


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        if line["kind"] in ("header", "step", "validation") and isinstance(line["step"], int):
            return dict(line)
    except (ValueError, TypeError, KeyError):
        pass
    return None


def _restarted(ledger: Ledger | None, header: dict[str, Any]) -> Ledger:
    """The run up to the step it starts again from."""
    if ledger is None:
        return Ledger(header)
    return Ledger(
        header,
        [line for line in ledger.steps if line["step"] <= header["step"]],
        [line for line in ledger.validations if line["step"] <= header["step"]],
    )


def _add(ledger: Ledger, line: dict[str, Any]) -> None:
    lines = ledger.steps if line["kind"] == "step" else ledger.validations
    # Megatron validates once more after the last step.
    if lines and lines[-1]["step"] == line["step"]:
        lines.pop()
    lines.append(line)


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
