"""A schedule whose superposed stage has no fixed end: it is closed while the run goes on.

The one idea: at every moment it is a `BagSchedule`, superposed as long as may be until it is
closed. Closing it moves the switch alone, to where no sample has been read yet; so what has been
read stays as it is. The switch lies in shared memory, where the data loader's workers see it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue

from tst_megatron.methods.superposition.schedule import BagSchedule, ScheduleError, Stage

AUTO = "auto"
DEFAULT_MIN_SHARE = 0.1
DEFAULT_MAX_SHARE = 0.5  # arXiv 2605.06546, Section 4: beyond, the loss rises for every bag size.


@dataclass(frozen=True)
class AutoShares:
    """``auto:S:min_share,max_share``.

    Attributes:
        bag_size: s of the superposed stage.
        min_share: of the steps, that are superposed whatever is measured.
        max_share: of the steps, that may be superposed.
    """

    bag_size: int
    min_share: float = DEFAULT_MIN_SHARE
    max_share: float = DEFAULT_MAX_SHARE


def is_auto(text: str | None) -> bool:
    """Whether a ``--tst-schedule`` leaves the switch to measurement."""
    return text is not None and text.partition(":")[0].strip() == AUTO


def parse_auto(text: str) -> AutoShares:
    """Read ``auto:4`` or ``auto:4:0.1,0.5``.

    Raises:
        ScheduleError: the text has another form, or its numbers are out of range.
    """
    try:
        _, bag_size, *shares = text.split(":")
        low, high = map(float, shares[0].split(",")) if shares else (None, None)
        if len(shares) > 1:
            raise ValueError
        size = int(bag_size)
    except ValueError:
        raise ScheduleError(
            f"{text!r} is not auto:BAG_SIZE or auto:BAG_SIZE:MIN_SHARE,MAX_SHARE: write for "
            "example auto:4:0.1,0.5"
        ) from None
    auto = AutoShares(size) if low is None or high is None else AutoShares(size, low, high)
    if auto.bag_size < 2:
        raise ScheduleError(f"bag size {auto.bag_size} leaves nothing to decide: use 2 or more")
    if not 0.0 <= auto.min_share < auto.max_share <= 1.0:
        raise ScheduleError(
            f"the shares {auto.min_share:g} and {auto.max_share:g} are not a least and a most "
            "share of the steps: use two between 0 and 1, the smaller one first"
        )
    return auto


class OpenSchedule(BagSchedule):
    """One superposed stage that may be closed early, and an ordinary one.

    Args:
        shares: the flag's.
        train_iters: steps of the whole run.
        samples_of_steps: samples consumed in the first n steps.

    Attributes:
        shares: the flag's.
        first_switch: the step after which the superposed stage ends at the earliest.
        last_switch: the step after which it ends at the latest.

    Raises:
        ScheduleError: the superposed stage rounds to 0 steps.
    """

    def __init__(
        self, shares: AutoShares, train_iters: int, samples_of_steps: Callable[[int], int]
    ) -> None:
        self.shares = shares
        self.first_switch = round(shares.min_share * train_iters)
        self.last_switch = round(shares.max_share * train_iters)
        if not self.last_switch:
            raise ScheduleError(
                f"the most share {shares.max_share:g} rounds to 0 of {train_iters} steps: raise it "
                "or the number of steps"
            )
        self._samples_of_steps = samples_of_steps
        self._num_samples = samples_of_steps(train_iters)
        # Not torch's: a budget, which waits for neither, makes a schedule, too.
        self._end = RawValue("q", samples_of_steps(self.last_switch))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """As they are now: the superposed stage is as long as may be until it is closed."""
        end = int(self._end.value)
        return Stage(self.shares.bag_size, end), Stage(1, self._num_samples - end)

    @property
    def starts(self) -> tuple[int, ...]:
        """Global index of both stages' first sample."""
        return 0, self.stages[0].num_samples

    @property
    def text(self) -> BagSchedule:
        """Text for the longest superposed stage and for the longest ordinary one."""
        longest = self._samples_of_steps(self.last_switch)
        shortest = self._samples_of_steps(self.first_switch)
        return BagSchedule(
            (Stage(self.shares.bag_size, longest), Stage(1, self._num_samples - shortest))
        )

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
