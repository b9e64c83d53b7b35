"""How these commands print a table: one that a log of a file's width can hold."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_LOG_WIDTH = 160  # Of a file or a pipe, which have none of their own.


def console() -> Console:
    """As wide as the terminal, or as a log is."""
    found = Console()
    return found if found.is_terminal else Console(width=_LOG_WIDTH)


def table(*columns: str) -> Table:
    """A table without frames, whose long cells go on in the next line."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
