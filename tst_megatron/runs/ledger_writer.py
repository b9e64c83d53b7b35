"""Write a run's ledger: whole lines, appended, on disk within seconds.

The one idea: nothing that was written is touched again, and training never waits for it or ends
because of it. A run that goes on in a ledger ends the line that a kill cut short, writes another
header, and keeps counting from the clock it finds. What a full disk does not take is kept until it
does, and the disk is asked to keep what it has by a thread.
"""

import errno
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

from tst_megatron.files import sync_folder
from tst_megatron.runs.clock import HEARTBEAT_S, Heartbeat, RunClock, write_clock
from tst_megatron.runs.ledger import SCHEMA_VERSION
from tst_megatron.strict_json import finite

logger = logging.getLogger(__name__)


class LedgerWriter:
    """Appends to a ledger, continuing the run and the clock that it finds there.

    Args:
        path: the ledger.
        header: fields of the header line, with ``step``.
        clock: of the run, made from what the ledger held before.
        fsync_interval_s: steps are on the disk this soon; headers and validations at once. 0 for
            every line at once.

    Raises:
        OSError: the file cannot be written. Later errors of the disk are logged, and what it did
            not take is written when it takes it.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        clock: RunClock,
        fsync_interval_s: float = 10.0,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._clock = clock
        self._syncs_every_line = fsync_interval_s == 0
        self._lock = threading.Lock()
        self._is_failing = False
        # Unbuffered, so that what the disk did not take is known.
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._unwritten = b"\n" if self._file.tell() and not _ends_a_line(path) else b""
        names = {"kind": "header", "schema_version": SCHEMA_VERSION}
        self._unwritten += _line({**names, "run_id": clock.run_id, **header})
        self._flush()
        os.fsync(self._file.fileno())
        sync_folder(path.parent)
        self._heartbeat = Heartbeat(self._beat, min(fsync_interval_s or HEARTBEAT_S, HEARTBEAT_S))

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """Append a ``step``, ``validation`` or ``evaluation`` line, with the run's clock in it."""
        line = {"kind": kind, "step": fields["step"], **self._clock.fields(), **fields}
        with self._lock:
            self._unwritten += _line(line)
        self._try(syncs=kind != "step" or self._syncs_every_line)

    def close(self) -> None:
        """Write the clock for the last time, as the end of the process does."""
        self._heartbeat.end()

    def _beat(self) -> None:
        self._try(syncs=True)
        write_clock(self._path, self._clock)

    def _try(self, syncs: bool) -> None:
        try:
            with self._lock:
                self._flush()
            if syncs:
                os.fsync(self._file.fileno())
        except OSError as error:
            if not self._is_failing:
                logger.warning(
                    "%s cannot be written (%s): its lines are kept until it can",
                    self._path,
                    error.strerror,
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def _flush(self) -> None:
        while self._unwritten:
            written = self._file.write(self._unwritten)
            self._unwritten = self._unwritten[written:]


def append_evaluation(path: Path, step: int, evaluations: dict[str, Any]) -> None:
    """Append an ``evaluation`` line to the ledger of a run, which may be under way.

    Args:
        path: the ledger, which is there.
        step: whose model was evaluated.
        evaluations: by task or text, as in docs/ledger.md.

    Raises:
        OSError: the file cannot be written.
    """
    line = _line({"kind": "evaluation", "step": step, "evaluations": evaluations})
    whole = line if _ends_a_line(path) else b"\n" + line
    # In one call, so that it stands whole between the lines of a writer beside it.
    with path.open("ab", buffering=0) as file:
        written = file.write(whole)
        if written < len(whole):
            # Unless another has written on the end of it.
            if file.tell() == os.fstat(file.fileno()).st_size:
                file.truncate(file.tell() - written)
            raise OSError(errno.ENOSPC, "a part of the line was written")
        os.fsync(file.fileno())


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(finite(fields), allow_nan=False, default=str).encode() + b"\n"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
