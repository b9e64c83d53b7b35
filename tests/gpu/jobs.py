"""Start the checks' runs: torchrun and the real trainer, on GPUs or on this machine's CPU.

The one idea: a run is a `trainer.Job`, as in the tests, and its result what the tests read. On a
CPU the tests' job server runs it; a GPU's context does not outlive a fork, so there torchrun is
started anew, several jobs side by side, because most of a small job is importing.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trainer
from trainer import Job, Result

from tests.gpu import REPOSITORY
from tests.gpu.figures import CannotRunHereError, Figure, Note
from tests.gpu.machine import Machine
from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.experiments.launch import Process

_SHARE = 4
"""Small jobs on one GPU at once."""
_RESERVE_S = 10.0  # To end what runs, before the check is ended itself.
_LOG_CHARACTERS = 2000
_SENTENCE = "tst-megatron: error: "
# What torch puts before a line of a rank's.
_PREFIX = re.compile(r"^(\[rank\d+\]: ?|[EW]\d{4} [^\]]*\] ?)")
_RAISED = re.compile(r"[\w.]*(Error|Exception)\b")
_OF_TORCHRUN = re.compile(r"torch\.(distributed\.elastic|multiprocessing)\.")
_NOT_THE_KERNEL = "The loss of bags is "
STOCK = (str(REPOSITORY / "tests/stock_pretrain.py"),)


def watched_job(out: Path, flags: Sequence[str], num_ranks: int = 1) -> Job:
    """A run of our trainer whose steps are looked at (`tests.gpu.watched_pretrain`)."""
    program = ("-m", "tests.gpu.watched_pretrain", str(out))
    return Job(out, tuple(flags), num_ranks, program)


def watched_steps(job: Job, rank: int = 0) -> list[dict[str, Any]]:
    """What was seen of every step of a watched job, by one rank."""
    steps: list[dict[str, Any]] = json.loads((job.out / f"watched-{rank}.json").read_text())
    return steps


class JobFailedError(Exception):
    """A run that had to go well did not; the message has its own sentence, or its log's end."""


def run_all(
    machine: Machine, jobs: Sequence[Job], share: int = _SHARE, check: bool = True
) -> list[Result]:
    """Run jobs on the GPUs, or in a dry run on the CPU.

    Args:
        machine: where.
        jobs: in any order.
        share: of them on one GPU at once; 1 where time or memory is measured.
        check: whether each has to end well.

    Raises:
        JobFailedError: one that had to did not, or took too long; of the others that is a result.
    """
    if machine.dry_run:
        return _on_cpu_of_the_server(jobs, check)
    gpus = _Gpus(machine.gpus, share)

    def run(job: Job) -> Result:
        with gpus.taken(job.num_ranks) as numbers:
            visible = {"CUDA_VISIBLE_DEVICES": _names(numbers)}
            return _torchrun(machine, job, visible, check)

    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        return list(pool.map(run, jobs))


def run_on_cpu(machine: Machine, jobs: Sequence[Job]) -> list[Result]:
    """Run jobs on this machine's CPU, through the CPU backend, on a machine with GPUs too.

    Raises:
        JobFailedError: as `run_all`.
    """
    if machine.dry_run:
        return _on_cpu_of_the_server(jobs, check=True)
    environment = {DEVICE_VARIABLE: "cpu", "OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        return list(pool.map(lambda job: _torchrun(machine, job, environment, True), jobs))


def _on_cpu_of_the_server(jobs: Sequence[Job], check: bool) -> list[Result]:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: trainer.run(job, check=False), jobs))
    for job, result in zip(jobs, results, strict=True):
        if check and result.code:
            raise JobFailedError(_why(job, result))
    return results


def _torchrun(machine: Machine, job: Job, environment: dict[str, str], check: bool) -> Result:
    job.out.mkdir(parents=True, exist_ok=True)
    log, ledger = job.out / "output.log", job.out / "ledger.jsonl"
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.num_ranks}")
    own = [f"--ledger={ledger}"] if job.program[0] == "-m" else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *launcher, *job.program, *job.flags, *own],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment | job.environment,
            start_new_session=True,
        )
    try:
        process.wait(max(1.0, machine.seconds_left - _RESERVE_S))
    except subprocess.TimeoutExpired:
        Process(process, log, 0).end(timeout_s=0.0)
        why = f"{job.out.name} took longer than there was time"
        if check:
            raise JobFailedError(f"{why}: {_end(log)}") from None
        # Those beside it have ended, and are told of.
        said = log.read_text(errors="replace")
        return Result(process.wait(), f"{said}\nTimeoutError: {why}\n", ledger)
    result = Result(process.returncode, log.read_text(errors="replace"), ledger)
    if check and result.code:
        raise JobFailedError(_why(job, result))
    return result


def failed(name: str, result: Result) -> Iterator[Figure | Note]:
    """What a check says of a run that did not end well, where the others go on."""
    yield Figure(f"{name}: exit code", result.code, "", 0)
    yield Note(f"{name}: {reason(result.output)}")


def other_losses(name: str, result: Result) -> Figure:
    """How often a run says that its loss of bags is not the kernel (`logit_passes.default_on`)."""
    said = result.output.count(_NOT_THE_KERNEL)
    return Figure(f"{name}: lines that its loss of bags is not the kernel", said, "", 0)


def reason(output: str) -> str:
    """Why a run failed: its own sentence, or the last error that a rank raised, or its end."""
    lines = [_PREFIX.sub("", line) for line in output.splitlines()]
    if said := [line for line in lines if _SENTENCE in line]:
        return said[-1].partition(_SENTENCE)[2]
    raised = [line for line in lines if _RAISED.match(line) and not _OF_TORCHRUN.match(line)]
    return raised[-1].strip()[:500] if raised else output[-_LOG_CHARACTERS:]


def _why(job: Job, result: Result) -> str:
    return f"{job.out.name} ended with code {result.code}: {reason(result.output)}"


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:]


def _names(gpus: Sequence[int]) -> str:
    """Of GPUs among those that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ",".join([visible.split(",")[gpu] for gpu in gpus] if visible else map(str, gpus))


class _Gpus:
    """Who uses which GPU; a job takes the least used ones, each for itself once.

    Args:
        number: of GPUs.
        share: jobs on one at once.
    """

    def __init__(self, number: int, share: int) -> None:
        self._users = [0] * number
        self._share = share
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, number: int) -> Iterator[list[int]]:
        """Wait for so many GPUs.

        Raises:
            CannotRunHereError: there are never so many.
        """
        if number > len(self._users):
            raise CannotRunHereError(f"needs {number} GPUs, and --gpus is {len(self._users)}")
        # Two jobs of several ranks on one pair of GPUs would wait for each other's kernels.
        share = 1 if number > 1 else self._share
        with self._changed:
            self._changed.wait_for(lambda: len(self._free(share)) >= number)
            chosen = self._free(share)[:number]
            for gpu in chosen:
                self._users[gpu] += self._share // share
        try:
            yield chosen
        finally:
            with self._changed:
                for gpu in chosen:
                    self._users[gpu] -= self._share // share
                self._changed.notify_all()

    def _free(self, share: int) -> list[int]:
        """Those that have room, the least used first."""
        weight = self._share // share
        fitting = [g for g, users in enumerate(self._users) if users + weight <= self._share]
        return sorted(fitting, key=lambda gpu: self._users[gpu])
