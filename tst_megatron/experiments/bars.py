"""Show how far runs are, from their ledgers: bars on a terminal, lines in a log file."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tst_megatron.runs.spans import stage_name

_LINE_INTERVAL_S = 15.0
_WINDOW = 20  # Logged steps that a rate is taken over.
_TAIL_BYTES = 1 << 18  # Holds the window many times over, and a header.


@dataclass(frozen=True)
class Status:
    """What is shown of a run; rates a second, ``left_s`` seconds, None before there are any."""

    step: int = 0
    stage: str = "starting"
    loss: float | None = None
    loss_name: str = "loss"
    positions_per_s: float | None = None
    data_tokens_per_s: float | None = None
    left_s: float | None = None

    def line(self, num_steps: int) -> str:
        """In one line."""
        if self.loss is None:
            return self.stage
        words = [
            f"step {self.step:,}/{num_steps:,}",
            self.stage,
            f"{self.loss_name} {self.loss:.3f}",
        ]
        if self.positions_per_s is not None and self.data_tokens_per_s is not None:
            words.append(f"{_thousands(self.positions_per_s)} positions/s")
            words.append(f"{_thousands(self.data_tokens_per_s)} data tokens/s")
        if self.left_s is not None:
            words.append(f"{_minutes(self.left_s)} left")
        return "  ".join(words)


def status_of(ledger_file: Path, num_steps: int) -> Status:
    """Read a run's status; of a run that has logged nothing yet, that it starts."""
    header, steps = _latest_lines(ledger_file)
    if not steps:
        return Status()
    first, last = steps[0], steps[-1]
    seconds = last["wall_clock_s"] - first["wall_clock_s"]
    positions_per_s = data_tokens_per_s = left_s = None
    if seconds > 0:
        positions_per_s = (last["positions"] - first["positions"]) / seconds
        data_tokens_per_s = (last["data_tokens"] - first["data_tokens"]) / seconds
        left_s = (num_steps - last["step"]) * seconds / (last["step"] - first["step"])
    return Status(
        step=last["step"],
        stage=stage_name(header or _first_header(ledger_file), last),
        loss=last["loss"],
        loss_name=last["loss_name"],
        positions_per_s=positions_per_s,
        data_tokens_per_s=data_tokens_per_s,
        left_s=left_s,
    )


def _first_header(ledger_file: Path) -> dict[str, Any]:
    """The first line, which names the stages; empty if it cannot be read."""
    try:
        with ledger_file.open("rb") as file:
            header: dict[str, Any] = orjson.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return header


def _latest_lines(ledger_file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last logged steps, from the file's end alone: it is asked for every second.

    Returns:
        The header of the last start, empty where that is not in the end; and the steps.
    """
    try:
        with ledger_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            texts = file.read().split(b"\n")
    except OSError:
        return {}, []
    header: dict[str, Any] = {}
    steps: list[dict[str, Any]] = []
    for text in texts:
        try:
            line = orjson.loads(text)
        except ValueError:
            # Its beginning is before the tail, or it is still being written.
            continue
        if line["kind"] == "header":
            header = line
            # The run starts again, and goes back to this step.
            steps = [before for before in steps if before["step"] <= line["step"]]
        elif line["kind"] == "step":
            steps.append(line)
    return header, steps[-_WINDOW:]


class Bars:
    """Keeps the status of the runs that are under way before the user's eyes.

    Args:
        console: where to; without a terminal it gets a line a run every 15 s.
    """

    def __init__(self, console: Console) -> None:
        self._runs: dict[str, tuple[Path, int, TaskID]] = {}
        self._console = console
        self._said_at = 0.0
        self._bars = Progress(
            TextColumn("[bold]{task.description:>8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.update(now=True)
        self._bars.stop()

    def add(self, name: str, ledger_file: Path, num_steps: int) -> None:
        """Show a run from now on."""
        task = self._bars.add_task(name, total=num_steps, status="starting")
        self._runs[name] = ledger_file, num_steps, task

    def end(self, name: str) -> None:
        """Show for the last time where a run is: on a terminal its bar stays."""
        self._show(name)
        del self._runs[name]

    def wait(self, is_done: Callable[[], bool], interval_s: float = 1.0) -> None:
        """Show the runs until it is done."""
        while not is_done():
            self.update()
            time.sleep(interval_s)

    def update(self, now: bool = False) -> None:
        """Show what the ledgers say; to a log file only when it is time again, or ``now``."""
        if not self._console.is_terminal:
            if not now and time.monotonic() - self._said_at < _LINE_INTERVAL_S:
                return
            self._said_at = time.monotonic()
        for name in self._runs:
            self._show(name)

    def _show(self, name: str) -> None:
        ledger_file, num_steps, task = self._runs[name]
        status = status_of(ledger_file, num_steps)
        line = status.line(num_steps)
        if self._console.is_terminal:
            self._bars.update(task, completed=status.step, status=line)
        else:
            self._console.print(f"{name:>8}  {line}", highlight=False, soft_wrap=True)


def _thousands(rate: float) -> str:
    return f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
