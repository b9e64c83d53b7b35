"""The stages of a run: consecutive samples that are trained on alike.

The one idea: Megatron already counts consumed samples, so a stage that is a range of sample indices
needs no state of its own; resuming, another data-parallel size or a batch-size ramp change nothing.
Trainer, planner, ledger and comparison all decode stages here, and only here.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

NEXT_TOKEN_LOSS = "lm loss"
"""Megatron's own name of the next-token loss, in its log, TensorBoard and our ledger."""

Fact = int | float | str | bool | None


class CombinationError(ValueError):
    """Methods that cannot be on together; the message says why."""


@dataclass(frozen=True)
class Stage:
    """A range of consecutive samples.

    Attributes:
        name: in words, such as ``single tokens``.
        samples: in the stage.
        tokens_a_position: tokens of text that a position reads.
        loss: the objective's name; losses of two names cannot be compared.
        method: which method shapes the stage; empty for ordinary training.
        facts: what sets it apart, by name: in the log line, TensorBoard and the ledger.
    """

    name: str
    samples: int
    tokens_a_position: int = 1
    loss: str = NEXT_TOKEN_LOSS
    method: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def is_ordinary(self) -> bool:
        """Whether it is next-token training that no method changes."""
        return not self.method

    def as_json(self) -> dict[str, Any]:
        """As a ledger's header has it."""
        return {
            "name": self.name,
            "samples": self.samples,
            "tokens_a_position": self.tokens_a_position,
            "loss": self.loss,
            "method": self.method,
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Stage":
        """The inverse of `as_json`."""
        return cls(**{**value, "facts": dict(value.get("facts") or {})})


ORDINARY = "single tokens"
"""What a stage of ordinary training is called."""


def ordinary_stage(samples: int) -> Stage:
    """Samples of ordinary next-token training."""
    return Stage(ORDINARY, samples)


def starts_of(samples: Sequence[int]) -> tuple[int, ...]:
    """Global index of the first sample of consecutive parts of so many samples."""
    return (0, *accumulate(samples[:-1]))


def index_at(starts: Sequence[int], sample_index: int) -> int:
    """Which of the parts that begin there a global sample index lies in.

    Those past the end belong to the last; a part without samples holds none.

    Raises:
        IndexError: the index is negative.
    """
    if sample_index < 0:
        raise IndexError(f"sample index {sample_index} is negative")
    return bisect.bisect_right(starts, sample_index) - 1


def stage_index(stages: Sequence[Stage], sample_index: int) -> int:
    """Which stage a global sample index lies in, as `index_at`."""
    return index_at(starts_of([stage.samples for stage in stages]), sample_index)


def stage_at(stages: Sequence[Stage], sample_index: int) -> Stage:
    """The stage that a global sample index lies in, as `index_at`."""
    return stages[stage_index(stages, sample_index)]


def data_tokens(stages: Sequence[Stage], num_samples: int, seq_length: int) -> int:
    """Tokens read by the first samples (arXiv 2605.06546, Table 1).

    Places, to be exact: where a method leaves some empty, those are counted, since how many there
    are is not known from the number of samples.

    Args:
        stages: of the run.
        num_samples: samples consumed so far.
        seq_length: L, positions a sample.
    """
    total, left = 0, num_samples
    for stage in stages[:-1]:
        taken = min(left, stage.samples)
        total += taken * stage.tokens_a_position
        left -= taken
    return (total + left * stages[-1].tokens_a_position) * seq_length


def merged(schedules: Sequence[Sequence[Stage]]) -> tuple[Stage, ...]:
    """The stages of a run under several methods at once: cut wherever one of them cuts.

    Args:
        schedules: of every method, in the order in which the methods are applied; of one length.

    Raises:
        CombinationError: two methods change the loss of one sample, or have a fact of one name.
    """
    if len(schedules) == 1:
        return tuple(schedules[0])
    ends = sorted({end for stages in schedules for end in accumulate(s.samples for s in stages)})
    stages = [
        _together([stage_at(one, begin) for one in schedules], end - begin)
        for begin, end in pairwise((0, *ends))
        if end > begin
    ]
    return tuple(stages) or tuple(schedules[0])


def _together(stages: Sequence[Stage], samples: int) -> Stage:
    """What several methods make of the same samples."""
    special = [stage for stage in stages if not stage.is_ordinary]
    losses = {stage.loss for stage in special if stage.loss != NEXT_TOKEN_LOSS}
    if len(losses) > 1:
        raise CombinationError(f"two methods change one loss: {' and '.join(sorted(losses))}")
    tokens = 1
    facts: dict[str, Fact] = {}
    for stage in stages:
        tokens *= stage.tokens_a_position
        if twice := sorted(facts.keys() & stage.facts.keys()):
            raise CombinationError(f"two methods have a fact of the name {twice[0]}")
        facts |= stage.facts
    return Stage(
        name=", ".join(stage.name for stage in special) or stages[0].name,
        samples=samples,
        tokens_a_position=tokens,
        loss=losses.pop() if losses else NEXT_TOKEN_LOSS,
        method=", ".join(stage.method for stage in special),
        facts=facts,
    )


def stage_of_facts(facts: Mapping[str, Fact]) -> Stage:
    """What a step is known to be of by its facts alone, where no method is asked."""
    if not facts:
        return ordinary_stage(0)
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    return Stage(words, 0, method=words, facts=dict(facts))


@dataclass(frozen=True)
class Vocabulary:
    """What methods call things, for reading sources that tell less than a ledger does.

    Attributes:
        losses: names of training losses besides the next-token loss.
        facts: of stages, with the values that they have in ordinary training.
        stage: what a stage with some facts is; of no length.
    """

    losses: tuple[str, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    stage: Callable[[Mapping[str, Fact]], Stage] = stage_of_facts
