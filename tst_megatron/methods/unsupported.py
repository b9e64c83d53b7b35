"""Flags of Megatron's that a method cannot go with, as a table."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from tst_megatron.errors import UserError

type Unsupported = tuple[Callable[[argparse.Namespace], Any], str, str]
"""Whether it is asked for, the flag, and why not."""


def refuse(args: argparse.Namespace, rows: Iterable[Unsupported], own: str) -> None:
    """Refuse the first flag of a table that is asked for.

    Args:
        args: all of Megatron's, before or after its validation.
        rows: the table.
        own: the method's flag, or several in words.

    Raises:
        UserError: one is.
    """
    for is_asked_for, flag, reason in rows:
        if is_asked_for(args):
            raise UserError(f"{flag} does not go with {own}: {reason}")
