"""The flags of upcycling, and what is wrong with them by themselves."""

import argparse
from typing import Any

from tst_megatron.errors import UserError

OPTIMIZERS = ("new", "keep")
SCALES = ("exact", "none")
_DEFAULTS = {
    "upcycle_router_std": None,
    "upcycle_scale": "exact",
    "upcycle_drop": 0.0,
    "upcycle_noise": 0.0,
    "upcycle_optimizer": "new",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--upcycle`` group."""
    group = parser.add_argument_group(
        "upcycling", "Start from a dense model's checkpoint, with its MLPs as experts."
    )
    group.add_argument(
        "--upcycle-from",
        metavar="DENSE",
        help="the --save folder of the dense run, or of one with fewer experts. Its training goes "
        "on: steps, samples, text and schedule. Once --save has a checkpoint of this run, the same "
        "command goes on from that",
    )
    group.add_argument(
        "--upcycle",
        action="store_true",
        help="the same of the checkpoint in --load, as in a chain's link",
    )
    add_details(group)


def add_details(parser: Any) -> None:
    """Add what says more of an upcycling, at load time and on disk alike."""
    parser.add_argument(
        "--upcycle-router-std",
        type=float,
        metavar="S",
        help="standard deviation of the new router's weights (default 0.02); where experts become "
        "more, of what is added to the rows of the copies (default 0.001)",
    )
    parser.add_argument(
        "--upcycle-scale",
        choices=SCALES,
        default="exact",
        help="exact: weights are scaled so that the experts together give what the MLP gave "
        "(default); none: they are copies",
    )
    parser.add_argument(
        "--upcycle-drop",
        type=float,
        default=0.0,
        metavar="R",
        help="share of each expert's units that are drawn anew (drop-upcycling; default 0)",
    )
    parser.add_argument(
        "--upcycle-noise",
        type=float,
        default=0.0,
        metavar="A",
        help="noise on each expert's matrices, in standard deviations of the matrix (default 0)",
    )
    parser.add_argument(
        "--upcycle-optimizer",
        choices=OPTIMIZERS,
        default="new",
        help="new: all moments begin at 0 (default); keep: the MLP's moments are each expert's. "
        "The learning rate's schedule goes on either way",
    )


def is_on(args: argparse.Namespace) -> bool:
    """Whether they ask for it."""
    return bool(args.upcycle) or args.upcycle_from is not None


def check(args: argparse.Namespace) -> None:
    """Check what needs nothing but these flags.

    Raises:
        UserError: a number is out of range, or a flag stands alone.
    """
    if not is_on(args):
        for name, default in _DEFAULTS.items():
            if getattr(args, name) != default:
                raise UserError(f"--{name.replace('_', '-')} is of --upcycle-from: add that")
        return
    check_details(args)


def check_details(args: argparse.Namespace) -> None:
    """Check those that both have.

    Raises:
        UserError: a number is out of range.
    """
    deviation = args.upcycle_router_std
    if deviation is not None and not 0 <= deviation < float("inf"):
        raise UserError(
            f"--upcycle-router-std {deviation:g} is no standard deviation: give one such as 0.02"
        )
    if not 0 <= args.upcycle_drop <= 1:
        raise UserError(
            f"--upcycle-drop {args.upcycle_drop:g} is no share: give one from 0 to 1, such as 0.5"
        )
    if not 0 <= args.upcycle_noise < float("inf"):
        raise UserError(
            f"--upcycle-noise {args.upcycle_noise:g} is no number of standard deviations: give one "
            "such as 0.05"
        )
