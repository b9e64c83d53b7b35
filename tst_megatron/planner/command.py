"""The subcommand ``plan``: what a run will need, and which layouts fit, without a GPU."""

import argparse
import dataclasses
import json
from contextlib import suppress
from pathlib import Path

from tst_megatron.analysis.scaling.law_file import read_law
from tst_megatron.errors import UserError
from tst_megatron.planner.countable import check_planned
from tst_megatron.planner.hardware import GB, GPUS, TERA, Gpu, gpu_named
from tst_megatron.recipes import expand_recipe, is_path, read
from tst_megatron.recipes.keys import check_keys, read_words
from tst_megatron.report.terminal import console
from tst_megatron.stock.megatron_flags import NotKnownError, is_of_installed_megatron

EXAMPLES = """\
examples:
  tst-megatron plan --recipe moe-10b-a1b-tst
  tst-megatron plan --recipe smollm3-3b-tst+fp8-blockwise --gpus 8 --gpu h100 --micro-batch-size 4
  tst-megatron plan --recipe smollm3-3b-tst --gpus 8 --sweep
  tst-megatron plan --gpus 16 --json $YOUR_MEGATRON_FLAGS
  tst-megatron plan --recipe smollm2-270m-tst --scaling law.json

Every other flag is pretrain's, Megatron's or ours, and wins over the recipe's.
"""

_WIDTH_OF_A_LOG = 120
_DEFAULT_GPU = "h100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``plan``; Megatron's follow them."""
    parser.add_argument("--recipe", help="flags from a recipe, or a .yaml file of your own")
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs in all (default: the recipe's, or one node's)"
    )
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help=f"{', '.join(GPUS)} (default: the recipe's, or {_DEFAULT_GPU})",
    )
    parser.add_argument(
        "--sweep", action="store_true", help="try every layout instead of the flags' own"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument(
        "--scaling", type=Path, metavar="LAW",
        help="a law of scaling fit: adds the loss to expect, and the cheapest runs that end so",
    )  # fmt: skip
    trust = parser.add_argument_group("what is taken on trust")
    for flag, text in (
        ("--mfu", "share of the peak that a whole step reaches, for the hours (default 0.40)"),
        (
            "--efficiency",
            "share of the peak that matrix products reach, for the predicted step (default 0.60)",
        ),
        ("--reserve", "share of the memory that is left free (default 0.10)"),
    ):
        trust.add_argument(flag, type=float, metavar="SHARE", help=text)
    for flag, unit, text in (
        ("--gpu-memory", "GB", "a GPU's memory"),
        ("--peak-tflops", "TFLOPS", "its bf16 peak"),
        ("--fp8-peak-tflops", "TFLOPS", "its FP8 peak"),
        ("--nvlink", "GB/S", "what it sends to its node, one direction"),
        ("--network", "GB/S", "what it sends to other nodes, one direction"),
        ("--storage", "GB/S", "what all write to a checkpoint together (default 5)"),
    ):
        trust.add_argument(flag, type=float, metavar=unit, help=text)
    trust.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="GPUs that reach one another by NVLink"
    )


