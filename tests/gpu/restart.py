"""A rank that is killed, and the others that go on without a new job: ``--inprocess-restart``.

torchrun would end the others, so the ranks are started by hand, one of them in reserve.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.gpu import REPOSITORY
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import JobFailedError
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags
from tst_megatron.runs.ledger import read_ledger

_ACTIVE, _KILLED, _STEPS, _AT = 2, 1, 16, 10
_RESERVE_S = 20.0
_POLL_S = 0.5


def restart(machine: Machine) -> Iterator[Figure | Note]:
    """The run ends at its last step, though a rank was killed in it."""
    if machine.dry_run:
        yield Note("left to GPUs: the killed rank and the restart; the ranks run undisturbed here")
    else:
        machine.needs("nvidia_resiliency_ext", "nvidia-resiliency-ext")
    root, mark = machine.folder, machine.folder / "killed"
    mark.unlink(missing_ok=True)
    if machine.dry_run:
        mark.touch()
    own = (
        *("--inprocess-restart", f"--inprocess-active-world-size={_ACTIVE}"),
        "--inprocess-granularity=rank",
    )
    flags = (
        *(*tiny_flags(machine, _STEPS), *machine.local_flags, *machine.sized(own, ())),
        "--micro-batch-size=2",
        *(f"--save={root / 'checkpoints'}", f"--load={root / 'checkpoints'}", "--save-interval=4"),
        *("--tst-bag-size=4", "--tst-step-ratio=0.5", f"--ledger={root / 'ledger.jsonl'}"),
    )
    program = ("-m", "tests.gpu.failing_pretrain", str(_KILLED), str(_AT), str(mark))
    codes = _ranks(machine, _ACTIVE + machine.sized(1, 0), (*program, *flags))
    yield Figure("ranks that were killed", codes.count(-9), "", machine.sized(1, 0))
    yield Figure("ranks that failed otherwise", sum(code not in (0, -9) for code in codes), "", 0)
    ledger = read_ledger(root / "ledger.jsonl")
    yield Figure("last step", ledger.steps[-1]["step"], "", _STEPS, False)
    starts = len(ledger.headers)
    yield Figure("starts of the run", starts, "", machine.sized(2, 1), False)


def _ranks(machine: Machine, number: int, words: Sequence[str]) -> list[int]:
    """The exit codes of processes that are started as a job of so many ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(number)}
    logs = [machine.folder / f"rank-{rank}.log" for rank in range(number)]
    processes = [_start(log, words, job | _rank(rank)) for rank, log in enumerate(logs)]
    try:
        while any(process.poll() is None for process in processes):
            if machine.seconds_left < _RESERVE_S:
                raise JobFailedError("the ranks took longer than there was time")
            time.sleep(_POLL_S)
    finally:
        for process in processes:
            process.kill()
    return [process.wait() for process in processes]


def _rank(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCH_CPP_LOG_LEVEL": "error"}


def _start(log: Path, words: Sequence[str], job: dict[str, str]) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", *words],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | job,
        )
