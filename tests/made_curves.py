"""Made-up runs whose true curves are known: a power law, a decay at the end, a superposed stage."""

from pathlib import Path

import numpy as np

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.runs.run import Curve, RecordedRun, StepSeries
from tst_megatron.runs.spans import Span
from tst_megatron.runs.stages import ORDINARY, Stage
from tst_megatron.statistics.array import Array

FLOPS_A_STEP, TOKENS_A_STEP = 1e9, 512
DROP = 0.12
"""What a whole run's decay takes off the law, nats a token."""
DECAY_SHARE, BAG_SIZE = 0.1, 4
_NONE = np.array([])


def law(steps: Array) -> Array:
    """The loss of an ordinary run before its decay."""
    return np.asarray(2 + 20 * np.asarray(steps, dtype=np.float64) ** -0.4)


def true_curve(
    steps: Array, speed: float = 1.0, decay_start: float | None = None, switch: float = 0
) -> Array:
    """The held-out loss of a run without noise.

    Args:
        steps: ``[n]``; the last is the run's end.
        speed: steps of the ordinary run that one step is worth.
        decay_start: after it the loss falls by `DROP` below the law to the end.
        switch: last superposed step: until then the next-token loss is high, then falls back.
    """
    losses = law(speed * steps)
    if decay_start is not None:
        left = 1 - np.clip((steps - decay_start) / (steps[-1] - decay_start), 0, 1)
        losses = losses - DROP * (1 - left**2)
    if switch:
        recovering = 1.2 * np.exp(-(steps - switch) / (0.03 * steps[-1]))
        losses = losses + np.where(steps <= switch, 1.0, recovering)
    return np.asarray(losses)


def made_run(
    steps: Array,
    losses: Array,
    *,
    stderr: float = np.nan,
    seconds_a_step: float = 1.0,
    flops_a_step: float = FLOPS_A_STEP,
    seed: int | None = None,
    decay_start: int | None = None,
    switch: int = 0,
    num_steps: int | None = None,
    name: str = "run",
) -> RecordedRun:
    """A run of these evaluations; what it cost is in proportion to its steps."""
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    end = 0 if len(steps) == 0 else int(steps[-1])
    tokens = (steps + (BAG_SIZE - 1) * np.minimum(steps, switch)) * TOKENS_A_STEP
    curve = Curve(
        steps=steps,
        positions=steps * TOKENS_A_STEP,
        data_tokens=tokens,
        flops=steps * flops_a_step,
        wall_clock_s=steps * seconds_a_step,
        gpu_hours=steps * seconds_a_step * 8 / 3600,
        losses=losses,
        stderrs=np.full(len(steps), stderr),
        bytes_a_token=np.full(len(steps), np.nan),
    )
    bags = Stage("bags", 0, BAG_SIZE, "bag loss", "superposition", {"bag_size": BAG_SIZE})
    stages = (Span(0, bags, 1, switch), Span(1, Stage(ORDINARY, 0), switch + 1, end))
    return RecordedRun(
        name=name,
        path=Path(name),
        source="ledger",
        header={} if seed is None else {"seed": seed},
        curve=curve,
        steps=StepSeries(*[_NONE] * 7, (), (), *[_NONE] * 4),
        stages=stages if switch else (),
        num_steps=end if num_steps is None else num_steps,
        decay_start=decay_start,
    )


def made_group(*runs: RecordedRun, name: str = "baseline") -> Group:
    """Runs as a group."""
    return Group(name, runs, max((run.num_steps for run in runs), default=0))


def evaluated_at(end: int, evaluations: int) -> Array:
    """Steps of evenly spaced evaluations, the last at the end."""
    return np.round(np.linspace(end / evaluations, end, evaluations))