def main(args: argparse.Namespace, others: list[str]) -> None:
    """Print a plan or a sweep.

    Args:
        args: of `add_arguments`.
        others: the rest of the command line: Megatron's flags and ours.

    Raises:
        UserError: the flags are wrong, do not divide, ask for what is not counted, or do not fit;
            in the last case the plan has been printed.
    """
    if args.gpus is not None and args.gpus < 1:
        raise UserError(f"--gpus {args.gpus} is not a number of GPUs: give 1 or more")
    machine = recipe = None
    if args.recipe is not None:
        recipe, machine = _recipe_for(args)
    number, kind = machine or (None, _DEFAULT_GPU)
    gpu = _with_figures(args, gpu_named(args.gpu or kind))
    shares = _shares(args)
    if args.scaling is not None and args.sweep:
        raise UserError("--scaling is of one run and --sweep of its layouts: give one of the two")
    law = None if args.scaling is None else read_law(args.scaling)
    num_gpus = args.gpus or number or gpu.gpus_per_node
    flags = others if recipe is None else expand_recipe(["--recipe", recipe, *others])
    if is_of_installed_megatron():
        _check_at_once(recipe, flags)
    # Before Megatron, which looks for a GPU as it is imported; also where there is one.
    from tst_megatron.trainer.cpu import gpu_packages
    from tst_megatron.trainer.cpu import patches as cpu

    # What is counted is Megatron's own modules; kernels of a GPU would only take time to import.
    gpu_packages.hide()
    cpu.install()
    from tst_megatron.planner import as_text
    from tst_megatron.planner.plan import Assumptions, make_plan
    from tst_megatron.planner.prospect import prospect_of
    from tst_megatron.planner.sweep import sweep

    assumptions = Assumptions(**shares)
    out = console(_WIDTH_OF_A_LOG)
    if args.sweep:
        swept = sweep(flags, num_gpus, gpu, assumptions)
        if args.json:
            print(json.dumps(swept.as_json(), indent=2))
        else:
            as_text.print_sweep(out, recipe, swept)
        if not any(one.fits for one in swept.tried):
            raise UserError(
                f"no layout fits {num_gpus} x {gpu.name}: take more GPUs, or GPUs with more memory"
            )
        return
    plan = make_plan(flags, num_gpus, gpu, assumptions)
    prospect = None if law is None else prospect_of(plan, law)
    if args.json:
        told = plan.as_json() | ({} if prospect is None else {"scaling": prospect.as_json()})
        print(json.dumps(told, indent=2))
    else:
        as_text.print_plan(out, recipe, plan)
        if prospect is not None:
            prospect.print(out)
    if not plan.fits:
        raise UserError(as_text.does_not_fit(plan))


def _check_at_once(recipe: str | None, flags: list[str]) -> None:
    """Refuse before torch is imported what the plan would be refused for after it.

    Raises:
        UserError: the recipe has a key that is no flag, or a flag is wrong.
    """
    own = argparse.ArgumentParser(add_help=False)
    add_arguments(own)
    if recipe is not None:
        check_keys(read(recipe))
    with suppress(NotKnownError):
        check_planned(read_words(flags, own._option_string_actions))


def _recipe_for(args: argparse.Namespace) -> tuple[str, tuple[int, str] | None]:
    """The recipe in its layout for the GPUs that were asked for, and the GPUs of its layout."""
    name: str = args.recipe
    # A file's own name may hold a plus.
    base, *parts = [name] if is_path(name) else name.split("+")
    bare = read(base)
    if not any(part in bare.layouts for part in parts):
        number, kind = bare.machine or (None, _DEFAULT_GPU)
        wanted = f"{args.gpus or number}x{(args.gpu or kind).lower()}"
        if wanted in bare.layouts and wanted != bare.layout:
            name = "+".join((base, wanted, *parts))
    return name, read(name).machine


def _with_figures(args: argparse.Namespace, gpu: Gpu) -> Gpu:
    """The GPU of the table, with the user's figures in it."""
    figures = {
        "gpu_memory": ("memory", GB),
        "peak_tflops": ("bf16_flops", TERA),
        "fp8_peak_tflops": ("fp8_flops", TERA),
        "nvlink": ("nvlink", GB),
        "network": ("network", GB),
        "gpus_per_node": ("gpus_per_node", 1),
    }
    given = {
        field: value * unit
        for name, (field, unit) in figures.items()
        if (value := _above_0(args, name)) is not None
    }
    return dataclasses.replace(gpu, **given)  # type: ignore[arg-type]  # None is a capability.


def _above_0(args: argparse.Namespace, name: str) -> float | None:
    value: float | None = getattr(args, name)
    if value is not None and not value > 0:
        flag = name.replace("_", "-")
        raise UserError(f"--{flag} {value:g} has to be above 0: leave it out or give a figure")
    return value


def _shares(args: argparse.Namespace) -> dict[str, float]:
    """What is taken on trust, where it is not as usual."""
    given = {
        name: value
        for name in ("mfu", "efficiency", "reserve")
        if (value := getattr(args, name)) is not None
    }
    for name, value in given.items():
        if not (0 <= value < 1 if name == "reserve" else 0 < value <= 1):
            raise UserError(f"--{name} {value:g} is no share: give a number between 0 and 1")
    if (storage := _above_0(args, "storage")) is not None:
        given["storage"] = storage * GB
    return given
