"""Which bag size a sample has: the phases of a run as a function of the sample index.

The one idea: Megatron already counts consumed samples, so a stage that is a range of sample indices
needs no state of its own. Resuming, another data-parallel size or a batch-size ramp change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tst_megatron.methods.superposition.stage_lengths import (
    SHARE,
    RunLength,
    ScheduleError,
    StageLength,
    check_lengths,
)
from tst_megatron.runs.stages import index_at, starts_of


@dataclass(frozen=True)
class Stage:
    """A range of consecutive samples of one bag size.

    Attributes:
        bag_size: s; 1 is ordinary next-token training.
        num_samples: samples in the stage.
    """

    bag_size: int
    num_samples: int


@dataclass(frozen=True)
class Location:
    """Where a global sample index lies: which stage, its bag size, and the index inside it."""

    stage: int
    bag_size: int
    index: int


@dataclass(frozen=True)
class BagSchedule:
    """The stages of a run, the superposed ones first and the ordinary one last.

    Every sample index from 0 has a place: those past the end belong to the last stage.

    Attributes:
        stages: at least one; the last has bag size 1 (and perhaps no samples).
        laid_out: the stages that text was laid out for, where the run goes on from one of another
            length; None where they are its own.
    """

    stages: tuple[Stage, ...]
    laid_out: tuple[Stage, ...] | None = None

    @classmethod
    def from_shares(
        cls,
        shares: Sequence[tuple[int, float]],
        train_iters: int,
        samples_of_steps: Callable[[int], int],
    ) -> "BagSchedule":
        """Stages as (bag size, share of the steps); what is left over is ordinary.

        Args:
            shares: in the order of training.
            train_iters: steps of the whole run.
            samples_of_steps: samples consumed in the first n steps.

        Raises:
            ScheduleError: as `from_lengths`.
        """
        stages = [(bag_size, StageLength(share)) for bag_size, share in shares]
        return cls.from_lengths(stages, RunLength(train_iters, samples_of_steps))

    @classmethod
    def from_lengths(
        cls, lengths: Sequence[tuple[int, StageLength]], run: RunLength
    ) -> "BagSchedule":
        """Stages as (bag size, length); what is left over is ordinary.

        Args:
            lengths: in the order of training.
            run: what turns them into steps.

        Raises:
            ScheduleError: as `check_lengths`; a stage rounds to 0 steps, tokens cannot be counted,
                or the stages end after the run.
        """
        check_lengths(lengths)
        ends = run.ends_of(lengths)
        if all(length.unit == SHARE for _, length in lengths):
            # They sum to 1 within rounding, which is more than a step of a long run.
            ends = [min(end, run.train_iters) for end in ends]
        stages, start = [], 0
        for (bag_size, length), end in zip(lengths, ends, strict=True):
            if end <= start:
                raise ScheduleError(
                    f"the stage {bag_size}:{length} rounds to 0 of {run.train_iters} steps: "
                    "raise its share or the number of steps"
                    if length.unit == SHARE
                    else f"the stage {bag_size}:{length} is nearer to 0 steps than to 1: raise it"
                )
            if end > run.train_iters:
                raise ScheduleError(
                    f"the stage {bag_size}:{length} ends after the {run.train_iters:,} steps of "
                    "the run: shorten the stages or train for more steps"
                )
            samples = run.samples_of_steps(end) - run.samples_of_steps(start)
            stages.append(Stage(bag_size, samples))
            start = end
        ordinary = run.samples_of_steps(run.train_iters) - run.samples_of_steps(start)
        return cls((*stages, Stage(1, ordinary)))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Global index of every stage's first sample."""
        return starts_of([stage.num_samples for stage in self.stages])

    @property
    def num_samples(self) -> int:
        """Samples of the whole run."""
        return sum(stage.num_samples for stage in self.stages)

    @property
    def superposed_stages(self) -> tuple[Stage, ...]:
        """The stages before the ordinary one."""
        return self.stages[:-1]

    @property
    def text(self) -> "BagSchedule":
        """The samples by which text is laid out: those of the run that this one goes on from, or
        else its own."""
        return self if self.laid_out is None else BagSchedule(self.laid_out)

    def locate(self, sample_index: int) -> Location:
        """Stage, bag size and index in the stage of a global sample index.

        Raises:
            IndexError: the index is negative.
        """
        stage = index_at(self.starts, sample_index)
        return Location(stage, self.stages[stage].bag_size, sample_index - self.starts[stage])

    def samples_of_bag_size(self, bag_size: int) -> int:
        """Samples of all stages of one bag size: they are drawn from one data set, in turn."""
        return sum(stage.num_samples for stage in self.stages if stage.bag_size == bag_size)

    def spans(self, bag_size: int, before: int | None = None) -> list[tuple[int, int]]:
        """The stages of a bag size: first sample, and the one after the last.

        Args:
            before: a sample index, where only those before it are wanted; the last stage has no
                end to it.
        """
        ends = [*self.starts[1:], self.num_samples if before is None else before]
        spans = [
            (start, end if before is None else min(end, before))
            for stage, start, end in zip(self.stages, self.starts, ends, strict=True)
            if stage.bag_size == bag_size
        ]
        return [(start, end) for start, end in spans if start < end]

    def index_in_bag_size(self, location: Location) -> int:
        """Index of a sample among those of its bag size."""
        before = sum(
            stage.num_samples
            for stage in self.stages[: location.stage]
            if stage.bag_size == location.bag_size
        )
        return before + location.index
