"""Start a training run as a cluster does, through torchrun, and stop it so that it can go on."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tst_megatron.backends import DEVICE_VARIABLE

# A first checkpoint takes seconds, since its writer imports Megatron.
_STOP_TIMEOUT_S = 60.0


@dataclass
class Run:
    """A run under torchrun, in a process group of its own, so that Ctrl-C reaches us alone."""

    process: subprocess.Popen[bytes]
    log: Path

    def ask_to_stop(self) -> None:
        """Ask it to save a checkpoint and end (Megatron's ``--exit-signal-handler``).

        The trainer is asked, not torchrun, which would pass the signal on to the processes that
        write a checkpoint as well, and so break the one being written.
        """
        if self.process.poll() is not None:
            return
        torchrun = psutil.Process(self.process.pid)
        for process in torchrun.children() or [torchrun]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)

    def end(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Wait for it to end; past the time, end it and its workers at once."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        if self.process.poll() is not None:
            return
        # torchrun gives its workers sessions of their own, so its process group is not enough.
        parent = psutil.Process(self.process.pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def error(self) -> str:
        """Why it failed: its own sentence if there is one, else where to look."""
        mark = "tst-megatron: error: "
        for line in reversed(self.log.read_text(errors="replace").splitlines()):
            if line.startswith(mark):
                return line.removeprefix(mark)
        return f"it ended with code {self.process.returncode}: see the end of {self.log}"


def start_on_cpu(flags: list[str], log: Path, num_processes: int = 1) -> Run:
    """``torchrun -m tst_megatron pretrain FLAGS`` on CPU cores, one a process.

    Args:
        flags: Megatron's and ours.
        log: takes its output, after what is there.
        num_processes: of the run.
    """
    return _start(flags, log, num_processes, {"OMP_NUM_THREADS": "1", DEVICE_VARIABLE: "cpu"})


def start_on_gpus(flags: list[str], log: Path, gpus: Sequence[int]) -> Run:
    """The same on GPUs of this machine, one a process, which no other run sees.

    Args:
        flags: Megatron's and ours.
        log: takes its output, after what is there.
        gpus: their numbers among those that this process sees.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [visible.split(",")[gpu] for gpu in gpus] if visible else map(str, gpus)
    return _start(flags, log, len(gpus), {"CUDA_VISIBLE_DEVICES": ",".join(names)})


def _start(flags: list[str], log: Path, num_processes: int, environment: dict[str, str]) -> Run:
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}")
    command = [
        *(sys.executable, *torchrun),
        *("-m", "tst_megatron", "pretrain", "--exit-signal-handler", *flags),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            start_new_session=True,
        )
    return Run(process, log)
