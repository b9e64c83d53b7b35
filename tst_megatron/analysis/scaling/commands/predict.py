"""``tst-megatron scaling predict``: what a run would end with, by a law."""

import argparse
import json
import sys
from pathlib import Path

from tst_megatron.analysis.scaling.commands.numbers import amounts
from tst_megatron.errors import UserError

EXAMPLES = """\
examples:
  tst-megatron scaling predict law.json --params 3e9 --tokens 1e12
  tst-megatron scaling predict law.json --params 1e9 3e9 --tokens 1e11 1e12 --json

Every size is told at every length. Tokens are positions trained on, of text that is read once.
"""

_WIDTH_OF_A_LOG = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``scaling predict``."""
    parser.add_argument("law", type=Path, help="of scaling fit")
    parser.add_argument("--params", nargs="+", required=True, metavar="N", help="sizes")
    parser.add_argument(
        "--tokens", nargs="+", required=True, metavar="D", help="lengths, positions"
    )
    parser.add_argument(
        "--setting", action="append", metavar="NAME",
        help="of the law's methods; again for another (default: all, and the baseline)",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="also beyond ten times the largest run's compute"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Predict and print.

    Raises:
        UserError: the law cannot be read, a number is none, or a run is too far beyond the law's.
    """
    sizes, lengths = amounts("--params", args.params), amounts("--tokens", args.tokens)
    from tst_megatron.analysis.scaling.answers import (
        CONFIDENCE,
        as_json,
        predict,
        print_forced,
        print_notes,
        table_of_predictions,
    )
    from tst_megatron.analysis.scaling.law_file import read_law
    from tst_megatron.report.table import print_table
    from tst_megatron.report.terminal import console
    from tst_megatron.strict_json import finite

    record = read_law(args.law)
    settings = args.setting or record.names
    found = []
    for setting in settings:
        record.check_setting(setting)
        for n in sizes:
            for d in lengths:
                record.check_within(n, d, args.force)
                found.append(predict(record, setting, n, d))
    if not found:
        raise UserError("there is nothing to predict")
    if args.json:
        content = {"predictions": as_json(found), "refused": list(record.refused)}
        sys.stdout.write(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
        return 0
    to = console(_WIDTH_OF_A_LOG)
    print_forced(to, record)
    print_table(to, table_of_predictions(found, CONFIDENCE))
    print_notes(to, record)
    return 0
