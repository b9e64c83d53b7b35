"""The flags of growth, and what is wrong with them by themselves."""

import argparse
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.growth.layers import OPERATORS, layer_map

OPTIMIZERS = ("keep", "new")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--grow`` group."""
    group = parser.add_argument_group(
        "growth", "Start from a smaller model's checkpoint, in --load, and train on."
    )
    group.add_argument(
        "--grow",
        metavar="HOW",
        help=f"how its layers become the model's: {', '.join(OPERATORS)}, or the checkpoint's "
        "layers in the model's order, such as 0-23,8-31. Once --save has a checkpoint of the grown "
        "model, the same command goes on from that",
    )
    add_details(group)


def add_details(parser: Any) -> None:
    """Add what says more of a growth, at load time and on disk alike."""
    parser.add_argument(
        "--grow-noise",
        type=float,
        default=0.0,
        metavar="A",
        help="of every layer that repeats another, weigh the copy 1 - A and noise A (default 0)",
    )
    parser.add_argument(
        "--grow-optimizer",
        choices=OPTIMIZERS,
        default="keep",
        help="keep: moments are copied with their layers (default); new: all begin at 0. The "
        "learning rate's schedule goes on either way",
    )


def check(args: argparse.Namespace) -> None:
    """Check what needs nothing but these flags.

    Raises:
        UserError: a number is out of range, a word is no list, or a flag stands alone.
    """
    if args.grow is None:
        for flag, default in (("grow_noise", 0.0), ("grow_optimizer", "keep")):
            if getattr(args, flag) != default:
                raise UserError(f"--{flag.replace('_', '-')} is of --grow: add that")
        return
    check_noise(args.grow_noise)
    if args.grow not in OPERATORS:
        # As far as a list can be wrong by itself.
        named = [int(word) for word in args.grow.replace("-", ",").split(",") if word.isdecimal()]
        most = 1 + max(named, default=0)
        layer_map(args.grow, most, _length(args.grow))


def check_noise(share: float) -> None:
    """Check ``--grow-noise``.

    Raises:
        UserError: it is no share.
    """
    if not 0 <= share < 1:
        raise UserError(
            f"--grow-noise {share:g} is no share: give one from 0 to below 1, such as 0.2"
        )


def _length(words: str) -> int:
    """Layers that a list names; 0 of what is none."""
    ends = [word.strip().partition("-")[::2] for word in words.split(",")]
    try:
        return sum(int(last or first) - int(first) + 1 for first, last in ends)
    except ValueError:
        return 0
