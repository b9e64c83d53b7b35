"""Two hosts for real: one is cut off in mid-run, and the job comes back from its last checkpoint.

Each host is a set of namespaces with torchrun's agent in it, and the experts lie across the cable.
What a cluster does when it loses a node is done here by hand: the lost host is powered off, another
takes its name and address, and its agent joins the one that waits.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import INTERFACE, CannotMakeHostsError, Host, Rack
from trainer import REPOSITORY, TIMEOUT_S, Job, run

from tst_megatron.runs.ledger import read_ledger

RECIPE = "tiny-moe-tst+2xcpu"
NUM_STEPS = 80
SAVE_INTERVAL = 10
FLAGS = (
    *(f"--train-iters={NUM_STEPS}", "--lr-warmup-iters=8", "--lr-wsd-decay-iters=8"),
    *(f"--save-interval={SAVE_INTERVAL}", "--log-interval=1", "--eval-interval=1000"),
    *("--eval-iters=1", "--split=900,100,0"),
    # The first step takes its time; after it, a peer that is silent for this long is gone.
    "--distributed-timeout-seconds-after-init=20",
)


class TwoHostJob:
    """A job of one rank on each host, as ``examples/multi-node-torchrun`` starts it.

    Args:
        out: takes everything that it writes.
        flags: after the script's name.
    """

    def __init__(self, out: Path, flags: tuple[str, ...]) -> None:
        self.out = out
        self._flags = flags

    def start(self, host: Host) -> "subprocess.Popen[bytes]":
        """The same command on each host, and on one that replaces another."""
        environment = {
            **{"HEAD": "host-1", "NNODES": "2", "GPUS_PER_NODE": "1", "JOB": "job"},
            **{"RECIPE": RECIPE, "RUN": str(self.out), "NCCL_SOCKET_IFNAME": INTERFACE},
            **{"TST_MEGATRON_DEVICE": "cpu", "OMP_NUM_THREADS": "1"},
            "PYTHONPATH": str(REPOSITORY),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        command = [str(REPOSITORY / "examples/multi-node-torchrun/train.sh"), *self._flags]
        return host.start(command, environment, self.log(host))

    def log(self, host: Host) -> Path:
        return self.out / f"{host.name}.log"

    @property
    def ledger(self) -> Path:
        return self.out / "checkpoints/ledger.jsonl"

    def last_checkpoint(self) -> int:
        """Its step; 0 before there is one."""
        tracker = self.out / "checkpoints/latest_checkpointed_iteration.txt"
        return int(tracker.read_text() or 0) if tracker.exists() else 0

    def steps(self) -> list[int]:
        """Every step that was made, in order, those that were lost as well."""
        return [line["step"] for line in self._lines() if line["kind"] == "step"]

    def starts(self) -> list[int]:
        """The step that each start went on from."""
        return [line["step"] for line in self._lines() if line["kind"] == "header"]

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not happened():
            assert time.monotonic() < deadline, self.ends_of_logs()
            time.sleep(0.02)

    def ends_of_logs(self) -> str:
        logs = sorted(self.out.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-4000:]}" for log in logs)

    def _lines(self) -> list[dict[str, Any]]:
        if not self.ledger.exists():
            return []
        # What comes after the last newline is being written.
        return [json.loads(line) for line in self.ledger.read_text().split("\n")[:-1]]


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with Rack(tmp_path) as rack:
        yield rack


@pytest.fixture
def hosts(rack: Rack) -> tuple[Host, Host]:
    try:
        return rack.boot("host-1"), rack.boot("host-2")
    except CannotMakeHostsError as error:
        pytest.skip(f"no hosts can be made on this machine: {error}")


def numbers(ledger: Path) -> dict[int, tuple[float, ...]]:
    names = ("loss", "grad_norm", "learning_rate", "stage", "positions", "data_tokens")
    return {line["step"]: tuple(line[name] for name in names) for line in read_ledger(ledger).steps}


def test_a_host_that_is_cut_off_is_replaced_and_the_run_goes_on(
    corpus, tmp_path: Path, rack: Rack, hosts: tuple[Host, Host]
) -> None:
    flags = (*FLAGS, *corpus.flags)
    unbroken = run(Job(tmp_path / "unbroken", (f"--recipe={RECIPE}", *flags), num_ranks=2))
    job = TwoHostJob(tmp_path / "run", flags)
    job.out.mkdir()
    first, second = hosts
    survivor, lost = job.start(first), job.start(second)

    job.wait_until(lambda: len(job.steps()) > job.last_checkpoint() + 1 > SAVE_INTERVAL)
    second.unplug()
    # Of a silent cable nothing is heard but the collective's time running out.
    job.wait_until(lambda: "failed (exitcode: 1)" in job.log(first).read_text(errors="replace"))
    assert survivor.poll() is None, job.ends_of_logs()
    made, saved = job.steps(), job.last_checkpoint()
    assert saved < made[-1] < NUM_STEPS

    replacement = job.start(rack.boot("host-2"))
    job.wait_until(lambda: survivor.poll() is not None)

    assert (survivor.returncode, replacement.wait()) == (0, 0), job.ends_of_logs()
    assert lost.wait() != 0
    assert job.starts() == [0, saved]
    # What came after the checkpoint was made again.
    assert job.steps() == [*made, *range(saved + 1, NUM_STEPS + 1)]
    assert numbers(job.ledger) == numbers(unbroken.ledger_file)
