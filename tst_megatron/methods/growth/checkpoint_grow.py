"""``tst-megatron checkpoint grow``: a deeper model's checkpoint, made of a small model's."""

import argparse
from pathlib import Path

from rich.console import Console

from tst_megatron.methods.growth.flags import add_details
from tst_megatron.methods.growth.layers import OPERATORS

EXAMPLES = """\
examples:
  tst-megatron checkpoint grow runs/small runs/grown --grow stack --num-layers 24
  tst-megatron checkpoint grow runs/small runs/grown --grow 0-23,8-31 --num-layers 48 --step 20000
  tst-megatron checkpoint grow runs/small runs/grown --grow stack --num-layers 24 \\
      --grow-noise 0.2 --grow-optimizer new

--load OUT with the grown model's --num-layers then goes on from it, in stock Megatron too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "small", type=Path, metavar="IN", help="a run's --save folder, or a step in it"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, to --load")
    parser.add_argument(
        "--grow",
        required=True,
        metavar="HOW",
        help=f"how its layers become the grown model's: {', '.join(OPERATORS)}, or the "
        "checkpoint's layers in the grown model's order, such as 0-23,8-31",
    )
    parser.add_argument(
        "--num-layers",
        type=int,
        required=True,
        metavar="L",
        help="of the grown model; of a hybrid one the letters of its main pattern",
    )
    add_details(parser)
    parser.add_argument(
        "--seed", type=int, help="of the noise (default: the small model's own --seed)"
    )
    parser.add_argument("--step", type=int, metavar="N", help="default: the tracker's")


def main(args: argparse.Namespace) -> None:
    """Write the grown checkpoint, and say what it took.

    Raises:
        UserError: the small one cannot grow so, or the folder cannot be written.
    """
    from tst_megatron.checkpoints.derived import check_is_free, write
    from tst_megatron.checkpoints.saved import Saved
    from tst_megatron.checkpoints.steps import step_folder
    from tst_megatron.corpora.byte_progress import ByteProgress
    from tst_megatron.methods.growth.layers import GrowthFlags
    from tst_megatron.methods.growth.plan import flags_of, plan_of

    check_is_free(args.out)
    saved = Saved(step_folder(args.small, args.step))
    keeps = args.grow_optimizer == "keep"
    plan = plan_of(
        saved, GrowthFlags(args.grow, args.num_layers, args.grow_noise, keeps, args.seed)
    )
    with ByteProgress(Console(stderr=True), "written", plan.new_bytes) as progress:
        written = write(plan, args.out, progress.update)
    before = saved.args.num_layers
    parts = [f"{written.linked:,} bytes linked", f"{written.new:,} new"]
    if written.copied:
        parts.insert(1, f"{written.copied:,} copied")
    print(
        f"{args.out}: step {plan.step:,}, {before} layers grown to {args.num_layers}, "
        f"{', '.join(parts)}; load it with {' '.join(flags_of(plan.common, saved.args))}"
    )
