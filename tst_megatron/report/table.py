"""A table as a value, and its ways out: a terminal or a log file, a page (`page`), Markdown, CSV.

The one idea: nothing is cut. Where a table is wider than the console, names and words are folded
first, then figures with blanks in them, and remarks last, so that a search in a log file finds
these whole.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

# A blank and the box's own between two columns.
_GAP = 2
# A name is not folded narrower than this while anything else can be.
_LEAST_NAME = 12


@dataclass(frozen=True)
class Table:
    """Text in cells.

    Attributes:
        title: what it shows; empty where that is said elsewhere.
        columns: their heads. The first column holds names, which read from the left; the others
            hold figures, which stand under one another from the right, but for the next two.
        rows: as many cells each.
        words: which columns, counted from 0, hold words.
        remarks: which hold what has to be read beside a figure: words with a comma between two
            remarks, each of which stands on a line of its own in a terminal.
        note: below it, how to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset()
    remarks: frozenset[int] = frozenset()
    note: str = ""

    @classmethod
    def of_words(
        cls, columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = ""
    ) -> "Table":
        """One whose columns all read from the left."""
        return cls(title, tuple(columns), tuple(map(tuple, rows)), frozenset(range(len(columns))))

    def is_text(self, column: int) -> bool:
        """Whether a column, counted from 0, reads from the left."""
        return column == 0 or column in self.words or column in self.remarks


def print_table(console: Console, table: Table) -> None:
    """Print a table and a blank line, no wider than the console; no cell is markup."""
    # As a rich table's own title it would be cut, or wrapped to the table's width.
    if table.title:
        console.print(Text(table.title, style="bold"))
    console.print(_drawn(table, console.width))
    if table.note:
        console.print(Text(table.note))
    console.print()


def markdown_text(table: Table) -> str:
    """A table as Markdown has it, with its title as a heading of the third level and its note."""
    bars = ["---" if table.is_text(place) else "---:" for place in range(len(table.columns))]
    rows = [table.columns, bars, *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    title = [f"### {table.title}", ""] if table.title else []
    note = ["", table.note] if table.note else []
    return "\n".join([*title, *lines, *note]) + "\n"


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows of values as CSV, with their heads; None is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def _drawn(table: Table, most: int) -> RichTable:
    drawn = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0)
    )
    for place, (column, width) in enumerate(zip(table.columns, _widths(table, most), strict=True)):
        drawn.add_column(
            Text(column),
            justify="left" if table.is_text(place) else "right",
            overflow="fold",
            width=width,
        )
    for row in table.rows:
        drawn.add_row(*(Text(_cell(table, place, cell)) for place, cell in enumerate(row)))
    return drawn


def _cell(table: Table, place: int, cell: str) -> str:
    """Remarks stand on a line each, so that a search in a log file finds them whole."""
    return cell.replace(", ", "\n") if place in table.remarks else cell


def _widths(table: Table, most: int) -> list[int]:
    """Of the columns, so that with the gaps between them they are no wider than ``most``."""
    places = range(len(table.columns))
    lines = [_lines(table, place) for place in places]
    widths = [_widest(of_column) for of_column in lines]
    by_word = [
        _widest([word for line in of_column for word in line.split()]) for of_column in lines
    ]
    words = sorted({0, *table.words})
    figures = [place for place in places if not table.is_text(place)]
    room = most - _GAP * (len(widths) - 1)
    for narrowed, least in (
        (words, [min(width, _LEAST_NAME) for width in widths]),
        (figures, by_word),
        (sorted(table.remarks), by_word),
        (list(places), [1] * len(widths)),
    ):
        _narrow(widths, narrowed, least, room)
    return widths


def _narrow(widths: list[int], places: Sequence[int], least: Sequence[int], room: int) -> None:
    """Take from the widest of some columns until there is room, or they are at their least."""
    while sum(widths) > room:
        wide = [place for place in places if widths[place] > least[place]]
        if not wide:
            return
        widths[max(wide, key=lambda place: widths[place])] -= 1


def _lines(table: Table, place: int) -> list[str]:
    """What stands in a column, line by line, its head first."""
    cells = (_cell(table, place, row[place]) for row in table.rows)
    return [table.columns[place], *(line for cell in cells for line in cell.split("\n"))]


def _widest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)
