"""Baseline and TST at equal FLOPs at a size that a CPU does not reach, as long as time allows."""

import math
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from trainer import Job

from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_all
from tests.gpu.machine import Machine
from tests.gpu.text import large_text
from tests.gpu.tiny import tiny_flags
from tst_megatron import recipes
from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.output.folder import write_folder
from tst_megatron.analysis.compare.result import Comparison, Prices
from tst_megatron.experiments.cells import Cell, Places, ledger_of, train_cells
from tst_megatron.experiments.text import text_read
from tst_megatron.experiments.words import of_length
from tst_megatron.runs.ledger import Ledger, read_ledger

_CONFIDENCE = 0.95
_MEASURED_STEPS, _WARM = 30, 10
_FEWEST_STEPS = 200
# Validations, and what the clock of thirty steps does not know.
_SHARE_OF_STEPS = 0.85
# Last checkpoints, and the comparison.
_AFTERWARDS_S = 60
_MINUTES_A_SEED = 8
_MOST_SEEDS = 4
_LEAST_PARAMETERS = 60e6

# 70 M parameters: SmolLM2's kind of model, on the large text's tokenizer.
_MODEL = (
    *("--num-layers=12", "--hidden-size=640", "--ffn-hidden-size=1728", "--kv-channels=64"),
    *("--num-attention-heads=10", "--num-query-groups=5", "--padded-vocab-size=8192"),
    *("--seq-length=1024", "--max-position-embeddings=1024", "--micro-batch-size=32"),
    *("--global-batch-size=64", "--eval-micro-batch-size=32", "--eval-global-batch-size=64"),
    *("--lr=1e-3", "--tokenizer-type=SentencePieceTokenizer", "--split=985,15,0", "--eval-iters=4"),
)
_TST = ("--tst-bag-size=4", "--tst-step-ratio=0.3")


@dataclass(frozen=True)
class Length:
    """How long each of the runs is.

    Attributes:
        steps: of a run.
        seeds: of a side.
    """

    steps: int
    seeds: int


def comparison(machine: Machine) -> Iterator[Figure | Note]:
    """Held-out losses at the end, and their difference with its interval."""
    length = Length(60, 1) if machine.dry_run else _fitted(machine)
    flags = _flags(machine, length.steps)
    places = Places(machine.sized(machine.gpus, 2), 1, on_gpus=not machine.dry_run)
    cells = [
        Cell(f"{side}-seed{seed}", (*flags, *own, f"--seed={seed}"), length.steps)
        for seed in range(1, length.seeds + 1)
        for side, own in (("baseline", ()), ("tst", _TST))
    ]
    yield from _text(flags)
    train_cells(machine.folder, cells, places, Console(no_color=True))
    paths = {cell.name: ledger_of(machine.folder, cell) for cell in cells}
    _keep(machine, paths)
    yield from _figures(machine, paths)


def _flags(machine: Machine, steps: int) -> tuple[str, ...]:
    """The baseline's."""
    if machine.dry_run:
        return tiny_flags(machine, steps)
    return (
        *recipes.expand_recipe(["--recipe", "smollm2-270m-baseline+8xh100"]),
        *large_text(machine).flags,
        *(*_MODEL, *machine.te_flags, "--allow-repeats", "--log-interval=10"),
        *of_length(
            steps, warmup=min(200, steps // 20), steps_a_validation=steps // 20, checkpoints=1
        ),
    )


def _fitted(machine: Machine) -> Length:
    """As many steps as the minutes allow, by the clock of the first thirty."""
    flags = (*_flags(machine, _MEASURED_STEPS), "--log-interval=1", "--eval-iters=0")
    (measured,) = run_all(machine, [Job(machine.folder / "measured", flags)], share=1)
    lines = measured.ledger.steps
    step_s = (lines[-1]["wall_clock_s"] - lines[_WARM]["wall_clock_s"]) / (len(lines) - 1 - _WARM)
    start_s = lines[0]["wall_clock_s"]
    seeds = max(int(machine.minutes // _MINUTES_A_SEED), machine.gpus // 2, 1)
    seeds = min(seeds, _MOST_SEEDS)
    # One after the other on every GPU.
    in_turn = math.ceil(2 * seeds / machine.gpus)
    minutes = min(machine.minutes, (machine.seconds_left - _AFTERWARDS_S) / 60)
    seconds = minutes * 60 / in_turn - 2 * start_s
    return Length(max(_FEWEST_STEPS, int(_SHARE_OF_STEPS * seconds / step_s)), seeds)


def _text(flags: Sequence[str]) -> Iterator[Note]:
    for side, own in (("baseline", ()), ("TST run", _TST)):
        read = text_read([*flags, *own])
        epochs = "" if read.epochs is None else f", its most-read part {read.epochs:.2f} times"
        yield Note(f"the {side} reads {read.data_tokens:,} tokens{epochs}")


def _keep(machine: Machine, paths: dict[str, Path]) -> None:
    """Ledgers where the report lies; checkpoints nowhere."""
    for name, path in paths.items():
        shutil.copy(path, Path(machine.beside) / f"comparison-{name}.jsonl")
        shutil.rmtree(path.parent / "checkpoints")


def _figures(machine: Machine, paths: dict[str, Path]) -> Iterator[Figure | Note]:
    sides = {
        side: [path for name, path in paths.items() if name.startswith(side)]
        for side in ("baseline", "tst")
    }
    findings = compare_paths(sides["baseline"], sides["tst"], _CONFIDENCE, False, Prices())
    write_folder(machine.folder / "report", findings)
    ledgers = {side: [read_ledger(path) for path in of_side] for side, of_side in sides.items()}
    one, other = ledgers["baseline"][0], ledgers["tst"][0]
    least = machine.timed(_LEAST_PARAMETERS)
    yield Figure("parameters", one.header["parameters"]["total"], "", least, False)
    yield Figure("steps of each run", one.steps[-1]["step"])
    yield Figure("seeds of a side", len(ledgers["tst"]))
    apart = abs(other.steps[-1]["flops"] / one.steps[-1]["flops"] - 1)
    yield Figure("FLOPs of the TST run, from the baseline's", apart, "", 1e-6)
    uniform = math.log(one.header["tokenizer"]["padded_vocab_size"])
    for side, of_side in ledgers.items():
        losses = [ledger.validations[-1]["next_token_loss"] for ledger in of_side]
        yield Figure(f"{side}: last held-out loss", statistics.mean(losses), "nats", uniform)
        yield Figure(f"{side}: a step", 1e3 * _seconds_a_step(of_side[0]), "ms")
    yield from _difference(findings.comparisons)
    yield from (Note(note) for note in findings.notes)
    yield Note("the learning rate is one for both sides and was tuned for neither")


def _seconds_a_step(ledger: Ledger) -> float:
    """Of the lines after the first, which has the start in it."""
    lines = ledger.steps
    spent = sum(line["compute_s"] + line["data_wait_s"] for line in lines[1:])
    return float(spent / (lines[-1]["step"] - lines[0]["step"]))


def _difference(comparisons: Sequence[Comparison]) -> Iterator[Figure | Note]:
    """Of the candidate's loss from the baseline's at equal FLOPs; below 0 it is ahead."""
    found: Any = comparisons[0].equal_flops.loss_difference
    if found.value is None:
        yield Note("the comparison tells no difference at equal FLOPs")
        return
    yield Figure("TST minus baseline at equal FLOPs", found.value, "nats")
    if found.low is not None:
        yield Figure("its 95 % interval, lower end", found.low, "nats")
        yield Figure("its 95 % interval, upper end", found.high, "nats")
