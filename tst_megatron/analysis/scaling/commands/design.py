"""``tst-megatron scaling design``: what planned runs would tell of a law, before one runs."""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_megatron.analysis.scaling.commands.numbers import amount, amounts
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.analysis.scaling.design import Expected
    from tst_megatron.analysis.scaling.law import Law

EXAMPLES = """\
examples:
  tst-megatron scaling design --params 51k 156k 525k --tokens 2M 7M 29M --seeds 3 --noise 0.004
  tst-megatron scaling design --params 1B 3B 8B --tokens 20B 60B 200B --noise 0.01 --multiplier 2
  tst-megatron scaling design --params 51k 156k 525k --tokens 2M 7M 29M --noise 0.004 \
      --law law.json --at-params 2M --at-tokens 60M

Every size is taken at every length, in as many seeds, on each side. Without --law the law is
Chinchilla's, as Epoch's replication has it (arXiv 2404.10102), which is of large models: give one
of your own where there is one. Errors are standard errors, to first order, of runs that scatter as
the flags say; the 95 % intervals of scaling fit take seeds alone for witnesses, and reach 12.7
standard errors with 2 of them, 4.3 with 3, 2.6 with 6.
"""

_WIDTH_OF_A_LOG = 100
_METHOD = "method"
# Besiroglu et al., arXiv 2404.10102: the fit of least absolute deviations that the paper prints.
_PUBLISHED = (1.8172, 482.01, 0.3478, 2085.43, 0.3658)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``scaling design``."""
    parser.add_argument("--params", nargs="+", required=True, metavar="N", help="sizes")
    parser.add_argument(
        "--tokens", nargs="+", required=True, metavar="D", help="lengths, positions"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="of every cell (1)")
    parser.add_argument(
        "--noise", type=float, required=True, metavar="SHARE",
        help="of a run's loss, beside what it shares with the runs of its seed: 0.01 is 1 %%",
    )  # fmt: skip
    parser.add_argument(
        "--level-noise", type=float, default=0.0, metavar="SHARE",
        help="of a run's loss, what the runs of a seed share (0)",
    )  # fmt: skip
    parser.add_argument(
        "--multiplier", metavar="M",
        help="that a method is thought to have: as many runs again, with it",
    )  # fmt: skip
    parser.add_argument("--law", type=Path, metavar="FILE", help="of scaling fit, to suppose")
    parser.add_argument(
        "--most-flops", metavar="C", help="leave out cells of more FLOPs than these a run"
    )
    parser.add_argument("--at-params", metavar="N", help="a size to be predicted")
    parser.add_argument("--at-tokens", metavar="D", help="and its length")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Work it out and print it.

    Raises:
        UserError: a number is none, no cell is left, or a law cannot be read.
    """
    _check(args)
    sizes, lengths = amounts("--params", args.params), amounts("--tokens", args.tokens)
    from tst_megatron.strict_json import finite

    law = _law(args)
    cells = _cells(args, law, sizes, lengths)
    found = _expected(args, law, cells)
    content = _figures(args, law, cells, found)
    if args.json:
        sys.stdout.write(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
    else:
        _print(content)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds} is below 1: give 1 or more")
    for flag, value in (("--noise", args.noise), ("--level-noise", args.level_noise)):
        if not 0 <= value < 1:
            raise UserError(
                f"{flag} {value:g} is no share of a loss: give one below 1, such as 0.01"
            )
    if not args.noise:
        raise UserError("--noise 0 is a run without scatter, which tells all: give what yours have")
    if (args.at_params is None) != (args.at_tokens is None):
        raise UserError("--at-params and --at-tokens go together: a run has a size and a length")


def _law(args: argparse.Namespace) -> "Law":
    from tst_megatron.analysis.scaling.law import Law, Multiplier
    from tst_megatron.analysis.scaling.law_file import read_law

    law = Law(*_PUBLISHED) if args.law is None else read_law(args.law).law
    if args.multiplier is None:
        return replace(law, multipliers={})
    worth = amount("--multiplier", args.multiplier)
    return replace(law, multipliers={_METHOD: Multiplier(math.log(worth))})


