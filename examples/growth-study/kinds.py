"""Kinds of runs at their ends: losses by seed, and how far apart two kinds are at equal FLOPs.

The one idea: a kind is a run apart from its seed, and the seeds are the witnesses. Two kinds are
compared seed by seed, and of what the seeds say the mean is told with Student's interval.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import study as plan
from study import Model, Run, Study

from tst_megatron.experiments.kept import Kept
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.student import mean_of

CONFIDENCE = 0.95
APART = 0.02
"""How far apart FLOPs may be that count as equal, so half of it from the budget either way."""

_SERIES = {
    "stack-new": "stack, new optimizer",
    "upcycle": "upcycled",
    "drop0.5": "upcycled, half dropped",
}


@dataclass(frozen=True)
class Family:
    """Two models, of which the first becomes the second; trained apart they are the controls.

    Attributes:
        name: of it.
        small: the one that is trained on.
        large: the one that is trained from scratch.
        trained_on: what the one control is called.
        from_scratch: what the other is called.
    """

    name: str
    small: Model
    large: Model
    trained_on: str
    from_scratch: str

    @property
    def models(self) -> tuple[Model, Model]:
        """The small and the large one."""
        return self.small, self.large

    def runs(self, study: Study) -> list[Run]:
        """All that the plan knows by now, each once."""
        asked = study.growth() if self.small == plan.SMALL else study.upcycling()
        return list(dict.fromkeys(asked))


FAMILIES = (
    Family("Growth", plan.SMALL, plan.LARGE, "2L trained on", "8L from scratch"),
    Family("Upcycling", plan.DENSE, plan.EXPERTS, "4L dense throughout", "experts from scratch"),
)


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    Attributes:
        loss: held-out, at its end, nats a token; NaN of one that diverged.
        stderr: of the evaluation; NaN where it is not told.
        flops: of all of it, as its ledger counts them; NaN where it does not.
    """

    loss: float
    stderr: float
    flops: float


def read(kept: Kept, run: Run) -> RecordedRun:
    """A run whose ledger is kept.

    Raises:
        UserError: it cannot be read.
    """
    return read_runs([kept.path(run.name)])[0]


def ended(kept: Kept, run: Run) -> Ended | None:
    """What a run came to; None while its ledger is not there."""
    if not kept.has(run.name):
        return None
    curve = read(kept, run).curve
    ends = (curve.losses, curve.stderrs, curve.flops)
    return Ended(*(float(column[-1]) if column.size else math.nan for column in ends))


@dataclass(frozen=True)
class Kind:
    """Runs that differ in nothing but their seed.

    Attributes:
        family: that it is of.
        run: any of them.
        ends: by seed; only those that have a loss.
    """

    family: Family
    run: Run
    ends: Mapping[int, Ended] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In tables."""
        words = [self.series if self.run.change is None else self._at]
        if self.run.bags:
            words.append(f"bags for {100 * self.run.bags:g} %")
        if self.run.rate_after is not None:
            words.append("the large one's rate from there")
        if self.run.length != 1:
            words.append(f"{self.run.length:g} times the FLOPs")
        return ", ".join(words)

    @property
    def _at(self) -> str:
        way, *rest = self.series.split(", ")
        return ", ".join([f"{way} at {100 * self.run.at:g} %", *rest])

    @property
    def series(self) -> str:
        """What it has in common with those that differ in when the model changes."""
        if self.run.change is not None:
            return _SERIES.get(self.run.change.name, self.run.change.name)
        is_small = self.run.model == self.family.small
        return self.family.trained_on if is_small else self.family.from_scratch

    @property
    def is_control(self) -> bool:
        """Whether it is one of the two that all others are held against."""
        return self.run.change is None and not self.run.bags and self.run.length == 1

    @property
    def share(self) -> float:
        """Of the FLOPs that the small model has: all of a small model's, none of a large one's."""
        if self.run.change is not None:
            return self.run.at
        return 1.0 if self.run.model == self.family.small else 0.0

    @cached_property
    def loss(self) -> Interval:
        """The seeds' mean, with their interval."""
        return mean_of([end.loss for end in self.ends.values()], CONFIDENCE)

    @property
    def flops(self) -> float | None:
        """The seeds' mean; None without a run."""
        return mean_of([end.flops for end in self.ends.values()], CONFIDENCE).value


