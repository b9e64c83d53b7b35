"""What a comparison of one TST group with the baseline found: figures with their intervals.

Ratios are baseline over TST: above 1, TST needed less. Differences are TST minus baseline: below 0,
TST is ahead.
"""

from dataclasses import dataclass, field

import numpy as np

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.statistics.interval import Array, Interval


@dataclass(frozen=True)
class Needed:
    """What a side needed to get to a loss for good."""

    steps: Interval = Interval()
    flops: Interval = Interval()
    wall_clock_s: Interval = Interval()
    gpu_hours: Interval = Interval()
    data_tokens: Interval = Interval()


TST_FINAL, BASELINE_FINAL, BEFORE_DECAY = "tst_final", "baseline_final", "tst_before_decay"
"""At which loss the sides are compared: see `EqualLoss.level`."""


@dataclass(frozen=True)
class EqualLoss:
    """Both sides at one loss.

    Attributes:
        loss: nats a token.
        step_ratio: steps, baseline over TST.
        flops_ratio: likewise.
        wall_clock_ratio: likewise.
        gpu_hours_ratio: likewise.
        baseline: what the baseline needed.
        tst: what TST needed.
        level: which loss it is: TST's final one, the baseline's, or that of TST where its decay
            starts.
        reached: the baseline reached the loss.
        extrapolated: the baseline's figures come from a fitted power law beyond what it ran.
        whole_runs: the baseline's come from runs of several lengths, each with a decay of its own;
            else from inside one run.
        where: that in words, for tables: ``whole runs``, ``whole runs, by a fitted law`` (of one
            length, or outside the lengths), ``inside the stable phase``, ``inside the decay`` or
            ``along the run`` where no decay is known.
        rough: it is a rough guide: by a law of a curve whose learning rate decays all along, which
            is not what whole runs of other lengths end with. Its interval does not know that.
        at_least: the baseline did not get there in its longest run, and no law says when it would:
            its figures and the ratios are what it spent at least.
        unlike: why the sides' losses are not alike, the learning rate of one of them having decayed
            and the other's not; empty where nothing is known to be. Nothing is claimed then.
    """

    loss: Interval = Interval()
    step_ratio: Interval = Interval()
    flops_ratio: Interval = Interval()
    wall_clock_ratio: Interval = Interval()
    gpu_hours_ratio: Interval = Interval()
    baseline: Needed = Needed()
    tst: Needed = Needed()
    level: str = TST_FINAL
    reached: bool = False
    extrapolated: bool = False
    whole_runs: bool = False
    where: str = "along the run"
    rough: bool = False
    at_least: bool = False
    unlike: str = ""

    def shows(self, ratio: Interval) -> bool:
        """Whether one of its ratios may be claimed: the sides are alike and it is not 1."""
        return not self.unlike and not ratio.holds(1)

    @property
    def by_clock_alone(self) -> bool:
        """Hours show what operations (steps, where those are not known) do not.

        The machine was slower for one side then, or a step of one side costs more: either way what
        hours show is not the method's saving.
        """
        work = self.step_ratio if self.flops_ratio.value is None else self.flops_ratio
        if work.value is None:
            return False
        hours = [one for one in (self.gpu_hours_ratio, self.wall_clock_ratio) if self.shows(one)]
        return any(not self.shows(work) or (one.value or 0) > 1 > work.value for one in hours)


@dataclass(frozen=True)
class EqualFlops:
    """The loss difference at equal FLOPs.

    Attributes:
        loss_difference: at the largest FLOPs count both sides have (the end, where they are equal).
        flops: that count.
        at_end: both sides end there.
        along: FLOPs ``[n]`` of the differences along the run.
        differences: TST minus baseline there.
        lows: their intervals' lower ends.
        highs: their upper ends.
        unlike: why the losses at the end of that are not alike, as of `EqualLoss`.
    """

    loss_difference: Interval
    flops: float | None
    at_end: bool
    along: Array
    differences: Array
    lows: Array
    highs: Array
    unlike: str = ""


@dataclass(frozen=True)
class EqualData:
    """The loss difference at equal data tokens, the largest count both sides have read.

    Attributes:
        loss_difference: there.
        data_tokens: that count.
        unlike: why the losses are not alike, as of `EqualLoss`.
    """

    loss_difference: Interval
    data_tokens: float | None
    unlike: str = ""


@dataclass(frozen=True)
class Saving:
    """The saving as a function of the loss, along the runs.

    Attributes:
        losses: nats a token ``[n]``, descending, that both sides reached.
        step_ratios: baseline over TST.
        lows: their intervals' lower ends.
        highs: their upper ends.
        gpu_hours_ratios: baseline over TST; NaN where a side does not tell its hours.
        gpu_hours_lows: their intervals' lower ends.
        gpu_hours_highs: their upper ends.
    """

    losses: Array
    step_ratios: Array
    lows: Array
    highs: Array
    gpu_hours_ratios: Array = field(default_factory=lambda: np.array([]))
    gpu_hours_lows: Array = field(default_factory=lambda: np.array([]))
    gpu_hours_highs: Array = field(default_factory=lambda: np.array([]))


@dataclass(frozen=True)
class PowerLaw:
    """``loss = floor + scale * steps**-exponent``, fitted to a baseline.

    Attributes:
        floor: nats a token.
        scale: nats a token at step 1.
        exponent: above 0.
        fitted_on: what it was fitted on, in words.
        first_step: of the points it was fitted on.
        last_step: likewise.
    """

    floor: float
    scale: float
    exponent: float
    fitted_on: str
    first_step: float
    last_step: float


@dataclass(frozen=True)
class Comparison:
    """One TST group against the baseline.

    Attributes:
        baseline: its groups that are used, by length; the one of TST's own length, or nearest to
            it, first.
        tst: the group.
        equal_loss: the headline: at TST's final loss, over whole runs where there are several
            lengths of the baseline, else along the run; extrapolated where need be and possible.
        equal_loss_along: at the same loss, along the baseline's run; None where that is the
            headline already, or the run never gets there. Where TST's learning rate decayed and
            the baseline's did not, it is at the loss where TST's decay starts.
        equal_loss_at_baseline: at the baseline's final loss where TST ended lower: both measured.
        equal_flops: at equal FLOPs.
        equal_data: at equal data tokens.
        saving: by loss.
        fit: of the baseline, where one was made.
        confidence: of the intervals, such as 0.95.
        uncertainty: where the intervals come from, one sentence.
        one_seed: no side has several seeds, so what a seed does is in no interval.
        notes: what a reader should know, a sentence each.
    """

    baseline: tuple[Group, ...]
    tst: Group
    equal_loss: EqualLoss
    equal_loss_along: EqualLoss | None
    equal_loss_at_baseline: EqualLoss | None
    equal_flops: EqualFlops
    equal_data: EqualData
    saving: Saving
    fit: PowerLaw | None
    confidence: float
    uncertainty: str
    one_seed: bool = False
    notes: tuple[str, ...] = ()
