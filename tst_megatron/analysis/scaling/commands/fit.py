"""``tst-megatron scaling fit``: a law of runs, written to a file with all that it is of."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.analysis.scaling.fit_points import Fitted

EXAMPLES = """\
examples:
  tst-megatron scaling fit runs/ --out law.json
  tst-megatron scaling fit study/ledgers/grid-* --out law.json --multiplier log-linear
  tst-megatron scaling fit paper.csv --preset chinchilla --out law.json

A path is what compare takes, or a CSV with the columns params, tokens and loss, and if you know
them active_params, flops, data_tokens, unique_tokens, seed, setting, learning_rate, experts, name.
tokens are positions trained on. A law is of whole runs with their decay, of one held-out text, and
of one tokenizer, or of several in bits a byte, each with an m of its own; what speaks against it
refuses it, with the numbers.
"""

_WIDTH_OF_A_LOG = 100
_FEWEST_DRAWS = 200
PRESETS = ("chinchilla",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``scaling fit``."""
    from tst_megatron.analysis.scaling.points import COUNTS

    parser.add_argument("runs", nargs="+", type=Path, help="ledgers, other logs, tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the law here, as law.json")
    parser.add_argument(
        "--count", choices=COUNTS, default="total",
        help="what N is: all parameters (default), active ones, or FLOPs / (6 positions)",
    )  # fmt: skip
    parser.add_argument(
        "--preset", choices=PRESETS,
        help="chinchilla: Huber's constant 1e-3 and a bootstrap of pairs, as Epoch's replication",
    )  # fmt: skip
    parser.add_argument(
        "--delta", type=float, metavar="X",
        help="Huber's constant, in ln L; inf is least squares (default: from the runs' scatter)",
    )  # fmt: skip
    parser.add_argument(
        "--multiplier", choices=("constant", "log-linear"), default="constant",
        help="a method's m: one number a setting (default), or log-linear in N and D",
    )  # fmt: skip
    parser.add_argument(
        "--equal-exponents", action="store_true", help="alpha = beta: a law of four numbers"
    )
    parser.add_argument(
        "--pairs", action="store_true",
        help="draw runs, not mixed seeds: too narrow where runs share a seed",
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=4000, metavar="N", help="of the law (4000)")
    parser.add_argument(
        "--loss-column", action="append", default=[], metavar="NAME",
        help="what W&B exports and TensorBoard folders call the held-out loss",
    )  # fmt: skip
    parser.add_argument(
        "--bits-a-byte", action="store_true",
        help="losses in bits a byte of the held-out text, as those of several tokenizers are",
    )  # fmt: skip
    parser.add_argument(
        "--allow-repeats", action="store_true", help="keep runs that read text more than 4 times"
    )
    parser.add_argument(
        "--force", action="store_true", help="fit what should not be, and mark the law"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Fit, print and write.

    Raises:
        UserError: a flag is wrong, a run cannot be read, or the runs tell no law.
    """
    if args.delta is not None and not args.delta > 0:
        raise UserError(f"--delta {args.delta:g} is no constant: give a number above 0, or inf")
    if args.delta is not None and args.preset:
        raise UserError(f"--preset {args.preset} sets --delta: give one of the two")
    if args.draws < _FEWEST_DRAWS:
        raise UserError(f"--draws {args.draws} tell no interval: give {_FEWEST_DRAWS} or more")
    if args.out is not None:
        _check_out(args.out)
    from tst_megatron.analysis.scaling.fit_points import Options, fit_points
    from tst_megatron.analysis.scaling.fitting import CHINCHILLA_DELTA
    from tst_megatron.analysis.scaling.law_file import write_law
    from tst_megatron.analysis.scaling.points import read_points

    points = read_points(
        args.runs, args.count, args.loss_column, args.allow_repeats, args.bits_a_byte
    )
    fitted = fit_points(
        points,
        Options(
            delta=CHINCHILLA_DELTA if args.preset else args.delta,
            equal_exponents=args.equal_exponents,
            multipliers=args.multiplier,
            kind="pairs" if args.pairs or args.preset else None,
            draws=args.draws,
            force=args.force,
        ),
    )
    if args.out is not None:
        write_law(args.out, fitted.record)
    if args.json:
        sys.stdout.write(_json(fitted))
    else:
        _print(fitted)
    if args.out is not None:
        print(f"Law: {args.out}", file=sys.stderr if args.json else sys.stdout)
    return 0


def _check_out(out: Path) -> None:
    """What is there may be a law, and nothing else: a table of runs is not to be lost to a slip."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file, such as {out}/law.json")
    if out.exists():
        from tst_megatron.analysis.scaling.law_file import is_law

        if not is_law(out):
            raise UserError(f"--out {out} is there and is no law: give another name")


def _json(fitted: "Fitted") -> str:
    from tst_megatron.analysis.scaling.answers import as_json, numbers
    from tst_megatron.analysis.scaling.sensitivity import sensitivity
    from tst_megatron.strict_json import finite

    record = fitted.record
    content = {
        "numbers": as_json(numbers(record)),
        "sensitivity": as_json(sensitivity(fitted.fit)),
        "settings": dict(record.settings),
        "notes": list(record.notes),
        "refused": list(record.refused),
        "left_out": [list(one) for one in record.left_out],
    }
    return json.dumps(finite(content), indent=2, allow_nan=False) + "\n"


def _print(fitted: "Fitted") -> None:
    from tst_megatron.analysis.scaling.answers import (
        CONFIDENCE,
        numbers,
        print_forced,
        print_notes,
        table_of_numbers,
    )
    from tst_megatron.analysis.scaling.sensitivity import sensitivity, table_of_sensitivity
    from tst_megatron.report.table import Table, print_table
    from tst_megatron.report.terminal import console

    to, record = console(_WIDTH_OF_A_LOG), fitted.record
    print_forced(to, record)
    print_table(to, table_of_numbers(numbers(record), CONFIDENCE))
    print_table(to, table_of_sensitivity(sensitivity(fitted.fit)))
    print_table(to, Table.of_words(("", ""), record.settings.items(), "How it was fitted"))
    print_notes(to, record)
    for name, why in record.left_out:
        to.print(f"Left out: {name} {why}.", markup=False)
