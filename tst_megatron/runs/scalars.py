"""Scalars by Megatron's tags as a run: what TensorBoard and W&B have in common.

The one idea: both log Megatron's numbers under Megatron's names at Megatron's iterations, so only
the reading differs. What they leave out follows from the flags where these are known: positions are
samples times the sequence length, GPU hours are wall-clock times the world size.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.runs.phases import Logged, phases_from
from tst_megatron.runs.planned import batch_size_changes, decay_start, planned_steps
from tst_megatron.statistics.interval import Array
from tst_megatron.runs.run import Curve, Run, StepSeries

VALIDATION = "lm loss validation"
LOSSES = ("lm loss", "bag loss")
LEARNING_RATE, GRAD_NORM = "learning-rate", "grad-norm"
BAG_SIZE, STAGE = "bag-size", "stage"
POSITIONS, DATA_TOKENS, FLOPS, GPU_HOURS = "positions", "data-tokens", "flops", "gpu-hours"
COMPUTE_S, OTHER_S = "compute-seconds", "other-seconds"
OWN = (BAG_SIZE, STAGE, POSITIONS, DATA_TOKENS, FLOPS, GPU_HOURS, COMPUTE_S, OTHER_S)
"""What tst-megatron logs beside Megatron's own."""
_STDERR = " stderr"
_JUMPS = (
    "Its clock jumps back, first at step {}: it is carried on from there, so what passed between "
    "is not counted."
)
# Tags that name a logged step; others may come at evaluations.
_OF_STEPS = (*LOSSES, LEARNING_RATE, GRAD_NORM, BAG_SIZE)
# Of several validation sets, Megatron names the loss on each.
_VALIDATION_OF_A_SET = re.compile(rf"{VALIDATION}-.+(?<! ppl)(?<! stderr)")


