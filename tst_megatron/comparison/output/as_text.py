"""A report in a terminal or a log file, 80 columns wide."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tst_megatron.comparison.findings import Findings
from tst_megatron.comparison.sentences import between, first_sentences, notes, warnings
from tst_megatron.comparison.tables import Table, tables_of


def print_findings(console: Console, findings: Findings) -> None:
    """Print the result, its tables and its notes."""
    for warning in warnings(findings):
        console.print(Text(warning, style="bold"))
    if sides := between(findings):
        console.print(Text(sides, style="bold"))
    console.print(Text(first_sentences(findings)))
    console.print()
    for table in tables_of(findings):
        console.print(_rich(table))
    for note in notes(findings):
        console.print(Text(f"Note: {note}"))


def _rich(table: Table) -> RichTable:
    drawn = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for place, column in enumerate(table.columns):
        drawn.add_column(
            column,
            justify="left" if table.is_text(place) else "right",
            overflow="fold",
            min_width=_least_width(table, place),
        )
    for row in table.rows:
        drawn.add_row(*(Text(_cell(table, place, cell)) for place, cell in enumerate(row)))
    return drawn


def _cell(table: Table, place: int, cell: str) -> str:
    """Remarks stand on a line each, so that a search in a log file finds them whole."""
    return cell.replace(", ", "\n") if place in table.words else cell


def _least_width(table: Table, place: int) -> int:
    """Only names may be folded."""
    if place == 0:
        return 0
    lines = (line for row in table.rows for line in _cell(table, place, row[place]).split("\n"))
    return max(map(len, lines), default=0)
