"""A report in a terminal or a log file."""

from rich.console import Console
from rich.text import Text

from tst_megatron.analysis.compare.result import Findings
from tst_megatron.analysis.compare.sentences import between, first_sentences, notes, warnings
from tst_megatron.analysis.compare.tables import tables_of
from tst_megatron.report.table import print_table


def print_findings(console: Console, findings: Findings) -> None:
    """Print the result, its tables and its notes."""
    for warning in warnings(findings):
        console.print(Text(warning, style="bold"))
    if sides := between(findings):
        console.print(Text(sides, style="bold"))
    console.print(Text(first_sentences(findings)))
    console.print()
    for table in tables_of(findings):
        print_table(console, table)
    for note in notes(findings):
        console.print(Text(f"Note: {note}"))
