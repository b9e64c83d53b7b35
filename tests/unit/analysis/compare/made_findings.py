"""Findings put together by hand, so that a test knows every figure that has to be shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.result import (
    Comparison,
    EqualData,
    EqualFlops,
    EqualLoss,
    Findings,
    Needed,
    PowerLaw,
    SavingByLoss,
)
from tst_megatron.runs.run import Curve, RecordedRun, StepSeries
from tst_megatron.runs.spans import Span
from tst_megatron.runs.stages import ORDINARY, Stage
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval

STEPS, SWITCH = 1000, 250
TOKENS_A_STEP, FLOPS_A_STEP, SECONDS_A_STEP = 2048.0, 1e12, 3.6


def run(name: str, seed: int, bag_size: int = 1, shift: float = 0.0, **header: Any) -> RecordedRun:
    """A run that evaluates every 50 steps and logs every 5, with a router's loss."""
    superposed = np.arange(5.0, STEPS + 1, 5) <= (SWITCH if bag_size > 1 else 0)
    stages = (Span(0, Stage(ORDINARY, 0), 1, STEPS),)
    if bag_size > 1:
        facts = {"bag_size": bag_size}
        bags = Stage(f"bags of {bag_size}", 0, bag_size, "bag loss", "superposition", facts)
        stages = (Span(0, bags, 1, SWITCH), Span(1, Stage(ORDINARY, 0), SWITCH + 1, STEPS))
    steps = np.arange(50.0, STEPS + 1, 50)
    losses = 2 + 3 * steps**-0.3 + shift + np.where(steps <= stages[0].last_step, 1.0, 0.0)
    used = _used(steps, bag_size)
    logged = np.arange(5.0, STEPS + 1, 5)
    return RecordedRun(
        name=name,
        path=Path(name),
        source="ledger",
        header={"seed": seed, "flags": {"lr": 0.002, "tst_bag_size": bag_size}, **header},
        curve=Curve(steps, *used, losses, *np.full((2, steps.size), [[0.004], [np.nan]])),
        steps=StepSeries(
            logged,
            *_used(logged, bag_size),
            2 + 3 * logged**-0.3,
            tuple("mce" if bags else "next_token" for bags in superposed),
            tuple({"bag_size": bag_size if bags else 1} for bags in superposed),
            np.full(logged.size, 0.002),
            1 + 0.1 * np.sin(logged),
            np.full(logged.size, 15.0),
            np.full(logged.size, 3.0),
            {"load_balancing_loss": 1 + 1 / logged},
        ),
        stages=stages,
        num_steps=STEPS,
        decay_start=900,
    )


def _used(steps: Array, bag_size: int) -> tuple[Array, Array, Array, Array, Array]:
    """Positions, data tokens, FLOPs, seconds and GPU hours."""
    positions = TOKENS_A_STEP * steps
    extra = TOKENS_A_STEP * (bag_size - 1) * np.minimum(steps, SWITCH)
    seconds = SECONDS_A_STEP * steps
    return positions, positions + extra, FLOPS_A_STEP * steps, seconds, 2 * seconds / 3600


def baseline(*, seeds: int = 2) -> Group:
    runs = tuple(run(f"base-{seed}", seed, shift=0.01 * seed) for seed in range(seeds))
    return Group("baseline", runs, STEPS)


def superposed(name: str = "bags of 4 for 25 %", *, seeds: int = 2, shift: float = -0.1) -> Group:
    runs = (run(f"{name}-{seed}", seed, 4, shift + 0.01 * seed) for seed in range(seeds))
    return Group(name, tuple(runs), STEPS)


def equal_loss(ratio: Interval, **changed: Any) -> EqualLoss:
    """The candidate needed its 1,000 steps, the baseline the ratio times as many, in everything."""

    def needed(times: Interval) -> Needed:
        return Needed(*(scaled(times, a_step * STEPS) for a_step in (1, 1e12, 3.6, 0.002, 2048)))

    whole = Interval(1.0, 1.0, 1.0)
    found = EqualLoss(
        Interval(2.2871, 2.281, 2.293),
        *(ratio, ratio, scaled(ratio, 1.01), scaled(ratio, 1.02)),
        baseline=needed(ratio),
        candidate=needed(whole),
        reached=True,
        whole_runs=True,
        where="whole runs",
    )
    return replace(found, **changed)


def scaled(interval: Interval, factor: float) -> Interval:
    ends = (interval.value, interval.low, interval.high)
    return Interval(*(None if end is None else end * factor for end in ends))


def comparison(ours: Group, theirs: Group, equal: EqualLoss, **changed: Any) -> Comparison:
    along = FLOPS_A_STEP * np.arange(300.0, STEPS + 1, 50)
    differences = 0.3 - 0.4 * along / along[-1]
    losses = np.linspace(3.0, 2.38, 20)
    found = Comparison(
        baseline=(theirs,),
        candidate=ours,
        equal_loss=equal,
        equal_loss_along=None,
        equal_loss_at_baseline=None,
        equal_flops=EqualFlops(
            Interval(-0.1003, -0.12, -0.08), along[-1], True,
            along, differences, differences - 0.02, differences + 0.02,
        ),
        equal_data=EqualData(Interval(0.0102, -0.013, 0.031), TOKENS_A_STEP * STEPS),
        saving=SavingByLoss(
            losses, 3.7 - losses, 3.6 - losses, 3.8 - losses,
            3.8 - losses, 3.7 - losses, 3.9 - losses,
        ),
        fit=PowerLaw(2.0, 3.0, 0.3, "the stable phase of the baseline's curve", 50.0, 900.0),
        confidence=0.95,
        uncertainty="Intervals come from the spread between seeds.",
    )  # fmt: skip
    return replace(found, **changed)


SAVING = Interval(1.8371, 1.62, 2.04)


def findings(ratio: Interval = SAVING, **changed: Any) -> Findings:
    """One candidate group against the baseline; ``changed`` goes to its `EqualLoss`."""
    ours, theirs = superposed(), baseline()
    return Findings((theirs,), (ours,), (comparison(ours, theirs, equal_loss(ratio, **changed)),))
