"""Run the real trainer in tests: torchrun, gloo, Megatron's pretrain, files on disk."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from tst_megatron.runs.ledger import Ledger, read_ledger

TIMEOUT_S = 400
SERVER_VARIABLE = "TST_MEGATRON_JOB_SERVER"
"""Of the environment: the socket of a job server that several processes use."""
REPOSITORY = Path(__file__).parents[1]
# A model that trains in seconds, with everything in it that a run on a cluster has.
TINY = (
    *("--num-layers=2", "--hidden-size=32", "--ffn-hidden-size=64", "--num-attention-heads=4"),
    *("--seq-length=16", "--max-position-embeddings=16", "--position-embedding-type=rope"),
    *("--normalization=RMSNorm", "--swiglu", "--disable-bias-linear"),
    *("--untie-embeddings-and-output-weights", "--attention-dropout=0", "--hidden-dropout=0"),
    *("--micro-batch-size=2", "--global-batch-size=4", "--train-iters=10"),
    *("--lr=1e-2", "--min-lr=0", "--lr-decay-style=WSD", "--lr-wsd-decay-style=linear"),
    *("--lr-warmup-iters=2", "--lr-wsd-decay-iters=3", "--clip-grad=1.0"),
    *("--tokenizer-type=SentencePieceTokenizer", "--make-vocab-size-divisible-by=1"),
    *("--split=900,100,0", "--num-workers=0", "--no-create-attention-mask-in-dataloader"),
    *("--log-interval=1", "--tensorboard-log-interval=1", "--eval-interval=5", "--eval-iters=2"),
    "--ckpt-format=torch_dist",
)


@dataclass(frozen=True)
class Job:
    """One run: its flags after ``pretrain``, its ranks, and what to run in place of our trainer.

    Without ``torchrun`` it is one process with the given environment and nothing else.
    """

    out: Path
    flags: tuple[str, ...]
    num_ranks: int = 1
    program: tuple[str, ...] = ("-m", "tst_megatron", "pretrain")
    environment: dict[str, str] = field(default_factory=dict)
    torchrun: bool = True


@dataclass(frozen=True)
class Result:
    """What became of a run."""

    code: int
    output: str
    ledger_file: Path

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.ledger_file)

    @property
    def losses(self) -> list[float]:
        """Training loss of every step, under whatever name."""
        return [line["loss"] for line in self.ledger.steps]

    @property
    def grad_norms(self) -> list[float]:
        return [line["grad_norm"] for line in self.ledger.steps]


def run(job: Job, check: bool = True) -> Result:
    """Run one job to its end."""
    ledger_file = job.out / "ledger.jsonl"
    flags = [*job.flags, f"--ledger={ledger_file}"] if job.program[0] == "-m" else job.flags
    job.out.mkdir(parents=True, exist_ok=True)
    log = job.out / "output.log"
    with _connect() as server:
        process_group: int = server.recv()
        server.send(
            {
                "program": tuple(job.program),
                "flags": tuple(flags),
                "num_ranks": job.num_ranks,
                "torchrun": job.torchrun,
                "environment": job.environment,
                "folder": str(REPOSITORY),
                "log": str(log),
            }
        )
        if not server.poll(TIMEOUT_S):
            os.killpg(process_group, signal.SIGKILL)
            raise TimeoutError(f"{job.out}: " + log.read_text(errors="replace")[-6000:])
        code: int = server.recv()
    output = log.read_text(errors="replace")
    if check:
        assert code == 0, output[-6000:]
    return Result(code, output, ledger_file)


def attempt(out: Path, flags: tuple[str, ...]) -> Result:
    """A run that is to be refused: the trainer as torchrun starts it, on the ranks that its layout
    asks for; a rendezvous would hang, as nobody answers at its port."""
    number = "2" if any("parallel-size=2" in flag for flag in flags) else "1"
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": number}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return run(Job(out, flags, environment=ranks | address, torchrun=False), check=False)


def lines(result: Result, kind: str) -> list[dict[str, Any]]:
    """Lines of one kind of its ledger, as they stand in the file."""
    found = map(json.loads, result.ledger_file.read_text().splitlines())
    return [line for line in found if line["kind"] == kind]


def run_all(jobs: list[Job]) -> list[Result]:
    """Run jobs two at a time."""
    job_server()  # Once: threads would each start one.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, jobs))


def _connect() -> Connection:
    socket, server = job_server()
    while True:
        try:
            return Client(str(socket), family="AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            if server is None:  # Whoever started it has waited for it.
                raise
            _check_is_alive(server)
            time.sleep(0.1)


def wait_for_server() -> None:
    """Wait until this process's job server takes jobs.

    Raises:
        RuntimeError: it ended instead.
    """
    socket, server = job_server()
    assert server is not None, "another process has started it"
    while not socket.exists():
        _check_is_alive(server)
        time.sleep(0.1)


def _check_is_alive(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is not None:
        code = server.returncode
        raise RuntimeError(f"the job server ended with code {code}: see its output above")


@cache
def job_server() -> tuple[Path, "subprocess.Popen[bytes] | None"]:
    """The socket of this session's job server, and the server, which ends with this process.

    None in its place where another process has started it.
    """
    if shared := os.environ.get(SERVER_VARIABLE):
        return Path(shared), None
    folder = tempfile.TemporaryDirectory(prefix="jobs-")
    socket = Path(folder.name) / "socket"
    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(REPOSITORY / "tests/job_server.py"), str(socket)],
        stdin=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)},
    )
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return socket, server