@dataclass
class Scalars:
    """What was logged, by tag and step.

    Attributes:
        values: of each tag, by step.
        clocks: seconds since the start when it was logged, likewise.
        samples: consumed after a step, where told.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    clocks: dict[str, dict[int, float]] = field(default_factory=dict)
    samples: dict[int, float] = field(default_factory=dict)

    def add(self, tag: str, step: int, value: float, clock: float) -> None:
        """A value that was logged; a later one of the same step replaces it."""
        self.values.setdefault(tag, {})[step] = value
        self.clocks.setdefault(tag, {})[step] = clock

    def let_clocks_go_on(self) -> list[int]:
        """Carry clocks that jump back on from there, as those of a ledger.

        Returns:
            The steps at which they jumped.
        """
        clocks: dict[int, list[float]] = {}
        for of_tag in self.clocks.values():
            for step, seconds in of_tag.items():
                if math.isfinite(seconds):
                    clocks.setdefault(step, []).append(seconds)
        jumps: list[int] = []
        lost, so_far = dict.fromkeys(clocks, 0.0), 0.0
        for before, step in pairwise(sorted(clocks)):
            # What is logged of a step comes at several times, an evaluation last.
            if min(clocks[step]) < min(clocks[before]):
                jumps.append(step)
                so_far += max(clocks[before]) - min(clocks[step])
            lost[step] = so_far
        for of_tag in self.clocks.values():
            for step in of_tag:
                of_tag[step] += lost.get(step, 0.0)
        return jumps

    def forget_after(self, step: int) -> None:
        """Leave out what a run that started again from a step has replayed."""
        for by_step in (*self.values.values(), *self.clocks.values(), self.samples):
            for later in [number for number in by_step if number > step]:
                del by_step[later]


def run_of_scalars(
    name: str,
    path: Path,
    source: str,
    header: Mapping[str, Any],
    scalars: Scalars,
    notes: Sequence[str] = (),
) -> Run:
    """A run from what it logged.

    Args:
        name: of the run.
        path: what it was read from.
        source: ``tensorboard`` or ``wandb``.
        header: what is known of its flags.
        scalars: its logged values.
        notes: of how they were read.
    """
    jumps = scalars.let_clocks_go_on()
    note_on_clock = [_JUMPS.format(f"{step:,}") for step in jumps[:1]]
    tag, note_on_tag = _validation_tag(scalars)
    losses = scalars.values.get(tag, {})
    validated = sorted(losses)
    curve = Curve(
        **_progress(validated, header, scalars, (tag,)),
        losses=_at(losses, validated),
        stderrs=_at(scalars.values.get(tag + _STDERR, {}), validated),
    )
    logged = sorted({step for of_step in _OF_STEPS for step in scalars.values.get(of_step, {})})
    steps = _steps(logged, header, scalars)
    last_step = max([*logged, *losses], default=0)
    sizes = _at(scalars.values.get(BAG_SIZE, {}), logged)
    stages = _at(scalars.values.get(STAGE, {}), logged)
    phases = phases_from(
        header,
        [
            Logged(
                step,
                int(stage) if np.isfinite(stage) else 0,
                int(size) if np.isfinite(size) else None,
            )
            for step, stage, size in zip(logged, stages, sizes, strict=True)
        ],
        last_step,
    )
    return Run(
        name=name,
        path=path,
        source=source,
        header=header,
        curve=curve,
        steps=steps,
        phases=phases,
        num_steps=planned_steps(header) or last_step,
        decay_start=decay_start(header, steps),
        notes=(*notes, *note_on_clock, *note_on_tag),
    )


def _validation_tag(scalars: Scalars) -> tuple[str, list[str]]:
    """The tag of the held-out loss, and a note where there was a choice."""
    if VALIDATION in scalars.values:
        return VALIDATION, []
    of_sets = sorted(tag for tag in scalars.values if _VALIDATION_OF_A_SET.fullmatch(tag))
    if not of_sets:
        return VALIDATION, []
    if len(of_sets) == 1:
        return of_sets[0], []
    others = ", ".join(of_sets[1:])
    return of_sets[0], [f"Of several validation sets {of_sets[0]} is used, not {others}."]


def _steps(logged: Sequence[int], header: Mapping[str, Any], scalars: Scalars) -> StepSeries:
    by_name = {name: _at(scalars.values.get(name, {}), logged) for name in LOSSES}
    objective, bags = (by_name[name] for name in LOSSES)
    is_next_token = np.isfinite(objective) | ~np.isfinite(bags)
    extras = sorted(
        tag
        for tag in scalars.values
        if "loss" in tag and tag not in (*LOSSES, "loss-scale") and "validation" not in tag
    )
    return StepSeries(
        **_progress(logged, header, scalars, _OF_STEPS),
        losses=np.where(is_next_token, objective, bags),
        loss_names=tuple(LOSSES[0] if first else LOSSES[1] for first in is_next_token),
        bag_sizes=_at(scalars.values.get(BAG_SIZE, {}), logged),
        learning_rates=_at(scalars.values.get(LEARNING_RATE, {}), logged),
        grad_norms=_at(scalars.values.get(GRAD_NORM, {}), logged),
        compute_s=_at(scalars.values.get(COMPUTE_S, {}), logged),
        other_s=_at(scalars.values.get(OTHER_S, {}), logged),
        extras={tag: _at(scalars.values[tag], logged) for tag in extras},
    )


def _progress(
    steps: Sequence[int], header: Mapping[str, Any], scalars: Scalars, tags: Sequence[str]
) -> dict[str, Array]:
    clock = {step: seconds for tag in tags for step, seconds in scalars.clocks.get(tag, {}).items()}
    seconds = _at(clock, steps)
    # A jump between a step and its evaluation is not seen by step.
    seconds = np.where(np.isfinite(seconds), np.fmax.accumulate(seconds), np.nan)
    positions = _positions(steps, header, scalars)
    ranks = (header.get("flags") or {}).get("world_size")
    gpu_hours = _between(scalars.values.get(GPU_HOURS, {}), steps)
    if isinstance(ranks, int):
        gpu_hours = np.where(np.isfinite(gpu_hours), gpu_hours, seconds * ranks / 3600)
    return {
        "steps": np.array(steps, dtype=np.float64),
        "positions": positions,
        "data_tokens": _data_tokens(steps, positions, scalars),
        "flops": _between(scalars.values.get(FLOPS, {}), steps),
        "wall_clock_s": seconds,
        "gpu_hours": gpu_hours,
    }


def _positions(steps: Sequence[int], header: Mapping[str, Any], scalars: Scalars) -> Array:
    """As logged, else samples times the sequence length."""
    logged = _between(scalars.values.get(POSITIONS, {}), steps)
    flags = header.get("flags") or {}
    length, batch_size = flags.get("seq_length"), flags.get("global_batch_size")
    if np.isfinite(logged).all() or not isinstance(length, int):
        return logged
    samples = _between(scalars.samples, steps)
    if isinstance(batch_size, int) and not batch_size_changes(flags):
        samples = np.where(np.isfinite(samples), samples, batch_size * np.array(steps, float))
    return np.where(np.isfinite(logged), logged, samples * length)


def _data_tokens(steps: Sequence[int], positions: Array, scalars: Scalars) -> Array:
    """As logged; of a run without bags, its positions."""
    if DATA_TOKENS in scalars.values:
        return _between(scalars.values[DATA_TOKENS], steps)
    has_bags = any(size > 1 for size in scalars.values.get(BAG_SIZE, {}).values())
    return np.full(len(steps), np.nan) if has_bags or LOSSES[1] in scalars.values else positions


def _at(values: Mapping[int, float], steps: Sequence[int]) -> Array:
    return np.array([values.get(step, np.nan) for step in steps], dtype=np.float64)


def _between(values: Mapping[int, float], steps: Sequence[int]) -> Array:
    """A count that grows from 0, on straight lines between where it was logged; NaN past that."""
    known = sorted(step for step, value in values.items() if np.isfinite(value))
    if not known:
        return np.full(len(steps), np.nan)
    counts = [0.0, *(values[step] for step in known)]
    found: Array = np.interp(steps, [0.0, *map(float, known)], counts, right=np.nan)
    return found
