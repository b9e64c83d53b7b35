"""``tst-megatron scaling optimal``: the best size and length for a budget, or for a loss."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.analysis.scaling.commands.numbers import amount
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.analysis.scaling.answers import Best
    from tst_megatron.analysis.scaling.law import Law, Optimum
    from tst_megatron.analysis.scaling.law_file import LawRecord

EXAMPLES = """\
examples:
  tst-megatron scaling optimal law.json --flops 1e21
  tst-megatron scaling optimal law.json --gpu-hours 20000 --tflops-per-gpu 400
  tst-megatron scaling optimal law.json --loss 2.1 --served-tokens 1T
  tst-megatron scaling optimal law.json --flops 1e21 --tokens-available 100B

A row a setting of the law's methods, the baseline first.
"""

_WIDTH_OF_A_LOG = 150
_S_AN_HOUR, _TERA = 3600.0, 1e12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``scaling optimal``."""
    parser.add_argument("law", type=Path, help="of scaling fit")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--flops", metavar="C", help="a budget in FLOPs of training")
    wanted.add_argument("--gpu-hours", metavar="H", help="a budget in GPU hours")
    wanted.add_argument("--loss", metavar="L", help="a loss, for the least FLOPs")
    parser.add_argument(
        "--tflops-per-gpu", metavar="T",
        help="what a GPU reaches in a whole step (model FLOPs), for --gpu-hours",
    )  # fmt: skip
    parser.add_argument(
        "--served-tokens", metavar="D",
        help="that the model is to read and write: 2 N of them count beside training (--loss)",
    )  # fmt: skip
    parser.add_argument(
        "--tokens-available", metavar="U",
        help="tokens of text there are; beyond them text is read again, and is worth less",
    )  # fmt: skip
    parser.add_argument(
        "--allow-repeats", action="store_true", help="also where text is read more than 4 times"
    )
    parser.add_argument(
        "--setting", action="append", metavar="NAME", help="of the law's methods (default: all)"
    )
    parser.add_argument(
        "--force", action="store_true", help="also beyond ten times the largest run's compute"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Work it out and print it.

    Raises:
        UserError: the law cannot be read, a number is none, no size is best or gets to the loss, or
            the best run is too far beyond the law's.
    """
    _check(args)
    from tst_megatron.analysis.scaling.answers import (
        as_json,
        print_forced,
        print_notes,
        table_of_best,
    )
    from tst_megatron.analysis.scaling.law_file import read_law
    from tst_megatron.report.table import print_table
    from tst_megatron.report.terminal import console
    from tst_megatron.strict_json import finite

    record = read_law(args.law)
    settings = args.setting or record.names
    for setting in settings:
        record.check_setting(setting)
    found = [_best(record, setting, args) for setting in settings]
    if args.json:
        content = {"best": as_json(found), "refused": list(record.refused)}
        sys.stdout.write(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
        return 0
    to = console(_WIDTH_OF_A_LOG)
    print_forced(to, record)
    print_table(to, table_of_best(found, _title(args)))
    print_notes(to, record)
    return 0


def _check(args: argparse.Namespace) -> None:
    if (args.gpu_hours is None) != (args.tflops_per_gpu is None):
        raise UserError(
            "--gpu-hours and --tflops-per-gpu go together: hours are FLOPs by what a GPU reaches"
        )
    if args.served_tokens is not None and args.loss is None:
        raise UserError(
            "--served-tokens is of the cheapest run for a loss: give --loss in place of a budget"
        )


def _best(record: "LawRecord", setting: str, args: argparse.Namespace) -> "Best":
    from tst_megatron.analysis.scaling.answers import best
    from tst_megatron.analysis.scaling.point import BASELINE
    from tst_megatron.analysis.scaling.points import MOST_EPOCHS

    served = 0.0 if args.served_tokens is None else amount("--served-tokens", args.served_tokens)
    there = (
        float("inf")
        if args.tokens_available is None
        else amount("--tokens-available", args.tokens_available)
    )

    def unique(name: str | None) -> float:
        if math.isinf(there):
            return there
        a_position = record.tokens_a_position(name or BASELINE)
        if a_position is None:
            raise UserError(
                f"the law's runs of {name} do not all tell their data_tokens, without which "
                "--tokens-available says nothing of them: fit it again with the column, or name "
                "another --setting"
            )
        return there / a_position

    def cheapest(law: "Law", name: str | None, loss: float) -> "Optimum":
        return law.cheapest(loss, name, served_tokens=served, unique=unique(name))

    def choose(law: "Law", name: str | None) -> "Optimum":
        if args.loss is not None:
            return cheapest(law, name, amount("--loss", args.loss))
        return law.optimum(_budget(args), name, unique=unique(name))

    found = best(record, setting, choose, cheapest, there)
    if found.n.value is None:
        raise UserError(_no_best(setting, args))
    assert found.d.value is not None
    record.check_within(found.n.value, found.d.value, args.force)
    if found.epochs is not None and found.epochs > MOST_EPOCHS and not args.allow_repeats:
        raise UserError(
            f"the best run of {setting} reads the text {found.epochs:.3g} times, and beyond "
            f"{MOST_EPOCHS:g} the form for repeats (arXiv 2305.16264) is not to be trusted: ask "
            "for less, or give --allow-repeats"
        )
    return found


def _no_best(setting: str, args: argparse.Namespace) -> str:
    if args.loss is not None:
        return f"--loss {args.loss} is out of reach of {setting} by this law: give a higher one"
    return (
        f"by this law no size is best for {setting}: its multiplier grows with size faster than "
        "the loss falls with length; fit it with --multiplier constant"
    )


def _budget(args: argparse.Namespace) -> float:
    if args.flops is not None:
        return amount("--flops", args.flops)
    hours = amount("--gpu-hours", args.gpu_hours)
    return hours * _S_AN_HOUR * amount("--tflops-per-gpu", args.tflops_per_gpu) * _TERA


def _title(args: argparse.Namespace) -> str:
    if args.loss is not None:
        return f"The cheapest run that ends at {args.loss} (intervals: 95 %)"
    return f"The best run of {_budget(args):.4g} FLOPs (intervals: 95 %)"
