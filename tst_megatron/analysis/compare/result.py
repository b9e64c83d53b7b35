"""What a comparison found: figures with their intervals, and all that a report shows of them.

Ratios are baseline over candidate: above 1, the candidate needed less. Differences are candidate
minus baseline: below 0, the candidate is ahead.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.runs.run import LossUnit, RecordedRun
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval

_WATTS_A_KILOWATT = 1000.0


class _Claim:
    """A figure of which nothing may be claimed for one reason or another.

    Attributes:
        unlike: why the sides' losses are not alike, the learning rate of one of them having decayed
            and the other's not; empty where nothing is known to be.
        unconfirmed: why it is not known to hold for other runs, a side's learning rate having been
            chosen on those that it is of; empty where it is not.
    """

    unlike: str
    unconfirmed: str

    @property
    def unclaimed(self) -> str:
        """Why nothing is claimed of it; empty where something may be."""
        return self.unlike or self.unconfirmed


@dataclass(frozen=True)
class Needed:
    """What a side needed to get to a loss for good."""

    steps: Interval = Interval()
    flops: Interval = Interval()
    wall_clock_s: Interval = Interval()
    gpu_hours: Interval = Interval()
    data_tokens: Interval = Interval()


CANDIDATE_FINAL, BASELINE_FINAL, BEFORE_DECAY = (
    "candidate_final",
    "baseline_final",
    "candidate_before_decay",
)
"""At which loss the sides are compared: see `EqualLoss.level`."""


@dataclass(frozen=True)
class EqualLoss(_Claim):
    """Both sides at one loss.

    Attributes:
        loss: in the runs' unit, nats a token or bits a byte.
        step_ratio: steps, baseline over candidate.
        flops_ratio: likewise.
        wall_clock_ratio: likewise.
        gpu_hours_ratio: likewise.
        baseline: what the baseline needed.
        candidate: what the candidate needed.
        level: which loss it is: the candidate's final one, the baseline's, or that of the candidate
            where its decay starts.
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
        unlike: as of `_Claim`.
        unconfirmed: likewise.
    """

    loss: Interval = Interval()
    step_ratio: Interval = Interval()
    flops_ratio: Interval = Interval()
    wall_clock_ratio: Interval = Interval()
    gpu_hours_ratio: Interval = Interval()
    baseline: Needed = Needed()
    candidate: Needed = Needed()
    level: str = CANDIDATE_FINAL
    reached: bool = False
    extrapolated: bool = False
    whole_runs: bool = False
    where: str = "along the run"
    rough: bool = False
    at_least: bool = False
    unlike: str = ""
    unconfirmed: str = ""

    def shows(self, ratio: Interval) -> bool:
        """Whether one of its ratios may be claimed: the sides are alike and it is not 1."""
        return not self.unclaimed and not ratio.holds(1)

    @property
    def is_told(self) -> bool:
        """Whether it is known what the baseline needed."""
        return self.flops_ratio.value is not None or self.step_ratio.value is not None

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
class EqualFlops(_Claim):
    """The loss difference at equal FLOPs.

    Attributes:
        loss_difference: at the largest FLOPs count both sides have (the end, where they are equal).
        flops: that count.
        at_end: both sides end there.
        along: FLOPs ``[n]`` of the differences along the run.
        differences: candidate minus baseline there.
        lows: their intervals' lower ends.
        highs: their upper ends.
        unlike: why the losses at the end of that are not alike, as of `_Claim`.
        unconfirmed: as of `_Claim`.
    """

    loss_difference: Interval
    flops: float | None
    at_end: bool
    along: Array
    differences: Array
    lows: Array
    highs: Array
    unlike: str = ""
    unconfirmed: str = ""


@dataclass(frozen=True)
class EqualSteps(_Claim):
    """The loss difference at equal steps, the largest number that both sides have.

    Attributes:
        loss_difference: there.
        steps: that number.
        at_end: both sides end there.
        unlike: why the losses are not alike, as of `_Claim`.
        unconfirmed: as of `_Claim`.
    """

    loss_difference: Interval
    steps: float
    at_end: bool
    unlike: str = ""
    unconfirmed: str = ""


@dataclass(frozen=True)
class EqualData(_Claim):
    """The loss difference at equal data tokens, the largest count both sides have read.

    Attributes:
        loss_difference: there.
        data_tokens: that count.
        unlike: why the losses are not alike, as of `_Claim`.
        unconfirmed: as of `_Claim`.
    """

    loss_difference: Interval
    data_tokens: float | None
    unlike: str = ""
    unconfirmed: str = ""


AT_ENDS, AT_FLOPS, AT_STEPS, AT_LOSS = "ends", "equal_flops", "equal_steps", "equal_loss"
"""Where scores are compared: see `ScoresAt.place`."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of both sides.

    Attributes:
        task: a task's name, or a text's.
        metric: of it.
        higher_is_better: None where it is not known.
        chance: what guessing scores; None where that means nothing.
        baseline: the mean over its runs.
        candidate: likewise.
        difference: candidate minus baseline.
        how: what the difference's error is of, words that stand beside it.
    """

    task: str
    metric: str
    higher_is_better: bool | None
    chance: float | None
    baseline: Interval
    candidate: Interval
    difference: Interval
    how: tuple[str, ...]


@dataclass(frozen=True)
class ScoresAt(_Claim):
    """Scores of both sides at one place of their runs.

    Attributes:
        place: ``ends`` of runs whose FLOPs differ, ``equal_flops``, ``equal_steps`` where FLOPs are
            not known, or ``equal_loss``.
        amount: FLOPs, steps or a loss; None at ``ends``.
        at_end: both sides end there.
        rows: a row a task and metric.
        unlike: why the models are not alike, as of `_Claim`.
        unconfirmed: as of `_Claim`.
    """

    place: str
    amount: float | None
    at_end: bool
    rows: tuple[ScoreRow, ...]
    unlike: str = ""
    unconfirmed: str = ""


@dataclass(frozen=True)
class SavingByLoss:
    """The saving as a function of the loss, along the runs.

    Attributes:
        losses: in the runs' unit ``[n]``, descending, that both sides reached.
        step_ratios: baseline over candidate.
        lows: their intervals' lower ends.
        highs: their upper ends.
        gpu_hours_ratios: baseline over candidate; NaN where a side does not tell its hours.
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
        floor: in the runs' unit.
        scale: likewise, at step 1.
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
    """One candidate group against the baseline.

    Attributes:
        baseline: its groups that are used, by length; the one of the candidate's own length, or
            nearest to it, first.
        candidate: the group.
        equal_loss: the headline: at the candidate's final loss, over whole runs where there are
            several lengths of the baseline, else along the run; extrapolated where need be and
            possible.
        equal_loss_along: at the same loss, along the baseline's run; None where that is the
            headline already, or the run never gets there. Where the candidate's learning rate
            decayed and the baseline's did not, it is at the loss where the candidate's decay
            starts.
        equal_loss_at_baseline: at the baseline's final loss where the candidate ended lower: both
            measured.
        equal_flops: at equal FLOPs.
        equal_steps: at equal steps, where FLOPs are not known; else None.
        equal_data: at equal data tokens.
        saving: by loss.
        fit: of the baseline, where one was made.
        confidence: of the intervals, such as 0.95.
        uncertainty: where the intervals come from, one sentence.
        one_seed: no side has several seeds, so what a seed does is in no interval.
        notes: what a reader should know, a sentence each.
        scores: on tasks and texts, where both sides' runs were evaluated.
        steps_compare: equal steps and tokens are equal work; where they are not, what is of them
            is not told.
    """

    baseline: tuple[Group, ...]
    candidate: Group
    equal_loss: EqualLoss
    equal_loss_along: EqualLoss | None
    equal_loss_at_baseline: EqualLoss | None
    equal_flops: EqualFlops
    equal_data: EqualData
    saving: SavingByLoss
    fit: PowerLaw | None
    confidence: float
    uncertainty: str
    one_seed: bool = False
    notes: tuple[str, ...] = ()
    equal_steps: EqualSteps | None = None
    scores: tuple[ScoresAt, ...] = ()
    steps_compare: bool = True

    @property
    def unit(self) -> LossUnit:
        """Of all its losses and their differences."""
        return self.candidate.runs[0].curve.unit

    @property
    def equal_work(self) -> EqualFlops | EqualSteps:
        """The loss difference where both have worked equally: FLOPs, else steps."""
        return self.equal_flops if self.equal_steps is None else self.equal_steps

    @property
    def unconfirmed(self) -> str:
        """Why nothing of it is known to hold for other runs, as of its figures; or nothing."""
        return self.equal_loss.unconfirmed

    def unclaimed_as(self, unconfirmed: str) -> "Comparison":
        """The same with every figure of it unconfirmed for a reason; for none, as it is."""
        figures = [field.name for field in fields(self) if field.name.startswith("equal_")]
        marked: dict[str, Any] = {
            name: replace(figure, unconfirmed=unconfirmed)
            for name in figures
            if (figure := getattr(self, name)) is not None
        }
        marked["scores"] = tuple(replace(one, unconfirmed=unconfirmed) for one in self.scores)
        return replace(self, **marked) if unconfirmed else self

    def without_steps(self) -> "Comparison":
        """The same without ratios of steps and amounts of tokens, which are other work and other
        text on each side; each side's own number of steps to a loss stays."""
        nothing = np.full_like(self.saving.losses, np.nan)
        told = {
            name: replace(
                equal,
                step_ratio=Interval(),
                baseline=replace(equal.baseline, data_tokens=Interval()),
                candidate=replace(equal.candidate, data_tokens=Interval()),
            )
            for name in ("equal_loss", "equal_loss_along", "equal_loss_at_baseline")
            if (equal := getattr(self, name)) is not None
        }
        return replace(
            self,
            **told,
            saving=replace(self.saving, step_ratios=nothing, lows=nothing, highs=nothing),
            steps_compare=False,
        )


