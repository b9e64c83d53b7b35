"""How long a stage is, as it is written: a share of the run's steps, steps, or tokens of text.

The one idea: a share moves with the length of the run, steps and tokens stay where they are; so a
schedule that is written in these is the same one in a run that is made longer.
"""

import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

SHARE, STEPS, TOKENS = "share", "steps", "tokens"

# As Megatron writes tokens in --step-batch-size-schedule.
_FACTOR_OF_SUFFIX = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_AMOUNT = re.compile(
    r"(?P<number>(\d+\.?\d*|\.\d+)(e\+?\d{1,2})?)(?P<suffix>[kmbt]?)(?P<unit>steps|tokens)",
    re.IGNORECASE | re.ASCII,
)
_SHARE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan", re.IGNORECASE | re.ASCII)
# Shares typed as decimals add up to 1 only within rounding.
_SHARE_TOLERANCE = 1e-9


class ScheduleError(ValueError):
    """A schedule that cannot be run; the message is one sentence for the user."""


@dataclass(frozen=True)
class StageLength:
    """How long a stage is.

    Attributes:
        amount: a share of the steps of the whole run, or a whole number of the unit.
        unit: ``share``, ``steps``, or ``tokens`` of text that are read.
    """

    amount: float
    unit: str = SHARE

    def __str__(self) -> str:
        return f"{self.amount:g}" if self.unit == SHARE else f"{int(self.amount)}{self.unit}"


@dataclass(frozen=True)
class RunLength:
    """What turns the lengths of stages into steps.

    Attributes:
        train_iters: steps of the whole run.
        samples_of_steps: samples consumed in the first n steps (n · global batch size without a
            batch-size ramp), so that stages end between two steps.
        tokens_of_sample: tokens of text that a sample of some bag size reads; None where the
            sequence length is not known.
    """

    train_iters: int
    samples_of_steps: Callable[[int], int]
    tokens_of_sample: Callable[[int], int] | None = None

    def ends_of(self, stages: Sequence[tuple[int, StageLength]]) -> list[int]:
        """After which step each of consecutive stages ends; the last may lie past the run's end.

        Shares are added up before they are rounded, so that no step is lost between two.

        Args:
            stages: bag size and length.

        Raises:
            ScheduleError: tokens cannot be counted.
        """
        share, steps, ends = 0.0, 0, [0]
        for bag_size, length in stages:
            if length.unit == SHARE:
                share += length.amount
            elif length.unit == STEPS:
                steps += int(length.amount)
            else:
                steps += self._steps_of_tokens(bag_size, int(length.amount), ends[-1])
            ends.append(round(share * self.train_iters) + steps)
        return ends[1:]

    def _steps_of_tokens(self, bag_size: int, tokens: int, start: int) -> int:
        """The whole number of steps from a step on that read nearest to so many tokens."""
        if self.tokens_of_sample is None:
            raise ScheduleError("tokens become steps by the sequence length: add --seq-length")
        before = self.samples_of_steps(start)
        of_sample = self.tokens_of_sample(bag_size)

        def read_until(step: int) -> int:
            return (self.samples_of_steps(step) - before) * of_sample

        # One past the run's end is far enough to say that the stage does not fit.
        steps = range(start, max(start, self.train_iters) + 2)
        enough = steps[min(bisect.bisect_left(steps, tokens, key=read_until), len(steps) - 1)]
        if enough > start and tokens - read_until(enough - 1) <= read_until(enough) - tokens:
            enough -= 1
        return enough - start


def parse_lengths(text: str) -> tuple[tuple[int, StageLength], ...]:
    """Read ``16:0.2,4:6000steps,2:1.5Btokens`` as bag sizes and lengths.

    Raises:
        ScheduleError: the text has another form.
    """
    stages = []
    for part in text.split(","):
        bag_size, _, length = part.partition(":")
        try:
            stages.append((parse_bag_size(bag_size), parse_length(length)))
        except ValueError:
            raise ScheduleError(
                f"the stage {part.strip()!r} is not BAG_SIZE:SHARE, BAG_SIZE:Nsteps or "
                "BAG_SIZE:Ntokens: write for example 16:0.2,4:6000steps or 4:2Btokens"
            ) from None
    return tuple(stages)


def parse_bag_size(text: str) -> int:
    """Read a whole number.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"-?\d+", text.strip(), re.ASCII):
        raise ValueError(text)
    return int(text)


def parse_length(text: str) -> StageLength:
    """Read ``0.2``, ``6000steps``, ``6Ksteps`` or ``2Btokens``, in small letters or large.

    Raises:
        ValueError: the text has another form.
    """
    text = text.strip()
    if _SHARE.fullmatch(text):
        return StageLength(float(text))
    written = _AMOUNT.fullmatch(text)
    if written is None:
        raise ValueError(text)
    amount = Decimal(written["number"]) * _FACTOR_OF_SUFFIX[written["suffix"].upper()]
    if amount != int(amount):
        raise ValueError(text)
    return StageLength(int(amount), written["unit"].lower())


def check_lengths(stages: Sequence[tuple[int, StageLength]]) -> None:
    """Check what can be wrong with stages in a run of any length.

    Args:
        stages: bag size and length, in the order of training.

    Raises:
        ScheduleError: there is none, a bag size is below 1, a length is not above 0, or the shares
            sum past 1.
    """
    if not stages:
        raise ScheduleError("the schedule has no stage: name at least one, for example 4:0.3")
    for bag_size, length in stages:
        if bag_size < 1:
            raise ScheduleError(f"bag size {bag_size} is below 1: use 1 or more")
        # Written so that NaN fails too.
        if not length.amount > 0.0:
            what = f"the share {length}" if length.unit == SHARE else f"the length {length}"
            instead = "use a share of the steps between 0 and 1, or steps or tokens above 0"
            raise ScheduleError(
                f"{what} of the stage with bag size {bag_size} is not above 0: {instead}"
            )
    total = sum(length.amount for _, length in stages if length.unit == SHARE)
    if not total <= 1.0 + _SHARE_TOLERANCE:
        raise ScheduleError(
            f"the shares of the stages sum to {total:g}, past 1: lower them to 1 or less, or write "
            "steps as 6000steps"
        )
