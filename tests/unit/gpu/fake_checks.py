"""Checks that end in all the ways that a check may end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.gpu.figures import CannotRunHereError, Figure, Note
from tests.gpu.machine import Machine


def passes(machine: Machine) -> Iterator[Figure | Note]:
    yield Figure("of it", 1.0, "s", 2.0)
    yield Note("all is well")


def misses(machine: Machine) -> Iterator[Figure | Note]:
    yield Figure("first", 1.0, "", 2.0)
    yield Figure("no number", float("nan"), "", 2.0)
    yield Figure("too small", 1.0, "", 2.0, at_most=False)


def judges_nothing(machine: Machine) -> Iterator[Figure | Note]:
    yield Figure("of it", 1.0)


def raises(machine: Machine) -> Iterator[Figure | Note]:
    yield Figure("before", 1.0, "", 2.0)
    raise ValueError("what went wrong")


def lacks(machine: Machine) -> Iterator[Figure | Note]:
    raise CannotRunHereError("needs a thing")
    yield


def misses_and_lacks(machine: Machine) -> Iterator[Figure | Note]:
    yield Figure("too large", 3.0, "", 2.0)
    raise CannotRunHereError("needs a thing for the rest")


def killed(machine: Machine) -> Iterator[Figure | Note]:
    yield Figure("before", 1.0, "", 2.0)
    print("the driver's last words", flush=True)
    os.kill(os.getpid(), signal.SIGABRT)


def hangs(machine: Machine) -> Iterator[Figure | Note]:
    """With a process of its own session, as torchrun's workers have."""
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    sleeper = subprocess.Popen(words, start_new_session=True)
    (Path(machine.out) / "sleeper").write_text(str(sleeper.pid))
    yield Figure("before", 1.0, "", 2.0)
    time.sleep(600)
