"""The subcommand ``chain plan``: what every link needs, and what all of them come to."""

import argparse
import json
from typing import TYPE_CHECKING

from tst_megatron.chains.commands.run import add_file
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tst_megatron.chains.planned import LinkPlan

EXAMPLES = """\
examples:
  tst-megatron chain plan stacked.yaml --gpu h100 --gpus 8
  tst-megatron chain plan stacked.yaml --json

tst-megatron plan has all figures of one run; --json has them of every link.
"""

_DEFAULT_GPU = "h100"
_DEFAULT_MFU = 0.40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``chain plan``."""
    add_file(parser)
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs of every link (default: the recipe's, or 8)"
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help=f"as plan has it (default: the recipe's, or {_DEFAULT_GPU})"
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=_DEFAULT_MFU,
        metavar="SHARE",
        help=f"share of the peak that a whole step reaches, for the hours (default {_DEFAULT_MFU})",
    )
    parser.add_argument("--json", action="store_true", help="print the plans as JSON")


def main(args: argparse.Namespace) -> None:
    """Print the plan.

    Raises:
        UserError: the file or a flag is wrong, or a link does not fit, after the plan is printed.
    """
    if args.gpus is not None and args.gpus < 1:
        raise UserError(f"--gpus {args.gpus} is not a number of GPUs: give 1 or more")
    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu {args.mfu:g} is no share: give a number between 0 and 1")
    from tst_megatron import recipes
    from tst_megatron.chains.chain import chain_of, out_of
    from tst_megatron.chains.file import read_chain
    from tst_megatron.chains.planned import plan_links, sums
    from tst_megatron.planner.hardware import gpu_named

    file = read_chain(args.file)
    chain = chain_of(file, out_of(file, args.out))
    machine = None if file.recipe is None else recipes.read(file.recipe).machine
    number, kind = machine or (None, _DEFAULT_GPU)
    gpu = gpu_named(args.gpu or kind)
    num_gpus = args.gpus or number or gpu.gpus_per_node
    plans = plan_links(chain, num_gpus, gpu, args.mfu)
    if args.json:
        told = {"links": [one.as_json() for one in plans], "sums": sums(plans)}
        print(json.dumps(told, indent=2))
    else:
        _print(file.name, plans)
    for one in plans:
        if not one.plan.fits:
            raise UserError(
                f"{file.where(one.link.file)} does not fit {num_gpus} x {gpu.name}: take more "
                "GPUs, or ones with more memory, or give it another layout in its flags"
            )


def _print(name: str, plans: "Sequence[LinkPlan]") -> None:
    from tst_megatron.chains.planned import sums
    from tst_megatron.planner.hardware import GB
    from tst_megatron.report.table import Table, print_table
    from tst_megatron.report.terminal import console

    rows: list[tuple[str, ...]] = [
        (
            one.link.name,
            f"{one.plan.parameters.total / 1e6:,.1f} M",
            f"{one.plan.worst.memory.total / GB:.1f}" + ("" if one.plan.fits else " does not fit"),
            f"{one.link.steps:,}",
            f"{one.data_tokens:,}",
            f"{one.flops:.3g}",
            f"{one.gpu_hours:,.2f}",
            f"{one.gpu_hours / one.plan.num_gpus:,.2f}",
        )
        for one in plans
    ]
    all_of = sums(plans)
    rows.append(
        (
            *("all", "", ""),
            *(f"{all_of[name]:,.0f}" for name in ("steps", "data_tokens")),
            f"{all_of['flops']:.3g}",
            *(f"{all_of[name]:,.2f}" for name in ("gpu_hours", "hours")),
        )
    )
    first = plans[0].plan
    columns = ("link", "parameters", "GB of a GPU", "steps", "data tokens", "FLOPs")
    title = f"{name} on {first.num_gpus} x {first.gpu.name}"
    note = f"Hours at a utilisation of {first.assumptions.mfu:.0%} (--mfu)."
    out = console()
    print_table(out, Table(title, (*columns, "GPU hours", "hours"), tuple(rows), note=note))
