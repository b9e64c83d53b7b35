"""Errors that a user can cause, as opposed to bugs: one sentence, no traceback, exit code 2."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

USAGE_EXIT_CODE = 2


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says what and how."""


def exit_with(message: str) -> NoReturn:
    """Print one sentence on standard error and leave with code 2.

    Rank 0 prints it, and one rank of every other node: what is missing may be missing there alone.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        is_first = os.environ.get("RANK", "0") == "0"
        where = "" if is_first else f" (on {socket.gethostname()})"
        print(f"tst-megatron: error: {message}{where}", file=sys.stderr, flush=True)
    sys.exit(USAGE_EXIT_CODE)


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` raised inside into its sentence and exit code 2."""
    try:
        yield
    except UserError as error:
        exit_with(str(error))
