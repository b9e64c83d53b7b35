"""How far a tool is through its bytes: a bar on a terminal, a line now and then in a log file."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_INTERVAL_S = 15.0


class ByteProgress:
    """Shows what is done of a number of bytes; a context manager.

    Args:
        console: where to.
        what: is done, in a word or two.
        total: bytes in all.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console = console
        self._what = what
        self._total = total
        self._began = self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> "ByteProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, done: int) -> None:
        """Show that so many bytes are done."""
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if self._console.is_terminal or now - self._said_at < _LINE_INTERVAL_S:
            return
        self._said_at = now
        rate = done / (now - self._began)
        left = (self._total - done) / rate if rate else 0.0
        self._console.print(
            f"{self._what}: {done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB, "
            f"{rate / 1e6:,.1f} MB/s, {left:,.0f} s left",
            highlight=False,
            soft_wrap=True,
        )
