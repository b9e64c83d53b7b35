"""The flag ``--noop-experts``, and what is wrong with it by itself."""

import argparse
from typing import Any

from tst_megatron.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--noop-experts`` group to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        "no-op experts",
        "Let a router choose among experts and experts that do nothing: mixture of depths and "
        "experts, integrated (arXiv 2404.02258).",
    )
    group.add_argument(
        "--noop-experts",
        type=int,
        metavar="N",
        help="give the router of every layer with experts N rows more, whose choice adds nothing "
        "to a token; with E experts that are balanced, N / (E + N) of the choices are such",
    )


def is_on(args: argparse.Namespace) -> bool:
    """With ``--noop-experts``."""
    return getattr(args, "noop_experts", None) is not None


def check(args: argparse.Namespace) -> None:
    """Check the flag by itself.

    Raises:
        UserError: it is no number of experts.
    """
    if is_on(args) and args.noop_experts < 1:
        raise UserError(
            f"--noop-experts {args.noop_experts} are none: give 1 or more, or leave it out"
        )


def balanced_share(args: Any) -> float:
    """Share of the choices that no-op experts have where all are chosen alike."""
    return int(args.noop_experts) / (int(args.num_experts) + int(args.noop_experts))
