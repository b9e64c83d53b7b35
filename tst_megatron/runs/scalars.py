"""Scalars by Megatron's tags as a ledger: what TensorBoard and W&B have in common.

The one idea: both log Megatron's numbers under Megatron's names at Megatron's iterations, so only
the reading differs, and what comes of it has the lines that a ledger of ours has. What they leave
out follows from the flags where these are known: positions are samples times the sequence length,
GPU hours are wall-clock times the world size. What neither tells stays unknown.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.errors import UserError
from tst_megatron.runs.facts import batch_size_changes
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS, Vocabulary
from tst_megatron.statistics.array import Array

VALIDATION = "lm loss validation"
LEARNING_RATE, GRAD_NORM = "learning-rate", "grad-norm"
STAGE = "stage"
POSITIONS, DATA_TOKENS, FLOPS, GPU_HOURS = "positions", "data-tokens", "flops", "gpu-hours"
COMPUTE_S, OTHER_S = "compute-seconds", "other-seconds"
OWN = (STAGE, POSITIONS, DATA_TOKENS, FLOPS, GPU_HOURS, COMPUTE_S, OTHER_S)
"""What tst-megatron logs beside Megatron's own, and beside the facts of stages."""
_STDERR = " stderr"
_AMOUNTS = (POSITIONS, DATA_TOKENS, FLOPS, GPU_HOURS)
_SHOWN_NAMES = 12
_JUMPS = (
    "Its clock jumps back, first at step {}: it is carried on from there, so what passed between "
    "is not counted."
)
# Of several validation sets, Megatron names the loss on each.
_VALIDATION_OF_A_SET = re.compile(rf"{VALIDATION}-.+(?<! ppl)(?<! stderr)")


def held_out_name(names: Collection[str], asked: Sequence[str] = ()) -> str | None:
    """The name under which a source has its held-out loss; None where it has none.

    Args:
        names: all that it has.
        asked: names that the user gave, of which the first that is there counts; without any it is
            Megatron's own, or that of one of several validation sets.
    """
    if asked:
        return next((name for name in asked if name in names), None)
    of_sets = sorted(filter(_VALIDATION_OF_A_SET.fullmatch, names))
    return VALIDATION if VALIDATION in names else next(iter(of_sets), None)


def no_held_out_loss(
    path: Path, kind: str, names: Iterable[str], asked: Sequence[str]
) -> UserError:
    """What is said of a source without a held-out loss.

    Args:
        path: of the source.
        kind: what it has its series in, such as ``column``.
        names: all that it has.
        asked: names that the user gave.
    """
    wanted = " or ".join(f'"{name}"' for name in asked or (VALIDATION,))
    # What has to do with a loss is likely to be what was meant.
    found = sorted(dict.fromkeys(filter(None, names)), key=lambda name: "loss" not in name)
    shown = ", ".join(f'"{name}"' for name in found[:_SHOWN_NAMES])
    more = len(found) - _SHOWN_NAMES
    has = (
        f"it has {shown}{f' and {more} more' if more > 0 else ''}"
        if found
        else "it has none at all"
    )
    return UserError(
        f"{path} has no {kind} {wanted}: {has}; name the one of its held-out loss with "
        "--loss-column, or give a source that has one"
    )


