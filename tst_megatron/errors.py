"""Errors that a user can cause, as opposed to bugs: one sentence, no traceback, exit code 2.

Ctrl-C is one of them, with the exit code that shells give it. It reaches every process of a run, so
that what falls over behind it is no error of its own: a data loader whose workers have gone, a rank
whose neighbour has. Output that nobody reads on (``| head``) is none either.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

USAGE_EXIT_CODE = 2
NO_STEP_EXIT_CODE = 3
"""Megatron left without a code before it trained a step, which would have been 0."""
INTERRUPTED_EXIT_CODE = 130
NO_READER_EXIT_CODE = 141
"""As a shell tells it of what SIGPIPE has ended."""


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


class _CtrlC:
    """Python's own answer to Ctrl-C, which is remembered.

    Where it comes in the midst of a callback, such as the one after a fork, Python prints the
    ``KeyboardInterrupt`` and goes on; the next step ends the run.
    """

    def __init__(self) -> None:
        self.was_pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self.was_pressed = True
        sys.unraisablehook = _say_of_others
        signal.default_int_handler(number, frame)


def _say_of_others(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print what cannot be raised, but for Ctrl-C."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed, in a `user_errors_exit`."""
    answer = signal.getsignal(signal.SIGINT)
    return isinstance(answer, _CtrlC) and answer.was_pressed


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turn a `UserError` raised inside into its sentence and exit code 2; Ctrl-C likewise, 130.

    Where standard output has no reader any more, it leaves without a word.
    """
    with _ctrl_c_remembered():
        try:
            yield
            sys.stdout.flush()  # Here, and not when Python ends, where nobody catches what it says.
        except UserError as error:
            exit_with(f"error: {error}")
        except KeyboardInterrupt:
            exit_with("stopped by Ctrl-C", INTERRUPTED_EXIT_CODE)
        except SystemExit:
            _leave_if_unread()
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError):
                _leave_if_unread()
            if was_interrupted():
                exit_with("stopped by Ctrl-C", INTERRUPTED_EXIT_CODE)
            raise


def _leave_if_unread() -> None:
    """Leave quietly where what was printed cannot be written, as its reader has gone."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError):  # It is no file.
        return
    asked = select.poll()
    asked.register(output, 0)  # For errors alone, of which a pipe without a reader is one.
    if asked.poll(0):
        # Python flushes once more as it ends, and would say that it cannot.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        sys.exit(NO_READER_EXIT_CODE)


@contextmanager
def _ctrl_c_remembered() -> Iterator[None]:
    """Whoever has an answer of his own keeps it: Megatron's ``--exit-signal``, a job behind."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _CtrlC())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
