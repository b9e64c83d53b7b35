"""Errors that a user can cause, as opposed to bugs: one sentence, no traceback, exit code 2."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

USAGE_EXIT_CODE = 2


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says what and how."""


def exit_with(message: str) -> NoReturn:
    """Print one sentence on standard error, from rank 0 of a job only, and leave with code 2."""
    if os.environ.get("RANK", "0") == "0":
        print(f"tst-megatron: error: {message}", file=sys.stderr, flush=True)
    sys.exit(USAGE_EXIT_CODE)


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` raised inside into its sentence and exit code 2."""
    try:
        yield
    except UserError as error:
        exit_with(str(error))
