"""Errors that a user can cause, as opposed to bugs: one sentence, no traceback, exit code 2.

Ctrl-C is one of them, with the exit code that shells give it.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

USAGE_EXIT_CODE = 2
NO_STEP_EXIT_CODE = 3
"""Megatron left without a code before it trained a step, which would have been 0."""
INTERRUPTED_EXIT_CODE = 130


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says what and how."""


def exit_with(message: str, code: int = USAGE_EXIT_CODE) -> NoReturn:
    """Print one sentence on standard error and leave.

    Rank 0 prints it, and one rank of every other node: what is missing may be missing there alone.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        is_first = os.environ.get("RANK", "0") == "0"
        where = "" if is_first else f" (on {socket.gethostname()})"
        print(f"tst-megatron: {message}{where}", file=sys.stderr, flush=True)
    sys.exit(code)


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` raised inside into its sentence and exit code 2; Ctrl-C likewise, 130."""
    try:
        yield
    except UserError as error:
        exit_with(f"error: {error}")
    except KeyboardInterrupt:
        exit_with("stopped by Ctrl-C", INTERRUPTED_EXIT_CODE)
