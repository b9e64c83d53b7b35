"""A schedule whose superposed stage has no fixed end: it is closed while the run goes on.

The one idea: at every moment it is a `BagSchedule`, superposed as long as may be until it is
closed. Closing it moves the switch alone, to where no sample has been read yet; so what has been
read stays as it is. The switch lies in shared memory, where the data loader's workers see it.
"""

from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue

from tst_megatron.methods.superposition.schedule import BagSchedule, Stage
from tst_megatron.methods.superposition.stage_lengths import (
    SHARE,
    RunLength,
    ScheduleError,
    StageLength,
    parse_bag_size,
    parse_length,
)

AUTO = "auto"
DEFAULT_LEAST = StageLength(0.1)
# arXiv 2605.06546, Section 4: beyond, the loss rises for every bag size.
DEFAULT_MOST = StageLength(0.5)


@dataclass(frozen=True)
class AutoLengths:
    """``auto:S:least,most``.

    Attributes:
        bag_size: s of the superposed stage.
        least: that is superposed whatever is measured.
        most: that may be superposed.
    """

    bag_size: int
    least: StageLength = DEFAULT_LEAST
    most: StageLength = DEFAULT_MOST


def is_auto(text: str | None) -> bool:
    """Whether a ``--tst-schedule`` leaves the switch to measurement."""
    return text is not None and text.partition(":")[0].strip() == AUTO


def parse_auto(text: str) -> AutoLengths:
    """Read ``auto:4``, ``auto:4:0.1,0.5`` or ``auto:4:2000steps,6000steps``.

    Raises:
        ScheduleError: the text has another form, or its numbers are out of range.
    """
    try:
        _, bag_size, *lengths = text.split(":")
        auto = AutoLengths(parse_bag_size(bag_size))
        if lengths:
            (limits,) = lengths
            least, most = map(parse_length, limits.split(","))
            auto = AutoLengths(auto.bag_size, least, most)
    except ValueError:
        raise ScheduleError(
            f"{text!r} is not auto:BAG_SIZE or auto:BAG_SIZE:LEAST,MOST, in shares, steps or "
            "tokens: write for example auto:4:0.1,0.5 or auto:4:2000steps,6000steps"
        ) from None
    if auto.bag_size < 2:
        raise ScheduleError(f"bag size {auto.bag_size} leaves nothing to decide: use 2 or more")
    shares = [length.amount for length in (auto.least, auto.most) if length.unit == SHARE]
    if not all(0.0 <= share <= 1.0 for share in shares) or not (
        auto.least.unit != auto.most.unit or auto.least.amount < auto.most.amount
    ):
        raise ScheduleError(
            f"{auto.least} and {auto.most} are not the least and the most that is superposed: use "
            "two shares between 0 and 1, or steps or tokens, the smaller one first"
        )
    return auto


class OpenSchedule(BagSchedule):
    """One superposed stage that may be closed early, and an ordinary one.

    Args:
        lengths: the flag's.
        run: what turns them into steps.

    Attributes:
        bag_size: s of the superposed stage.
        first_switch: the step after which the superposed stage ends at the earliest.
        last_switch: the step after which it ends at the latest.

    Raises:
        ScheduleError: the superposed stage rounds to 0 steps or ends after the run, or its least
            is not below its most.
    """

    def __init__(self, lengths: AutoLengths, run: RunLength) -> None:
        self.bag_size = lengths.bag_size
        (self.first_switch,) = run.ends_of([(lengths.bag_size, lengths.least)])
        (self.last_switch,) = run.ends_of([(lengths.bag_size, lengths.most)])
        if not self.last_switch:
            raise ScheduleError(
                f"the most that is superposed, {lengths.most}, rounds to 0 of {run.train_iters} "
                "steps: raise it or the number of steps"
            )
        if not self.first_switch <= self.last_switch <= run.train_iters:
            raise ScheduleError(
                f"{lengths.least} and {lengths.most} are {self.first_switch:,} and "
                f"{self.last_switch:,} steps of {run.train_iters:,}: use a least below the most, "
                "and a most within the run"
            )
        self._samples_of_steps = run.samples_of_steps
        self._num_samples = run.samples_of_steps(run.train_iters)
        # Not torch's: a budget, which waits for neither, makes a schedule, too.
        self._end = RawValue("q", self._samples_of_steps(self.last_switch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """As they are now: the superposed stage is as long as may be until it is closed."""
        end = int(self._end.value)
        return Stage(self.bag_size, end), Stage(1, self._num_samples - end)

    @property
    def starts(self) -> tuple[int, ...]:
        """Global index of both stages' first sample."""
        return 0, self.stages[0].num_samples

    @property
    def text(self) -> BagSchedule:
        """Text for the longest superposed stage and for the longest ordinary one."""
        longest = self._samples_of_steps(self.last_switch)
        shortest = self._samples_of_steps(self.first_switch)
        return BagSchedule((Stage(self.bag_size, longest), Stage(1, self._num_samples - shortest)))

    def close(self, switch_step: int | None) -> None:
        """End the superposed stage after a step; None opens it again.

        Raises:
            ValueError: the step is not among those that text is there for.
        """
        step = self.last_switch if switch_step is None else switch_step
        if not self.first_switch <= step <= self.last_switch:
            raise ValueError(
                f"step {step} is not from {self.first_switch} to {self.last_switch}: no text is "
                "laid out for a switch there"
            )
        self._end.value = self._samples_of_steps(step)
