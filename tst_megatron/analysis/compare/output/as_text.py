"""A report in a terminal or a log file, 80 columns wide.

The one idea: nothing is cut. Where a table is wider than the console, names are folded first, then
figures with blanks in them, and remarks last, so that a search in a log file finds these whole.
"""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tst_megatron.analysis.compare.findings import Findings
from tst_megatron.analysis.compare.sentences import between, first_sentences, notes, warnings
from tst_megatron.analysis.compare.tables import Table, tables_of

# A blank and the box's own between two columns.
_GAP = 2
# A name is not folded narrower than this while anything else can be.
_LEAST_NAME = 12


def print_findings(console: Console, findings: Findings) -> None:
    """Print the result, its tables and its notes."""
    for warning in warnings(findings):
        console.print(Text(warning, style="bold"))
    if sides := between(findings):
        console.print(Text(sides, style="bold"))
    console.print(Text(first_sentences(findings)))
    console.print()
    for table in tables_of(findings):
        # As a rich table's own title it would be cut, or wrapped to the table's width.
        console.print(Text(table.title, style="bold"))
        console.print(_rich(table, console.width))
        console.print()
    for note in notes(findings):
        console.print(Text(f"Note: {note}"))


def _rich(table: Table, most: int) -> RichTable:
    drawn = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0)
    )
    for place, (column, width) in enumerate(zip(table.columns, _widths(table, most), strict=True)):
        drawn.add_column(
            column,
            justify="left" if table.is_text(place) else "right",
            overflow="fold",
            width=width,
        )
    for row in table.rows:
        drawn.add_row(*(Text(_cell(table, place, cell)) for place, cell in enumerate(row)))
    return drawn


def _cell(table: Table, place: int, cell: str) -> str:
    """Remarks stand on a line each, so that a search in a log file finds them whole."""
    return cell.replace(", ", "\n") if place in table.words else cell


def _widths(table: Table, most: int) -> list[int]:
    """Of the columns, so that with the gaps between them they are no wider than ``most``."""
    places = range(len(table.columns))
    lines = [_lines(table, place) for place in places]
    widths = [_widest(of_column) for of_column in lines]
    by_word = [
        _widest([word for line in of_column for word in line.split()]) for of_column in lines
    ]
    figures = [place for place in places if place and place not in table.words]
    room = most - _GAP * (len(widths) - 1)
    for narrowed, least in (
        ([0], [min(widths[0], _LEAST_NAME)] * len(widths)),
        (figures, by_word),
        (sorted(table.words), by_word),
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
