"""How many rows a model has answered: a bar on a terminal, a line now and then in a log file."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_INTERVAL_S = 15.0


class RowProgress:
    """Shows what is done of several jobs, one after another; a context manager.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._done = self._total = 0
        self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "RowProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, what: str) -> None:
        """The next job; how many rows it has shows as they come."""
        self._what, self._done, self._total = what, 0, 0
        self._bar.reset(self._task, description=what, total=None)

    def add(self, rows: int) -> None:
        """So many more are to be answered."""
        self._total += rows
        self._bar.update(self._task, total=self._total)

    def advance(self, rows: int) -> None:
        """So many more are answered."""
        self._done += rows
        self._bar.advance(self._task, rows)
        now = time.monotonic()
        if self._console.is_terminal or now - self._said_at < _LINE_INTERVAL_S:
            return
        self._said_at = now
        self._console.print(
            f"{self._what}: {self._done:,} of {self._total:,} rows so far",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