@dataclass(frozen=True)
class Prices:
    """What a GPU hour is taken to need besides time.

    Attributes:
        per_gpu_hour: money, in the user's currency; None if not asked for.
        watts: of one GPU with its share of everything else; None if not asked for.
    """

    per_gpu_hour: float | None = None
    watts: float | None = None

    def cost(self, gpu_hours: Interval) -> Interval:
        """Money for so many GPU hours; empty where there is no price."""
        return _scaled(gpu_hours, self.per_gpu_hour)

    def energy_kwh(self, gpu_hours: Interval) -> Interval:
        """Kilowatt-hours for so many GPU hours; empty where the watts are not known."""
        return _scaled(gpu_hours, None if self.watts is None else self.watts / _WATTS_A_KILOWATT)


@dataclass(frozen=True)
class Findings:
    """What a report shows.

    Attributes:
        baseline: its groups, those first that the first comparison uses; none where a report is
            made before they are there.
        candidate: its groups, the lowest final held-out loss first; likewise.
        comparisons: of each candidate group, in their order; none where a side is missing.
        reasons: why the comparison would be refused, where --force made it all the same.
        notes: what a reader should know, a sentence each.
        prices: for energy and cost.
        clocks_compare: hours of both sides are, as far as is known, of the same hardware.
        other_rates: of each side, the runs of a sweep of the learning rate that are not compared.
    """

    baseline: tuple[Group, ...]
    candidate: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    prices: Prices = Prices()
    clocks_compare: bool = True
    other_rates: tuple[tuple[Group, ...], tuple[Group, ...]] = ((), ())

    @property
    def unit(self) -> LossUnit:
        """Of all its losses."""
        return next((run.curve.unit for _, _, run in self.runs()), LossUnit.NATS)

    @property
    def steps_compare(self) -> bool:
        """Equal steps and tokens are equal work on both sides of every comparison."""
        return all(one.steps_compare for one in self.comparisons)

    def runs(self) -> Iterator[tuple[str, Group, RecordedRun]]:
        """Every run with its side, ``baseline`` or ``candidate``, and its group."""
        sides = (("baseline", self.baseline), ("candidate", self.candidate))
        for (side, groups), others in zip(sides, self.other_rates, strict=True):
            for group in (*groups, *others):
                yield from ((side, group, run) for run in group.runs)


def _scaled(interval: Interval, factor: float | None) -> Interval:
    if factor is None:
        return Interval()
    ends = (interval.value, interval.low, interval.high)
    return Interval(*(None if end is None else end * factor for end in ends))
