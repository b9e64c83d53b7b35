"""A run as it is compared: its held-out losses, its logged steps, its stages and facts.

The one idea: whatever a run was read from (our ledger, TensorBoard, a W&B export), it comes as a
`Ledger` and is made into this, lines into arrays; what the source did not tell is NaN.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.runs.active_parameters import impossible_count
from tst_megatron.runs.evaluations import Evaluation, evaluations_of, evaluations_of_sets
from tst_megatron.runs.facts import Facts, Parent, facts_of
from tst_megatron.runs.flag_roles import Role
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.links import LinkStart, links_in_words, links_of
from tst_megatron.runs.spans import Span, spans_of
from tst_megatron.runs.stages import Fact, Vocabulary
from tst_megatron.statistics.array import Array

# What was logged went through single precision on the way.
_TOLERANCE = 1e-6
# Losses of an end alone, which sources have of several evaluations, tell no two runs apart.
_FEWEST = 2
_SPENT = ("flops", "gpu_hours", "data_tokens")
_PLAIN = Vocabulary()

Lines = Sequence[Mapping[str, Any]]


class LossUnit(StrEnum):
    """What held-out losses are told in."""

    NATS = "nats a token"
    BITS = "bits a byte"

    @property
    def of_a_difference(self) -> str:
        """Behind a number in a sentence."""
        return "nats" if self is LossUnit.NATS else str(self)


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
        losses: next-token loss, in its unit; NaN where it was not a number.
        stderrs: standard error of each loss, from the spread over held-out sequences.
        bytes_a_token: of the text that each loss was measured on.
        unit: of losses and their errors, nats a token as they are read.
    """

    steps: Array
    positions: Array
    data_tokens: Array
    flops: Array
    wall_clock_s: Array
    gpu_hours: Array
    losses: Array
    stderrs: Array
    bytes_a_token: Array
    unit: LossUnit = LossUnit.NATS

    @property
    def bits_a_byte(self) -> Array:
        """The losses ``[n]`` in bits a byte of text, which tokenizers do not change."""
        return self.losses * self._bits

    def in_bits(self) -> "Curve":
        """The same with losses and errors in bits a byte; NaN where the bytes are not known."""
        return replace(
            self,
            losses=self.losses * self._bits,
            stderrs=self.stderrs * self._bits,
            unit=LossUnit.BITS,
        )

    def at(self, kept: npt.NDArray[np.bool_]) -> "Curve":
        """Some of its evaluations, ``[n]``."""
        columns = {name: column[kept] for name, column in vars(self).items() if name != "unit"}
        return Curve(**columns, unit=self.unit)

    @property
    def _bits(self) -> Array:
        """What a loss ``[n]`` is multiplied with to be in bits a byte."""
        if self.unit is LossUnit.BITS:
            return np.ones_like(self.losses)
        return 1 / (self.bytes_a_token * math.log(2))


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
        facts: what sets the stage of each step apart, by name; empty where nothing is told.
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
    facts: tuple[Mapping[str, Fact], ...]
    learning_rates: Array
    grad_norms: Array
    compute_s: Array
    other_s: Array
    extras: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedRun:
    """A run.

    Attributes:
        name: as a reader knows it, from its path.
        path: what it was read from.
        source: ``ledger``, ``tensorboard`` or ``wandb``.
        header: of the ledger's last start; of other sources what is known of its flags.
        curve: held-out evaluations.
        steps: logged steps.
        stages: which steps were of which stage, as far as it got.
        num_steps: steps it was planned for, or the last it got to where that is not known.
        decay_start: the step after which the learning rate decays at the end; None if unknown.
        notes: what a reader should know of how it was read, a sentence each.
        links: of a chain, where each begins; none of any other run.
        evaluations: what models of its steps scored, ascending in steps.
        earlier: headers of the ledger's other starts, of those whose evaluations are kept.
    """

    name: str
    path: Path
    source: str
    header: Mapping[str, Any]
    curve: Curve
    steps: StepSeries
    stages: tuple[Span, ...]
    num_steps: int
    decay_start: int | None = None
    notes: tuple[str, ...] = ()
    links: tuple[LinkStart, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    earlier: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def facts(self) -> Facts:
        """What its headers tell of it, read once."""
        return facts_of(self.header, self.earlier)

    @property
    def tells_methods(self) -> bool:
        """Whether it is known by which methods it was trained; if not, it may have had any."""
        return self.facts.methods is not None or any(self.steps.facts)


def run_of_ledger(ledger: Ledger, name: str, vocabulary: Vocabulary = _PLAIN) -> RecordedRun:
    """A run as its ledger tells it; what its parents spent is in what it spent.

    Args:
        ledger: as read from a file.
        name: of the run.
        vocabulary: of methods that the run may have had, where its header does not tell of them.
    """
    assert ledger.path is not None
    header, notes = ledger.header, list(ledger.notes)
    if (impossible := impossible_count(ledger)) is not None:
        header = {name: value for name, value in header.items() if name != "parameters"}
        notes.append(impossible)
    facts = facts_of(header)
    steps = _steps(ledger.steps)
    last_step = 0 if ledger.last is None else ledger.last["step"]
    start = facts.decay_start
    links = tuple(link for link in links_of(ledger.headers) if link.after <= last_step)
    if links:
        notes.append(links_in_words(links, last_step))
    run = RecordedRun(
        name=name,
        path=ledger.path,
        source=ledger.source,
        header=header,
        curve=_curve(ledger.validations),
        steps=steps,
        stages=spans_of(ledger, facts, vocabulary),
        num_steps=facts.planned_steps or last_step,
        decay_start=logged_decay_start(steps) if start is None else start,
        notes=tuple(notes),
        links=links,
        evaluations=tuple(
            sorted(
                (
                    *evaluations_of(ledger.evaluations, ledger.path.parent),
                    *evaluations_of_sets(ledger.validations),
                ),
                key=lambda one: one.step,
            )
        ),
        earlier=_starts_that_are_kept(ledger),
    )
    return _with_parents(run) if facts.parents else run


def _starts_that_are_kept(ledger: Ledger) -> tuple[Mapping[str, Any], ...]:
    """Headers before the last one of which a validation is left, and not replayed."""
    steps = [line["step"] for line in ledger.validations]
    # What was read of other logs tells no start but the first.
    begins = [header.get("step", 0) for header in ledger.headers]
    # A run may be validated at step 0, and one that goes on is not where it begins.
    after = [-1, *begins[1:]]
    return tuple(
        header
        for header, begin, end in zip(ledger.headers, after, begins[1:], strict=False)
        if any(begin < step <= end for step in steps)
    )


def is_same_run(one: RecordedRun, other: RecordedRun) -> bool:
    """Whether both were read of one run, from whatever sources.

    By its id where both tell one, else by its losses: two runs never have the same ones, to the
    digit, at every step that both tell of. Of several evaluations at a run's last step W&B keeps
    the last and the others the first, so between them that step decides nothing.
    """
    ids = [run.header.get("run_id") for run in (one, other)]
    if None not in ids:
        return bool(ids[0] == ids[1])
    seeds = {run.facts.seed for run in (one, other)} - {None}
    if len(seeds) > 1 or _went_through_others(one.stages, other.stages):
        return False
    if _were_set_otherwise(one.facts, other.facts):
        return False
    if one.curve.steps.size and other.curve.steps.size:
        ends_differ = (one.source == "wandb") != (other.source == "wandb")
        return _have_same_losses(one.curve, other.curve, -1 if ends_differ else None)
    if one.steps.steps.size and other.steps.steps.size:
        return _have_same_losses(one.steps, other.steps)
    return one.header == other.header


def _were_set_otherwise(one: Facts, other: Facts) -> bool:
    """Whether a number is told to differ, however sources write the rest.

    One seed in two layouts gives losses that rounding alone tells apart.
    """
    numbers = [
        {
            name: value
            for name, value in facts.flags.items()
            if isinstance(value, int | float) and not Role.OF_A_START.has(name)
        }
        for facts in (one, other)
    ]
    return any(numbers[1].get(name, value) != value for name, value in numbers[0].items())


def _went_through_others(one: Sequence[Span], other: Sequence[Span]) -> bool:
    """Whether the stages of two runs are known to differ, as far as both got."""
    return any(
        ours.stage.is_ordinary != theirs.stage.is_ordinary
        or any(
            ours.stage.facts[name] != value
            for name, value in theirs.stage.facts.items()
            if name in ours.stage.facts
        )
        for ours, theirs in zip(one, other, strict=False)
    )


def _have_same_losses(
    one: "Curve | StepSeries", other: "Curve | StepSeries", until: int | None = None
) -> bool:
    """Wherever the shorter one is measured.

    Args:
        one: a run's losses.
        other: another's.
        until: which of the shared steps counts no more, where more than a few are.
    """
    # Before any step, runs of one seed are alike.
    shared, ours, theirs = np.intersect1d(one.steps, other.steps, return_indices=True)
    pairs = np.array([one.losses[ours], other.losses[theirs]])[:, shared > 0]
    fewest = min(np.count_nonzero(series.steps > 0) for series in (one, other))
    if pairs.shape[1] < fewest:
        return False
    if pairs.shape[1] > _FEWEST:
        pairs = pairs[:, :until]
    return bool(
        np.isfinite(pairs).all(axis=0).any()
        and np.allclose(pairs[0], pairs[1], rtol=_TOLERANCE, atol=0, equal_nan=True)
    )


def logged_decay_start(steps: StepSeries) -> int | None:
    """The last logged step at the highest learning rate; None where too few are known."""
    known = np.isfinite(steps.learning_rates)
    rates = steps.learning_rates[known]
    if rates.size < 2:
        return None
    at_top = np.flatnonzero(rates >= rates.max() * (1 - _TOLERANCE))
    return int(steps.steps[known][at_top[-1]])


def _with_parents(run: RecordedRun) -> RecordedRun:
    """With what was spent before its step 0; what a parent does not tell is not known of it either.

    No ledger tells how long parents took by the clock. A run that goes on from another one has no
    clock without it; one whose text a model is behind has its own, as with any tokenizer.
    """
    parents = run.facts.parents
    spent = {name: sum(_or_nan(getattr(parent, name)) for parent in parents) for name in _SPENT}

    of_clock = math.nan if any(parent.what is None for parent in parents) else 0.0

    def adding[T: (Curve, StepSeries)](series: T) -> T:
        columns = {name: getattr(series, name) + spent[name] for name in _SPENT}
        return replace(series, **columns, wall_clock_s=series.wall_clock_s + of_clock)

    notes = (*run.notes, *_parents_in_words(parents))
    return replace(run, curve=adding(run.curve), steps=adding(run.steps), notes=notes)


def _parents_in_words(parents: Sequence[Parent]) -> Iterator[str]:
    runs = [parent for parent in parents if parent.what is None]
    counts = ", ".join(
        f"step {parent.step or 0:,} of {parent.ledger or 'a run without a ledger'}"
        for parent in runs
    )
    if runs:
        yield (
            f"It started from {counts}: what was spent there counts, and its wall-clock is not "
            "known."
        )
    for parent in parents:
        if parent.what is not None:
            flops = "unknown FLOPs" if parent.flops is None else f"{parent.flops:.4g} FLOPs"
            hours = "unknown" if parent.gpu_hours is None else f"{parent.gpu_hours:.3g}"
            yield (
                f"Its text needs {parent.what}, which took {flops} and {hours} GPU hours to train: "
                "that counts, but not in the run's wall-clock, as how long it took is not known."
            )


def _curve(validations: Lines) -> Curve:
    return Curve(
        **_progress(validations),
        unit=LossUnit.NATS,
        losses=_column(validations, "next_token_loss"),
        stderrs=_column(validations, "next_token_loss_stderr"),
        bytes_a_token=_ratio(_column(validations, "bytes"), _column(validations, "tokens")),
    )


def _steps(lines: Lines) -> StepSeries:
    names = dict.fromkeys(name for line in lines for name in line.get("extras") or {})
    return StepSeries(
        **_progress(lines),
        losses=_column(lines, "loss"),
        loss_names=tuple(line.get("loss_name") for line in lines),
        facts=tuple(line.get("facts") or {} for line in lines),
        learning_rates=_column(lines, "learning_rate"),
        grad_norms=_column(lines, "grad_norm"),
        compute_s=_column(lines, "compute_s"),
        other_s=_column(lines, "other_s"),
        extras={
            name: _column([line.get("extras") or {} for line in lines], name) for name in names
        },
    )


def _progress(lines: Lines) -> dict[str, Array]:
    columns = ("positions", "data_tokens", "flops", "wall_clock_s", "gpu_hours")
    return {"steps": _column(lines, "step"), **{name: _column(lines, name) for name in columns}}


def _column(lines: Lines, name: str) -> Array:
    return np.array([_or_nan(line.get(name)) for line in lines], dtype=np.float64)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _ratio(above: Array, below: Array) -> Array:
    """NaN where there is nothing above or below."""
    known = (above > 0) & (below > 0)
    return np.where(known, above, np.nan) / np.where(known, below, 1.0)
