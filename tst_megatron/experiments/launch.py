"""Start a training run as a cluster does, through torchrun, and stop it so that it can go on."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.errors import UserError

# A first checkpoint takes seconds, since its writer imports Megatron.
_STOP_TIMEOUT_S = 60.0
# What a run that has ended leaves behind for a moment, such as a loader's resource tracker.
_LOCK_TIMEOUT_S = 10.0
# What Megatron says of a loss or a gradient (rerun_state_machine.py), fatal by default.
_DIVERGED = ("found NaN in", "found Inf in")


@dataclass
class Process:
    """A run under torchrun, in a process group of its own, so that Ctrl-C reaches us alone.

    Attributes:
        torchrun: its process.
        log: of all starts of the run.
        log_start: byte of the log at which this start begins.
    """

    torchrun: subprocess.Popen[bytes]
    log: Path
    log_start: int

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.torchrun.poll() is not None

    def ask_to_stop(self) -> None:
        """Ask it to save a checkpoint and end (Megatron's ``--exit-signal-handler``).

        The trainer is asked, not torchrun, which would pass the signal on to the processes that
        write a checkpoint as well, and so break the one being written.
        """
        if self.has_ended:
            return
        torchrun = psutil.Process(self.torchrun.pid)
        for process in torchrun.children() or [torchrun]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)

    def end(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Wait for it to end; past the time, end it and its workers at once."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.torchrun.wait(timeout_s)
        if self.has_ended:
            return
        # torchrun gives its workers sessions of their own, so its process group is not enough.
        parent = psutil.Process(self.torchrun.pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.torchrun.wait()

    def error(self) -> str:
        """Why it failed: its own sentence if there is one, else where to look."""
        mark = "tst-megatron: error: "
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            said = log.read().decode(errors="replace")
        for line in reversed(said.splitlines()):
            if line.startswith(mark):
                return line.removeprefix(mark)
        if any(words in said for words in _DIVERGED):
            return f"it diverged, to a loss or gradient that is no finite number: see {self.log}"
        return f"it ended with code {self.torchrun.returncode}: see the end of {self.log}"


def end_on_signals() -> None:
    """End as by Ctrl-C where this process is ended otherwise: that must not leave runs behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def start_on_cpu(flags: list[str], log: Path, num_processes: int = 1) -> Process:
    """``torchrun -m tst_megatron pretrain FLAGS`` on CPU cores, one a process.

    Args:
        flags: Megatron's and ours.
        log: takes its output, after what is there.
        num_processes: of the run.

    Raises:
        UserError: a run is still writing this log.
    """
    return _start(flags, log, num_processes, {"OMP_NUM_THREADS": "1", DEVICE_VARIABLE: "cpu"})


def start_on_gpus(flags: list[str], log: Path, gpus: Sequence[int]) -> Process:
    """The same on GPUs of this machine, one a process, which no other run sees.

    Args:
        flags: Megatron's and ours.
        log: takes its output, after what is there.
        gpus: their numbers among those that this process sees.

    Raises:
        UserError: a run is still writing this log.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [visible.split(",")[gpu] for gpu in gpus] if visible else map(str, gpus)
    return _start(flags, log, len(gpus), {"CUDA_VISIBLE_DEVICES": ",".join(names)})


def _start(flags: list[str], log: Path, num_processes: int, environment: dict[str, str]) -> Process:
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}")
    command = [
        *(sys.executable, *launcher),
        *("-m", "tst_megatron", "pretrain", "--exit-signal-handler", *flags),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        _lock(output, log)
        log_start = output.tell()
        torchrun = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            start_new_session=True,
        )
    return Process(torchrun, log, log_start)


def _lock(output: BinaryIO, log: Path) -> None:
    """Two trainers in one folder would break each other's checkpoints.

    The lock goes with the open file, so that torchrun and its workers hold it as their output,
    also where whoever started them was killed.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"a run is still going on in {log.parent}: wait until it has ended, or stop it"
                ) from None
            time.sleep(0.1)
        except OSError:
            return  # A file system without locks.
        else:
            return