def _cells(
    args: argparse.Namespace, law: "Law", sizes: list[float], lengths: list[float]
) -> list[tuple[float, float]]:
    most = float("inf") if args.most_flops is None else amount("--most-flops", args.most_flops)
    cells = [(n, d) for n in sizes for d in lengths if law.flops_per_position * n * d <= most]
    if not cells:
        raise UserError(f"--most-flops {args.most_flops} leaves no cell: raise it")
    return cells


def _expected(args: argparse.Namespace, law: "Law", cells: list[tuple[float, float]]) -> "Expected":
    import numpy as np

    from tst_megatron.analysis.scaling.design import expected

    settings = (None, *law.multipliers)
    runs = [
        (n, d, setting, seed)
        for setting in settings
        for seed in range(args.seeds)
        for n, d in cells
    ]
    n, d, setting, seed = zip(*runs, strict=True)
    return expected(
        law,
        np.array(n),
        np.array(d),
        setting,
        seed,
        rest=args.noise,
        level=args.level_noise,
    )


def _figures(
    args: argparse.Namespace, law: "Law", cells: list[tuple[float, float]], found: "Expected"
) -> dict[str, Any]:
    from tst_megatron.statistics.f_test import student_quantile

    runs = len(cells) * args.seeds * (1 + len(law.multipliers))
    flops = sum(law.flops_per_position * n * d for n, d in cells) * runs / len(cells)
    errors = {"alpha": found.alpha, "beta": found.beta, "a": found.a}
    for name in law.multipliers:
        errors["ln m"] = found.ln_multiplier(name)
    if args.at_params is not None:
        n, d = amount("--at-params", args.at_params), amount("--at-tokens", args.at_tokens)
        errors[f"ln L at N {n:.4g}, D {d:.4g}"] = found.ln_loss(n, d)
    return {
        "runs": runs,
        "cells": len(cells),
        "flops": flops,
        "rank": found.rank,
        "parameters": found.form.parameters,
        "condition": found.condition,
        "standard_errors": errors,
        "reach_of_intervals": student_quantile(0.95, args.seeds - 1) if args.seeds > 1 else None,
        "against": _against(cells, found),
    }


def _against(cells: list[tuple[float, float]], found: "Expected") -> list[str]:
    """What `scaling fit` would refuse such runs for."""
    import numpy as np

    from tst_megatron.analysis.scaling.checks import MOST_CONDITION, of_runs

    n, d = (np.array(column) for column in zip(*cells, strict=True))
    said = [finding.sentence for finding in of_runs(n, d)]
    if not said and found.condition > MOST_CONDITION:
        said.append(
            f"the condition number is {found.condition:.3g}, over {MOST_CONDITION:g}: take sizes "
            "and lengths farther apart"
        )
    return said


def _print(content: dict[str, Any]) -> None:
    from tst_megatron.report import formats
    from tst_megatron.report.table import Table, print_table
    from tst_megatron.report.terminal import console

    to = console(_WIDTH_OF_A_LOG)
    to.print(
        f"{content['runs']:,} runs of {content['cells']:,} sizes and lengths, "
        f"{content['flops']:.4g} FLOPs in all",
        markup=False,
    )
    rows = [
        ("numbers that the runs tell apart", f"{content['rank']} of {content['parameters']}"),
        ("condition number", _shown(content["condition"])),
        *(
            (f"standard error of {name}", _shown(v))
            for name, v in content["standard_errors"].items()
        ),
    ]
    print_table(to, Table("", ("", formats.UNKNOWN), tuple(rows)))
    if reach := content["reach_of_intervals"]:
        to.print(f"95 % intervals of scaling fit reach {reach:.3g} standard errors.", markup=False)
    else:
        to.print(
            "From one seed scaling fit cannot know what a seed does: plan --seeds 3.",
            markup=False,
        )
    for sentence in content["against"]:
        to.print(f"scaling fit would refuse these: {sentence}.", markup=False)


def _shown(value: float) -> str:
    return f"{value:.3g}" if value < float("inf") else "none"
