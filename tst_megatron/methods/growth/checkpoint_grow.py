"""``tst-megatron checkpoint grow``: a larger model's checkpoint, made of a small model's."""

import argparse
import copy
from pathlib import Path
from typing import Any

from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import check_on_disk
from tst_megatron.methods.growth.flags import add_details, check, is_on
from tst_megatron.methods.growth.layers import OPERATORS
from tst_megatron.methods.growth.width import SIZES, in_words

EXAMPLES = """\
examples:
  tst-megatron checkpoint grow runs/small runs/grown --grow stack --num-layers 24
  tst-megatron checkpoint grow runs/small runs/grown --grow 0-23,8-31 --num-layers 48 --step 20000
  tst-megatron checkpoint grow runs/small runs/grown --grow stack --num-layers 24 \\
      --grow-noise 0.2 --grow-optimizer new
  tst-megatron checkpoint grow runs/small runs/wide --grow-width direct --hidden-size 2048 \\
      --ffn-hidden-size 8192 --num-attention-heads 16

--load OUT with the flags that the command prints then goes on from it, in stock Megatron too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "small", type=Path, metavar="IN", help="a run's --save folder, or a step in it"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, to --load")
    parser.add_argument(
        "--grow",
        metavar="HOW",
        help=f"how its layers become the grown model's: {', '.join(OPERATORS)}, or the "
        "checkpoint's layers in the grown model's order, such as 0-23,8-31",
    )
    parser.add_argument(
        "--num-layers",
        type=int,
        metavar="L",
        help="of the grown model; of a hybrid one the letters of its main pattern",
    )
    add_details(parser)
    wide = parser.add_argument_group(
        "the wide model, with --grow-width", "as Megatron's flags (default: as the small one has)"
    )
    for name in SIZES[:-1]:
        wide.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N")
    parser.add_argument(
        "--seed", type=int, help="of what is drawn (default: the small model's own --seed)"
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

    if not is_on(args):
        raise UserError("nothing says how to grow: give --grow, or --grow-width")
    check(args)
    if args.grow is not None and args.num_layers is None:
        raise UserError(f"--grow {args.grow} makes more layers: say how many with --num-layers")
    check_is_free(args.out)
    saved = Saved(step_folder(args.small, args.step))
    keeps = args.grow_optimizer == "keep"
    before = saved.args
    check_on_disk(before, args.small, "--grow")
    layers = getattr(before, "num_layers", 0) if args.num_layers is None else args.num_layers
    wide = {"width": args.grow_width, "wide": wide_args(before, args)}
    growth = GrowthFlags(args.grow, layers, args.grow_noise, keeps, args.seed, **wide)
    plan = plan_of(saved, growth)
    with ByteProgress(Console(stderr=True), "written", plan.new_bytes) as progress:
        written = write(plan, args.out, progress.update)
    sizes = plan.common["args"].methods["growth"]["facts"].get("sizes")
    grown = [] if args.grow is None else [f"{before.num_layers} layers grown to {layers}"]
    grown += [in_words(sizes)] if sizes else []
    parts = [f"{written.linked:,} bytes linked", f"{written.new:,} new"]
    if written.copied:
        parts.insert(1, f"{written.copied:,} copied")
    flags = [*flags_of(plan.common, before), *plan.extra_flags]
    print(
        f"{args.out}: step {plan.step:,}, {', '.join(grown)}, {', '.join(parts)}; load it with "
        f"{' '.join(flags)}"
    )


def wide_args(small: Any, given: argparse.Namespace) -> Any:
    """Arguments of the wide model: the small one's, and what the command is given.

    Raises:
        UserError: a size is given, and it is not to become wider.
    """
    wide = copy.copy(small)
    for name in SIZES[:-1]:
        value = getattr(given, name)
        if value is None:
            continue
        if given.grow_width is None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is of a wider model: say how it is made with --grow-width")
        setattr(wide, name, value)
        if name == "num_query_groups":
            wide.group_query_attention = True
    return wide
