"""The demo, and a run through the CPU backend, on the machine that the GPU is in."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer import Job

from tests.gpu import REPOSITORY
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_on_cpu
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags
from tst_megatron.demo import RUNS, usual_tst_flags
from tst_megatron.runs.ledger import read_ledger


def demo(machine: Machine) -> Iterator[Figure | Note]:
    """Both runs of the demo and its report, and a run of the trainer."""
    steps = machine.sized(10, 4)
    flags = (*tiny_flags(machine, steps), *usual_tst_flags())
    (run,) = run_on_cpu(machine, [Job(machine.folder / "run", flags)])
    yield Figure("a run on the CPU: steps", len(run.losses), "", steps, False)
    yield from _demo(machine)


def _demo(machine: Machine) -> Iterator[Figure | Note]:
    out, steps = machine.folder / "demo", machine.sized(200, 100)
    corpus = REPOSITORY / "tst_megatron"
    words = ["-m", "tst_megatron", "demo", f"--out={out}", f"--steps={steps}", f"--corpus={corpus}"]
    visible = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=machine.folder,
        env=os.environ | visible,
        capture_output=True,
        text=True,
        check=False,
    )
    yield Figure("the demo's exit code", done.returncode, "", 0)
    if done.returncode:
        yield Note(_why(done.stdout + done.stderr, out))
        return
    for name in RUNS:
        ledger = read_ledger(out / name / "ledger.jsonl")
        yield Figure(f"the demo's {name}: last step", ledger.steps[-1]["step"], "", steps, False)
        loss = ledger.validations[-1]["next_token_loss"]
        uniform = _nats_of_uniform(ledger.header)
        yield Figure(f"the demo's {name}: held-out loss", loss, "nats", uniform)
    report = json.loads((out / "report.json").read_text())
    yield Figure("figures in the demo's report", len(report), "", 1, False)


def _nats_of_uniform(header: dict) -> float:
    """What knowing nothing costs a token."""
    return math.log(header["tokenizer"]["padded_vocab_size"])


def _why(said: str, out: Path) -> str:
    logs = [log.read_text(errors="replace")[-600:] for log in sorted(out.glob("*/log.txt"))]
    return " ".join([said[-600:], *logs])