def objectives(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Tags of the training losses, the next-token loss first."""
    return (NEXT_TOKEN_LOSS, *vocabulary.losses)


def fact_tags(vocabulary: Vocabulary) -> dict[str, str]:
    """Tags of stages' facts, by their names."""
    return {name: name.replace("_", "-") for name in vocabulary.facts}


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


def ledger_of_scalars(
    path: Path,
    source: str,
    header: Mapping[str, Any],
    scalars: Scalars,
    vocabulary: Vocabulary,
    held_out: str,
    notes: Sequence[str] = (),
) -> Ledger:
    """What a run logged as the lines of a ledger.

    Args:
        path: what it was read from.
        source: ``tensorboard`` or ``wandb``.
        header: what is known of its flags and methods.
        scalars: its logged values.
        vocabulary: losses and facts of stages that may be among them.
        held_out: the tag of its held-out loss.
        notes: of how they were read.

    Raises:
        UserError: a step, a clock or an amount is below 0.
    """
    _check_amounts(path, scalars)
    jumps = scalars.let_clocks_go_on()
    note_on_clock = [_JUMPS.format(f"{step:,}") for step in jumps[:1]]
    losses = scalars.values.get(held_out, {})
    validated = sorted(losses)
    validations = {
        **_progress(validated, header, scalars, (held_out,), vocabulary),
        "next_token_loss": _at(losses, validated),
        "next_token_loss_stderr": _at(scalars.values.get(held_out + _STDERR, {}), validated),
    }
    lines = _lines("validation", validated, validations)
    return Ledger(
        header=dict(header),
        steps=_steps(header, scalars, vocabulary, held_out),
        validations=[line | {"facts": {}} for line in lines],
        headers=[dict(header)],
        path=path,
        notes=[*notes, *note_on_clock, *_note_on_held_out(scalars, held_out)],
        source=source,
    )


def _check_amounts(path: Path, scalars: Scalars) -> None:
    first = min((step for by_step in scalars.values.values() for step in by_step), default=0)
    if first < 0:
        raise UserError(
            f"{path}: a step is {first:,}, and steps are 0 or more: give a source whose steps are "
            "right, or take it out"
        )
    clocks = (("clock in seconds", of_tag) for of_tag in scalars.clocks.values())
    amounts = ((tag, scalars.values[tag]) for tag in _AMOUNTS if tag in scalars.values)
    for what, by_step in (*clocks, *amounts):
        for step, value in by_step.items():
            if value < 0:
                raise UserError(
                    f"{path}: its {what} is {value:.6g} at step {step:,}, and what a run has used "
                    "up is 0 or more: give a source whose clock and counts are right, or take them "
                    "out of it"
                )


def _note_on_held_out(scalars: Scalars, held_out: str) -> list[str]:
    """Which of several it is, or that it is not Megatron's."""
    of_sets = sorted(filter(_VALIDATION_OF_A_SET.fullmatch, scalars.values))
    if held_out in of_sets and len(of_sets) > 1:
        others = ", ".join(tag for tag in of_sets if tag != held_out)
        return [f"Of several validation sets {held_out} is used, not {others}."]
    if held_out == VALIDATION or held_out in of_sets:
        return []
    return [f'Its held-out loss is what it calls "{held_out}".']


def _steps(
    header: Mapping[str, Any], scalars: Scalars, vocabulary: Vocabulary, held_out: str
) -> list[dict[str, Any]]:
    names, facts = objectives(vocabulary), fact_tags(vocabulary)
    # Tags that name a logged step; others may come at evaluations.
    of_steps = (*names, LEARNING_RATE, GRAD_NORM, *facts.values())
    logged = sorted({step for tag in of_steps for step in scalars.values.get(tag, {})})
    columns = {
        **_progress(logged, header, scalars, of_steps, vocabulary),
        "learning_rate": _at(scalars.values.get(LEARNING_RATE, {}), logged),
        "grad_norm": _at(scalars.values.get(GRAD_NORM, {}), logged),
        "compute_s": _at(scalars.values.get(COMPUTE_S, {}), logged),
        "other_s": _at(scalars.values.get(OTHER_S, {}), logged),
    }
    extras = sorted(
        tag
        for tag in scalars.values
        if "loss" in tag and tag not in (*names, held_out, "loss-scale") and "validation" not in tag
    )
    return [
        line
        | _loss(line["step"], scalars, names)
        | {
            "stage": _whole(scalars, STAGE, line["step"]) or 0,
            "facts": _facts(line["step"], scalars, facts),
            "extras": {tag: _known(scalars.values[tag].get(line["step"])) for tag in extras},
        }
        for line in _lines("step", logged, columns)
    ]


def _lines(kind: str, steps: Sequence[int], columns: Mapping[str, Array]) -> list[dict[str, Any]]:
    """A line a step; what a column does not know there is None."""
    return [
        {
            "kind": kind,
            "step": step,
            **{name: _known(float(column[at])) for name, column in columns.items()},
        }
        for at, step in enumerate(steps)
    ]


def _loss(step: int, scalars: Scalars, names: Sequence[str]) -> dict[str, Any]:
    """The objective of a step: the first that has a number there."""
    found = {name: _known(scalars.values.get(name, {}).get(step)) for name in names}
    name = next((name for name, loss in found.items() if loss is not None), NEXT_TOKEN_LOSS)
    return {"loss_name": name, "loss": found[name]}


def _facts(step: int, scalars: Scalars, tags: Mapping[str, str]) -> dict[str, Any] | None:
    """Of the step's stage; None where none is logged."""
    found = {name: _whole(scalars, tag, step) for name, tag in tags.items()}
    return {name: value for name, value in found.items() if value is not None} or None


def _whole(scalars: Scalars, tag: str, step: int) -> int | float | None:
    """A logged value, as a whole number if it is one."""
    value = _known(scalars.values.get(tag, {}).get(step))
    return int(value) if value is not None and value.is_integer() else value


def _known(value: float | None) -> float | None:
    """None of what is not a finite number, as a ledger's reader has it."""
    return None if value is None or not math.isfinite(value) else float(value)


def _progress(
    steps: Sequence[int],
    header: Mapping[str, Any],
    scalars: Scalars,
    tags: Sequence[str],
    vocabulary: Vocabulary,
) -> dict[str, Array]:
    clock = {step: seconds for tag in tags for step, seconds in scalars.clocks.get(tag, {}).items()}
    seconds = _at(clock, steps)
    # A jump between a step and its evaluation is not seen by step.
    seconds = np.where(np.isfinite(seconds), np.fmax.accumulate(seconds), np.nan)
    positions = _positions(steps, header, scalars)
    ranks = (header.get("flags") or {}).get("world_size")
    gpu_hours = _between(scalars.values.get(GPU_HOURS, {}), steps)
    # Logged ones hold what these seconds do not, so one run has the one or the other.
    if GPU_HOURS not in scalars.values and isinstance(ranks, int):
        gpu_hours = seconds * ranks / 3600
    return {
        "positions": positions,
        "data_tokens": _data_tokens(steps, positions, header, scalars, vocabulary),
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


def _data_tokens(
    steps: Sequence[int],
    positions: Array,
    header: Mapping[str, Any],
    scalars: Scalars,
    vocabulary: Vocabulary,
) -> Array:
    """As logged; of a run that tells that it is ordinary all along, its positions."""
    if DATA_TOKENS in scalars.values:
        return _between(scalars.values[DATA_TOKENS], steps)
    told = {
        name: scalars.values[tag]
        for name, tag in fact_tags(vocabulary).items()
        if tag in scalars.values
    }
    is_ordinary = (bool(told) or header.get("methods") == []) and not any(
        name in scalars.values for name in vocabulary.losses
    )
    is_ordinary = is_ordinary and all(
        value == vocabulary.facts[name]
        for name, by_step in told.items()
        for value in by_step.values()
        if math.isfinite(value)
    )
    return positions if is_ordinary else np.full(len(steps), np.nan)


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