@dataclass(frozen=True)
class Endings:
    """All kinds of a family that have a run, and what does not count.

    Attributes:
        family: that they are of.
        kinds: of the study's length, controls first, then as models change.
        others: controls of other lengths.
        notes: which runs count nowhere, and why, a sentence each.
    """

    family: Family
    kinds: Sequence[Kind]
    others: Sequence[Kind]
    notes: Sequence[str]

    def kind(self, model: Model, bags: float = 0.0) -> Kind | None:
        """Of a model that never changes; None where no run of it counts."""
        found = (one for one in self.kinds if one.run.change is None and one.run.model == model)
        return next((one for one in found if one.run.bags == bags), None)

    @property
    def controls(self) -> tuple[Kind | None, Kind | None]:
        """The small model trained on, and the large one from scratch."""
        return self.kind(self.family.small), self.kind(self.family.large)

    @property
    def bags_of_controls(self) -> float:
        """The share in which controls read bags; 0 where none does."""
        shares = (one.run.bags for one in self.kinds if one.run.change is None and one.run.bags)
        return next(shares, 0.0)

    @property
    def controls_with_bags(self) -> tuple[Kind | None, Kind | None]:
        """The controls that read bags."""
        share = self.bags_of_controls
        small, large = (self.kind(model, share) if share else None for model in self.family.models)
        return small, large

    def without_bags(self, kind: Kind) -> Kind | None:
        """What a kind with bags is without them; None where no run of it counts."""
        plain = replace(kind.run, bags=0.0)
        return next((one for one in self.kinds if one.run == plain), None)


def endings(study: Study, family: Family) -> Endings:
    """Of all runs of a family whose ledgers are there.

    Raises:
        UserError: a ledger cannot be read.
    """
    found: dict[Run, dict[int, Ended]] = {}
    notes = []
    for run in family.runs(study):
        if run.part == "rate" or (end := ended(study.kept, run)) is None:
            continue
        reason = _why_not(run, end)
        if reason:
            notes.append(f"{run.name} counts nowhere: {reason}.")
        else:
            found.setdefault(replace(run, seed=0), {})[run.seed] = end
    kinds = sorted((Kind(family, run, ends) for run, ends in found.items()), key=_place)
    return Endings(
        family,
        [one for one in kinds if one.run.length == 1],
        [one for one in kinds if one.run.length != 1],
        notes,
    )


def _why_not(run: Run, end: Ended) -> str:
    """Why a run is left out of all means; empty where it is not."""
    if not math.isfinite(end.loss):
        return "it ended without a loss"
    if not math.isfinite(end.flops):
        return "its ledger does not count FLOPs"
    budget = run.length * plan.BUDGET
    off = end.flops / budget - 1
    if abs(off) <= APART / 2:
        return ""
    return (
        f"it has {end.flops:.4g} FLOPs, {100 * abs(off):.1f} % {'more' if off > 0 else 'fewer'} "
        f"than the plan's {budget:.4g}, and only within {50 * APART:g} % of that do no two runs "
        f"differ by more than {100 * APART:g} %"
    )


_CHANGES = ("stack", "zero", "stack-new", "upcycle", "drop0.5")


def _place(kind: Kind) -> tuple[float | str, ...]:
    """Controls, ways in the plan's order and others after them, then bags; each by its share."""
    change = kind.run.change
    name = "" if change is None else change.name
    way = 0 if change is None else 1 + ([*_CHANGES, name].index(name))
    own = kind.run.rate_after is not None
    first = -kind.share if change is None else 0.0
    return bool(kind.run.bags), way, name, own, first, kind.run.at, kind.run.bags, kind.run.length


@dataclass(frozen=True)
class Difference:
    """One kind less another, nats a token: below 0 the first is ahead.

    Attributes:
        of_seeds: by seed; of those that both have.
        mean: of them, with Student's interval; without one of a single seed.
        apart: how far the FLOPs of a pair differ at most, as a share.
    """

    of_seeds: Mapping[int, float]
    mean: Interval
    apart: float

    @property
    def is_shown(self) -> bool:
        """Whether it has an interval that does not hold 0."""
        return self.mean.low is not None and not self.mean.holds(0.0)


def difference(kind: Kind, other: Kind | None) -> Difference:
    """A kind less another, by the seeds that both have; of none where the other is not there."""
    seeds = sorted({*kind.ends} & {*(other.ends if other else ())})
    assert other is not None or not seeds
    pairs = {seed: (kind.ends[seed], other.ends[seed]) for seed in seeds} if other else {}
    of_seeds = {seed: ours.loss - theirs.loss for seed, (ours, theirs) in pairs.items()}
    apart = [abs(ours.flops / theirs.flops - 1) for ours, theirs in pairs.values()]
    return Difference(of_seeds, mean_of(of_seeds.values(), CONFIDENCE), max(apart, default=0.0))


def listed(words: Iterable[str]) -> str:
    """As "a", "a and b" or "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
