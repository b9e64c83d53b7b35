"""``tst-megatron scaling plot``: a law and its runs as a page and as pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.analysis.scaling.law_file import LawRecord
    from tst_megatron.report.page import Page

EXAMPLES = """\
examples:
  tst-megatron scaling plot law.json --out report

Writes report.html, which loads nothing, and law.png.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``scaling plot``."""
    parser.add_argument("law", type=Path, help="of scaling fit")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")


def main(args: argparse.Namespace) -> int:
    """Draw and write.

    Raises:
        UserError: the law cannot be read, or the folder cannot be written.
    """
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: give a folder")
    from tst_megatron.analysis.scaling.law_file import read_law
    from tst_megatron.files import write_whole
    from tst_megatron.report import picture
    from tst_megatron.report.page import html

    record = read_law(args.law)
    page = page_of(record)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write_whole(args.out / "law.png", picture.png(page.sections[0].charts, columns=2))
        write_whole(args.out / "report.html", html(page))
    except OSError as error:
        raise UserError(
            f"--out {args.out} cannot be written ({error.strerror}): give another folder"
        ) from None
    print(f"Report: {args.out / 'report.html'}   pictures: {args.out / 'law.png'}")
    return 0


def page_of(record: "LawRecord") -> "Page":
    """All there is to show of a law."""
    from tst_megatron.analysis.scaling.answers import (
        CONFIDENCE,
        numbers,
        predict,
        table_of_numbers,
        table_of_predictions,
    )
    from tst_megatron.analysis.scaling.charts import charts
    from tst_megatron.report.page import Page, Section
    from tst_megatron.report.table import Table

    cells = sorted({(run.setting, run.n, run.d) for run in record.runs}, key=lambda cell: cell[1:])
    predictions = [predict(record, *cell) for cell in cells]
    left_out = tuple(f"Left out: {name} {why}." for name, why in record.left_out)
    return Page(
        title="A scaling law",
        headline=_headline(record),
        about=record.settings.get("runs", ""),
        warnings=tuple(f"Forced: {refused}" for refused in record.refused),
        sections=(
            Section(charts=charts(record)),
            Section(
                "The law",
                tables=(
                    table_of_numbers(numbers(record), CONFIDENCE),
                    Table.of_words(("", ""), record.settings.items(), "How it was fitted"),
                ),
            ),
            Section(
                "At its own runs",
                tables=(table_of_predictions(predictions, CONFIDENCE),),
            ),
            Section("What to know", sentences=(*record.notes, *left_out)),
        ),
    )


def _headline(record: "LawRecord") -> str:
    law = record.law
    return (
        f"L = {law.E:.3g} + {law.A:.3g} N^-{law.alpha:.3g} + {law.B:.3g} (m D)^-{law.beta:.3g}, "
        f"of {len(record.runs)} whole runs."
    )
