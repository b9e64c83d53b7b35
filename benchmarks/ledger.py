"""What the ledger takes of a training step, every step logged and the disk asked at its interval.

The lines are those of the run's own `RunLedger`; the step is `benchmarks.step`'s, at one rank.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Bench, Row, quartiles
from benchmarks.step import Steps, tokens

_LINES, _STEPS, _TURNS = 2_000, 3, 8


def rows(bench: Bench) -> Iterator[Row]:
    """Share of a step."""
    what = "the ledger's share of a training step, a line a step"
    bench.say(what)
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        ledger, interval_s = _ledger(steps, Path(folder) / "ledger.jsonl")
        step = steps.prepare(steps.ordinary, tokens())()
        step()
        lines, syncs, whole = [], [], []
        for _ in range(_TURNS):
            lines.append(_seconds(lambda: _write(ledger), _LINES))
            syncs.append(_seconds(lambda: _sync(ledger), 1))
            whole.append(_seconds(step, _STEPS))
    # A sync is due once an interval, which has so many steps. A thread makes it: a step waits for
    # none of it, and it is counted as if it did.
    shares = [
        (line + sync * min(1.0, one / interval_s)) / one
        for line, sync, one in zip(lines, syncs, whole, strict=True)
    ]
    yield Row(
        what,
        "the baseline's step, same process",
        "time",
        statistics.median(shares),
        quartiles(shares),
        0.001,
        True,
        {
            "line_us": statistics.median(lines) * 1e6,
            "sync_ms": statistics.median(syncs) * 1e3,
            "step_ms": statistics.median(whole) * 1e3,
            "turns": _TURNS,
        },
    )


def _ledger(steps: Steps, path: Path) -> tuple[Any, float]:
    """A run's ledger that has started, and how often it asks the disk, in seconds."""
    from megatron.training import get_args

    from tst_megatron.trainer.progress import ProgressCounter
    from tst_megatron.trainer.run_ledger import RunLedger

    args = get_args()
    args.ledger = str(path)
    # Set by `pretrain` from its command line.
    args.recipe = None
    progress = ProgressCounter(args, steps.ordinary_run)
    progress.start()
    ledger = RunLedger(args, steps.ordinary_run, progress, time.time())
    ledger.started(steps.model)
    return ledger, float(args.ledger_fsync_interval)


def _write(ledger: Any) -> None:
    from tst_megatron.methods.events import LoggedStep
    from tst_megatron.trainer.step_clock import COMPUTE, StepClock

    clock = StepClock(time.time())
    with clock.measure(COMPUTE):
        pass
    ledger.step_logged(
        LoggedStep(
            progress=ledger.progress.now,
            losses={"lm loss": torch.tensor(3.21)},
            learning_rate=1e-3,
            grad_norm=1.23,
            seconds=clock.take(),
            extras={},
            scalar=lambda name, value: None,
        )
    )


def _sync(ledger: Any) -> None:
    ledger._writer._file.flush()
    os.fsync(ledger._writer._file.fileno())


def _seconds(work: Any, times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times
