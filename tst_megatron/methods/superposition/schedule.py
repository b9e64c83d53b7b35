"""Which bag size a sample has: the phases of a run as a function of the sample index.

The one idea: Megatron already counts consumed samples, so a stage that is a range of sample indices
needs no state of its own. Resuming, another data-parallel size or a batch-size ramp change nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from tst_megatron.runs.stages import index_at, starts_of

# Shares typed as decimals add up to 1 only within rounding.
_SHARE_TOLERANCE = 1e-9


class ScheduleError(ValueError):
    """A schedule that cannot be run; the message is one sentence for the user."""


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
    """

    stages: tuple[Stage, ...]

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
            samples_of_steps: samples consumed in the first n steps (n · global batch size without
                a batch-size ramp), so that stages end between two steps.

        Raises:
            ScheduleError: a bag size is below 1, a share is not above 0, the shares sum past 1, or
                a stage rounds to 0 steps.
        """
        _check_shares(shares)
        ends = [round(total * train_iters) for total in accumulate(share for _, share in shares)]
        stages, start = [], 0
        for (bag_size, share), end in zip(shares, ends, strict=True):
            end = min(end, train_iters)
            if end <= start:
                raise ScheduleError(
                    f"the stage {bag_size}:{share:g} rounds to 0 of {train_iters} steps: "
                    "raise its share or the number of steps"
                )
            stages.append(Stage(bag_size, samples_of_steps(end) - samples_of_steps(start)))
            start = end
        stages.append(Stage(1, samples_of_steps(train_iters) - samples_of_steps(start)))
        return cls(tuple(stages))

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
        """The samples that text is laid out for: these, as they are."""
        return self

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

    def index_in_bag_size(self, location: Location) -> int:
        """Index of a sample among those of its bag size."""
        before = sum(
            stage.num_samples
            for stage in self.stages[: location.stage]
            if stage.bag_size == location.bag_size
        )
        return before + location.index


def parse_shares(text: str) -> tuple[tuple[int, float], ...]:
    """Read ``16:0.2,4:0.1`` as ((16, 0.2), (4, 0.1)).

    Raises:
        ScheduleError: the text has another form.
    """
    shares = []
    for part in text.split(","):
        bag_size, colon, share = part.partition(":")
        try:
            if not colon:
                raise ValueError
            shares.append((int(bag_size), float(share)))
        except ValueError:
            raise ScheduleError(
                f"the stage {part.strip()!r} is not BAG_SIZE:SHARE_OF_STEPS: "
                "write for example 16:0.2,4:0.1"
            ) from None
    return tuple(shares)


def _check_shares(shares: Sequence[tuple[int, float]]) -> None:
    if not shares:
        raise ScheduleError("the schedule has no stage: name at least one, for example 4:0.3")
    for bag_size, share in shares:
        if bag_size < 1:
            raise ScheduleError(f"bag size {bag_size} is below 1: use 1 or more")
        # Written so that NaN fails too.
        if not share > 0.0:
            raise ScheduleError(
                f"the share {share:g} of the stage with bag size {bag_size} is not above 0: "
                "use a share of the steps between 0 and 1"
            )
    total = sum(share for _, share in shares)
    if not total <= 1.0 + _SHARE_TOLERANCE:
        raise ScheduleError(
            f"the shares of the stages sum to {total:g}, past 1: lower them to 1 or less"
        )
