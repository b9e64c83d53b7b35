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
            column, justify="left" if table.is_text(place) else "right", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn
