"""The subcommand ``compare``: what a candidate saved, from the logs of runs."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
    from tst_megatron.analysis.compare.result import Findings

EXAMPLES = """\
examples:
  tst-megatron compare runs/baseline --with runs/tst --out report
  tst-megatron compare baseline-*/ --with tst-*/ --out report --price-per-gpu-hour 2.5 --watts 1200
  tst-megatron compare baseline.csv --with runs/tst --json > figures.json
  tst-megatron compare both.csv:baseline --with both.csv:tst --loss-column val_loss

Runs of equal settings but for the seed are one group; of several learning rates the best is
compared. Several lengths of the baseline make whole runs comparable. Of two tokenizers losses are
compared in bits a byte, where all runs validated on the whole of one text. A path is a run's
ledger.jsonl (or .gz), its folder or a folder of such folders, a TensorBoard folder of Megatron's,
or a CSV that W&B exported; FILE.csv:RUN is one run of several.
"""

_WIDTH_OF_A_LOG = 80
_CONFIDENCE = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``compare``."""
    parser.add_argument("baseline", nargs="+", type=Path, help="ordinary runs")
    parser.add_argument(
        "--with", dest="candidate", nargs="+", type=Path, required=True, metavar="CANDIDATE",
        help="the runs that are compared with them",
    )  # fmt: skip
    parser.add_argument(
        "--loss-column", action="append", default=[], metavar="NAME",
        help='what W&B exports and TensorBoard folders call the held-out loss, where that is not '
        '"lm loss validation"; again for a source that calls it otherwise',
    )  # fmt: skip
    parser.add_argument(
        "--bits-a-byte", action="store_true",
        help="tell losses in bits a byte of the held-out text, as it does by itself where the "
        "runs' tokenizers differ",
    )  # fmt: skip
    parser.add_argument(
        "--scaling", type=Path, metavar="LAW",
        help="a law of whole runs, of scaling fit: what a longer baseline would end with is by it, "
        "not by a law of the baseline's own curve",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write report.html, .json, .png and .csv here"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print the figures as JSON")
    shown.add_argument(
        "--text", action="store_true", help="print the tables (what it does without --json)"
    )
    parser.add_argument(
        "--force", action="store_true", help="compare what should not be, and mark the report"
    )
    parser.add_argument(
        "--confidence", type=float, default=_CONFIDENCE, metavar="SHARE",
        help=f"how often an interval holds the truth (default {_CONFIDENCE})",
    )  # fmt: skip
    parser.add_argument(
        "--price-per-gpu-hour", type=float, metavar="MONEY", help="adds what both sides cost"
    )
    parser.add_argument(
        "--watts", type=float, metavar="W", help="of a GPU and its share of the rest: adds energy"
    )


def main(args: argparse.Namespace) -> int:
    """Compare, print and write.

    Args:
        args: of `add_arguments`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: a flag is wrong, a run cannot be read, the sides should not be compared, or the
            folder cannot be written.
    """
    _check(args)
    from tst_megatron.analysis.compare.compare import compare_paths
    from tst_megatron.analysis.compare.result import Prices

    prices = Prices(args.price_per_gpu_hour, args.watts)
    findings = compare_paths(
        args.baseline,
        args.candidate,
        args.confidence,
        args.force,
        prices,
        args.loss_column,
        None if args.scaling is None else _law(args.scaling),
        args.bits_a_byte,
    )
    if args.out is not None:
        _write(args.out, findings)
    if args.json:
        from tst_megatron.analysis.compare.output.as_json import json_text

        sys.stdout.write(json_text(findings))
    else:
        _print(findings)
    if args.out is not None:
        print(f"Report: {args.out / 'report.html'}", file=sys.stderr if args.json else sys.stdout)
    return 0


def _law(path: Path) -> "ScalingLaw":
    from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
    from tst_megatron.analysis.scaling.law_file import read_law

    return ScalingLaw(path.name, read_law(path))


def _write(out: Path, findings: "Findings") -> None:
    from tst_megatron.analysis.compare.output.folder import write_folder

    try:
        write_folder(out, findings)
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror}): give another folder"
        ) from None


def _print(findings: "Findings") -> None:
    from tst_megatron.analysis.compare.output.as_text import print_findings
    from tst_megatron.report.terminal import console

    print_findings(console(_WIDTH_OF_A_LOG), findings)


def _check(args: argparse.Namespace) -> None:
    for name in ("price_per_gpu_hour", "watts"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {value:g} is no amount: give a number of 0 or more")
    if not 0 < args.confidence < 1:
        raise UserError(
            f"--confidence {args.confidence:g} is no share: give a number between 0 and 1"
        )
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: give a folder")
