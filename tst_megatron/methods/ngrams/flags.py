"""The ``--ngram-*`` flags, and what is wrong with them by themselves."""

import argparse

from tst_megatron.errors import UserError
from tst_megatron.methods.number_list import numbers_in

_DEFAULT_ORDERS = "3-8"  # Of bytes: arXiv 2412.09871, 3.2.1.
_MOST = 64
"""Tokens that an n-gram is of at most: a rank looks back so far."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--ngram-*`` group to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        "hashed n-grams",
        "Add to a token's embedding those of the n-grams that end with it, by their hashes "
        "(arXiv 2412.09871, 3.2.1).",
    )
    group.add_argument(
        "--ngram-rows",
        type=int,
        metavar="N",
        help="give every length of n-grams a table of N rows, among which a hash deals them out; "
        "without this flag there are none",
    )
    group.add_argument(
        "--ngram-orders",
        default=_DEFAULT_ORDERS,
        metavar="LIST",
        help=f"lengths of n-grams in tokens, such as 2,4-6 (default {_DEFAULT_ORDERS})",
    )


def is_on(args: argparse.Namespace) -> bool:
    """With ``--ngram-rows``."""
    return getattr(args, "ngram_rows", None) is not None


def check(args: argparse.Namespace) -> None:
    """Check the flags by themselves.

    Raises:
        UserError: a value is out of range, or a flag does nothing.
    """
    if not is_on(args):
        if args.ngram_orders != _DEFAULT_ORDERS:
            raise UserError("--ngram-orders without --ngram-rows: say how many rows a table has")
        return
    if args.ngram_rows < 1:
        raise UserError(f"--ngram-rows {args.ngram_rows} are none: give 1 or more, or leave it out")
    orders_of(args)


def orders_of(args: argparse.Namespace) -> tuple[int, ...]:
    """As `orders_in`, of ``--ngram-orders``."""
    return orders_in(args.ngram_orders)


def orders_in(text: str) -> tuple[int, ...]:
    """The lengths that a list such as ``2,4-6`` names, in order.

    Raises:
        UserError: it is no list of them.
    """
    write = f"lengths from 2 to {_MOST} and ranges, such as 2,4-6"
    return numbers_in("--ngram-orders", text, "n-grams", write, 2, _MOST)
