"""Show how many bytes of a file are done: a bar on a terminal, lines in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def byte_progress(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to tell of every number of bytes that is done.

    Args:
        console: where to; without a terminal it gets a line every 15 s.
        title: what is being done.
        total: bytes in all.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda size: progress.advance(task, size)
        return
    begun = said_at = time.monotonic()
    done = 0

    def advance(size: int) -> None:
        nonlocal done, said_at
        done += size
        now = time.monotonic()
        if now - said_at >= _LINE_INTERVAL_S:
            said_at = now
            rate = done / (now - begun)
            console.print(
                f"{title}  {done / 2**30:.2f} of {total / 2**30:.2f} GiB  "
                f"{rate / 2**20:.0f} MiB/s  {(total - done) / rate:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    yield advance
