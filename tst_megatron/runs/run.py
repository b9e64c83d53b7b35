"""A run as it is compared: its held-out losses, its logged steps and its settings, as arrays.

The one idea: whatever a run was read from (our ledger, TensorBoard, a W&B export), it is this from
here on, and what the source did not tell is NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.runs.phases import Phase
from tst_megatron.statistics.interval import Array

@dataclass(frozen=True)
class Curve:
    """The held-out evaluations of a run, ascending in steps, one a step.

    Attributes:
        steps: optimizer steps.
        positions: positions computed on so far.
        data_tokens: tokens read so far.
        flops: floating-point operations so far.
        wall_clock_s: seconds so far, lost and idle ones too.
        gpu_hours: of all ranks.
        losses: next-token loss, nats a token; NaN where it was not a number.
        stderrs: standard error of each loss, from the spread over held-out sequences.
    """

    steps: Array
    positions: Array
    data_tokens: Array
    flops: Array
    wall_clock_s: Array
    gpu_hours: Array
    losses: Array
    stderrs: Array


@dataclass(frozen=True)
class StepSeries:
    """The logged training steps of a run, ascending, one a step.

    Attributes:
        steps: optimizer steps.
        positions: positions computed on so far.
        data_tokens: tokens read so far.
        flops: floating-point operations so far.
        wall_clock_s: seconds so far.
        gpu_hours: of all ranks.
        losses: training loss, of the objective of that step.
        loss_names: the objective of each step: losses of two names are not comparable.
        bag_sizes: s of each step; 1 is ordinary training.
        learning_rates: of each step.
        grad_norms: before clipping.
        compute_s: seconds of computation since the line before.
        other_s: seconds of everything else since then.
        extras: other logged series ``[n]`` by name, such as the router's losses.
    """

    steps: Array
    positions: Array
    data_tokens: Array
    flops: Array
    wall_clock_s: Array
    gpu_hours: Array
    losses: Array
    loss_names: tuple[str | None, ...]
    bag_sizes: Array
    learning_rates: Array
    grad_norms: Array
    compute_s: Array
    other_s: Array
    extras: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: as a reader knows it, from its path.
        path: what it was read from.
        source: ``ledger``, ``tensorboard`` or ``wandb``.
        header: of the ledger's last start; of other sources what is known of its flags.
        curve: held-out evaluations.
        steps: logged steps.
        phases: which steps saw bags of which size.
        num_steps: steps it was planned for, or the last it got to where that is not known.
        decay_start: the step after which the learning rate decays at the end; None if unknown.
        notes: what a reader should know of how it was read, a sentence each.
    """

    name: str
    path: Path
    source: str
    header: Mapping[str, Any]
    curve: Curve
    steps: StepSeries
    phases: tuple[Phase, ...]
    num_steps: int
    decay_start: int | None = None
    notes: tuple[str, ...] = ()


def is_same_run(one: Run, other: Run) -> bool:
    """Whether both were read of one run: by its id, else by all that they tell of its way."""
    ids = [run.header.get("run_id") for run in (one, other)]
    if None not in ids:
        return bool(ids[0] == ids[1])
    return one.header == other.header and all(
        np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True)
        for ours, theirs in ((one.curve, other.curve), (one.steps, other.steps))
        for name in ("steps", "losses", "wall_clock_s")
    )


@dataclass(frozen=True)
class Group:
    """Runs of equal settings but for the seed.

    Attributes:
        name: what sets it apart, such as ``baseline`` or ``bags of 4 for 25 % of 20,000 steps``.
        runs: one a seed.
        num_steps: of a whole run.
    """

    name: str
    runs: tuple[Run, ...]
    num_steps: int
