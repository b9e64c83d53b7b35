"""The flags of growth, and what is wrong with them by themselves."""

import argparse
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.growth import width
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
        "--grow-width",
        choices=width.OPERATORS,
        help="grow in width, too or alone. direct: units are copied, and what reads them is split "
        "among the copies; sizes are multiples of the checkpoint's. zero: new units give nothing "
        "at first. Heads stay as large as they are",
    )
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
        help="keep: moments are copied with their layers and units, and those of new units begin "
        "at 0 (default); new: all begin at 0. The learning rate's schedule goes on either way",
    )


def is_on(args: argparse.Namespace) -> bool:
    """Whether they ask for it."""
    return args.grow is not None or args.grow_width is not None


def in_words(args: argparse.Namespace) -> str:
    """What asks for it, as it was given."""
    given = {"--grow": args.grow, "--grow-width": args.grow_width}
    return " ".join(f"{flag} {value}" for flag, value in given.items() if value is not None)


def check(args: argparse.Namespace) -> None:
    """Check what needs nothing but these flags.

    Raises:
        UserError: a number is out of range, a word is no list, or a flag stands alone.
    """
    if args.grow is None:
        # What of the layers that repeat others is not of width.
        lonely = {"grow_noise": 0.0} | ({} if args.grow_width else {"grow_optimizer": "keep"})
        for flag, default in lonely.items():
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
