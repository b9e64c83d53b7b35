"""Checkpoints of Transformer Engine's layers, out of Megatron and in again.

What both libraries compute is compared in float32 on the CPU, so that only the mapping can differ;
on the GPU a folder writes and is scored, against the same on the CPU.
"""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer import Job

from tests.gpu import REPOSITORY
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_all
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags

STEPS, CUT = 16, 6
_TOLERANCE = 1e-4
_EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=2", "--moe-ffn-hidden-size=64", "--qk-layernorm"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-router-load-balancing-type=aux_loss"),
    "--moe-router-dtype=fp32",
)


def export(machine: Machine) -> Iterator[Figure | Note]:
    """How far logits are apart, and whether weights come back and runs go on."""
    root = machine.folder / "export"
    shutil.rmtree(root, ignore_errors=True)  # An earlier run's: nothing is written over here.
    common = (*tiny_flags(machine, STEPS), *machine.te_flags)
    ends = (f"--exit-interval={CUT}", f"--save-interval={CUT}", f"--eval-interval={CUT}")
    jobs = {
        name: Job(root / name, (*common, *own, f"--save={root / name / 'kept'}", *ends))
        for name, own in (("dense", ()), ("experts", _EXPERTS))
    }
    run_all(machine, list(jobs.values()))
    for name, job in jobs.items():
        out = root / f"{name}-exported"
        _command("export", job.out / "kept", "--output", out, "--verify")
        compared = json.loads((out / "tst-megatron.json").read_text())["compared"]
        bound = _TOLERANCE * max(1.0, compared["scale"])
        what = "logits of transformers against Megatron's in float32, the largest difference"
        yield Figure(f"{name}: {what}", compared["largest"], "", bound)
        start, again = root / f"{name}-start", root / f"{name}-again"
        _command("import", out, "--output", start)
        _command("export", start, "--output", again, "--allow-other-ids")
        files = (folder / "model.safetensors" for folder in (out, again))
        same = len({file.read_bytes() for file in files}) == 1
        yield Figure(f"{name}: in again and out again, the same bytes", same, "", 1, at_most=False)
    yield from _on_the_device(machine, root / "dense-exported")


def _on_the_device(machine: Machine, folder: Path) -> Iterator[Figure | Note]:
    """Text and scores of the device and of the CPU."""
    text = folder.parent / "text.txt"
    text.write_text(Path(json.__file__).read_text())
    found = {}
    for device in dict.fromkeys((machine.device, "cpu")):
        out = folder.parent / f"scores-{device}"
        words = ("--held-out", text, "--dtype=float32", f"--device={device}", "--no-ledger")
        _command("evaluate", folder, *words, "--out", out)
        results = json.loads((out / "results.json").read_text())
        found[device] = _nats(results)
        said = _command(
            *("generate", folder, "--prompt=    def ", "--max-new-tokens=20"),
            *(f"--device={device}", "--dtype=float32"),
        )
        yield Note(f"{device} writes {said.strip()!r}")
    apart = abs(found[machine.device] - found["cpu"])
    yield Figure("held-out nats a token in float32, device against CPU", apart, "nats", 1e-3)
    yield Figure("they are a number", float(math.isfinite(apart)), "", 1, at_most=False)


def _nats(results: dict) -> float:
    (text,) = (one for one in results["evaluations"].values() if "nats_a_token" in one["metrics"])
    return float(text["metrics"]["nats_a_token"]["value"])


def _command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tst_megatron", *map(str, words)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
