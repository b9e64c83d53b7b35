"""Runs of equal settings but for the seed, and what sets one such group apart from another.

The one idea: two runs are of one group unless a setting that both tell differs; so a source that
tells little joins in, and nothing that is known to differ is averaged over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tst_megatron.analysis.compare.settings import (
    compare_settings,
    known_differences,
    same_content,
)
from tst_megatron.analysis.compare.stories import is_in_words, settings_of, stories_of, words_of
from tst_megatron.runs.flag_roles import Role
from tst_megatron.runs.rates import BestRate, Seed
from tst_megatron.runs.run import RecordedRun

Side = Literal["baseline", "candidate"]

# Of two lowest rates; a command line has so many digits at least.
_SAME_SHARE = 1e-3
# More are in the page's table of settings.
_SHOWN = 6
_WORDS = {
    "lr": "learning rate",
    "min_lr": "lowest learning rate",
    "global_batch_size": "batch of",
    "seq_length": "sequences of",
    "num_layers": "layers",
    "hidden_size": "hidden size",
    "num_experts": "experts",
}


@dataclass(frozen=True)
class Group:
    """Runs of equal settings but for the seed.

    Attributes:
        name: what sets it apart, such as ``baseline`` or what its method calls its settings.
        runs: one a seed.
        num_steps: of a whole run.
        sweep: of the learning rate, where it was chosen of several.
    """

    name: str
    runs: tuple[RecordedRun, ...]
    num_steps: int
    sweep: "RateSweep | None" = None

    @property
    def rate(self) -> float | None:
        """The peak learning rate; None where it is not told."""
        told = settings_of(self.runs[0]).get("lr") if self.runs else None
        return float(told) if isinstance(told, int | float) and told > 0 else None


@dataclass(frozen=True)
class RateSweep:
    """Runs of one setting and length at several learning rates.

    Attributes:
        name: of the setting, without the rate.
        groups: one a rate, ascending, with all of its runs.
        losses: of each, the mean final loss on `seeds`; NaN where a run of these diverged.
        seeds: that every rate has; empty where none has all, and each loss is of all its runs.
        best: the rate that was chosen, and by which runs.
    """

    name: str
    groups: tuple[Group, ...]
    losses: tuple[float, ...]
    seeds: tuple[Seed, ...]
    best: BestRate

    @property
    def rates(self) -> tuple[float, ...]:
        """Ascending."""
        return tuple(group.rate or 0.0 for group in self.groups)

    @property
    def is_confirmed(self) -> bool:
        """The figures are of other runs than those that the rate was chosen by."""
        return bool(self.best.confirmed_on)


def group(runs: Sequence[RecordedRun], side: Side) -> list[Group]:
    """Put runs of equal settings but for the seed together.

    Args:
        runs: of one side, of any lengths.
        side: what an ordinary run is called depends on it.

    Returns:
        Groups in the order of their first runs, with names that tell them apart.
    """
    groups: list[list[RecordedRun]] = []
    for run in runs:
        # Of every run in it: two that a third is like, as it tells little, may differ.
        equals = next(
            (found for found in groups if all(_is_of(run, other) for other in found)), None
        )
        if equals is None:
            groups.append([run])
        else:
            equals.append(run)
    names = _names(groups, side)
    return [
        Group(name, tuple(found), found[0].num_steps)
        for name, found in zip(names, groups, strict=True)
    ]


def names_of(groups: Sequence[Group], side: Side) -> list[str]:
    """What tells some groups of a side from one another; all that they differ in may be less than
    what sets the groups of the whole side apart."""
    return _names([group.runs for group in groups], side)


def settings_apart(one: Group, other: Group) -> list[str]:
    """Names of the settings that both groups tell and that set them apart.

    Of two lengths, what follows from the length, such as where the decay starts, sets nothing
    apart, nor does a learning rate that was chosen of several at either.
    """
    ours, theirs = one.runs[0], other.runs[0]
    names = _differing(ours, theirs)
    if one.num_steps != other.num_steps:
        names = [name for name in names if not Role.LENGTH.has(name)]
        if one.sweep and other.sweep:
            names = [name for name in names if not Role.RATE.has(name)]
    if words_of(ours) == words_of(theirs):
        return names
    subjects = (story.subject for run in (ours, theirs) for story in stories_of(run))
    return [*dict.fromkeys(subjects), *names]


def settings_notes(
    baseline: RecordedRun, candidate: RecordedRun, both_tuned: bool = False
) -> list[str]:
    """Which settings differ besides the methods', in a sentence; none where none does.

    Of runs of two lengths, what follows from the length is not told.

    Args:
        baseline: a run of its.
        candidate: likewise.
        both_tuned: each side's learning rate was chosen of several, so that it differs rightly.
    """
    found = compare_settings(baseline, candidate)
    values = {name: ends for name, *ends in found.differing}
    both = settings_of(baseline), settings_of(candidate)
    names = [
        name
        for name in found.beyond_methods
        if not Role.CIRCUMSTANCES.has(name)
        and not (baseline.num_steps != candidate.num_steps and Role.LENGTH.has(name))
        and not (both_tuned and Role.RATE.has(name))
        and not (all(name in side for side in both) and same_content(name, *both))
    ]
    if not names:
        return []
    told = [
        name + ("" if "/" in "".join(values[name]) else f" ({' / '.join(values[name])})")
        for name in names[:_SHOWN]
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    methods = dict.fromkeys(s.name for run in (baseline, candidate) for s in stories_of(run))
    besides = f"Besides {' and '.join(methods)} these" if methods else "These"
    return [
        f"{besides} settings differ (baseline / candidate): {', '.join(told)}{more}. "
        "What they do is in every figure."
    ]


def differ_by_rate_alone(one: Group, other: Group) -> bool:
    """Whether two groups of one length are one setting at two learning rates.

    The lowest rate of the decay is the same, or the same share of the highest.
    """
    ours, theirs = one.runs[0], other.runs[0]
    if one.num_steps != other.num_steps or words_of(ours) != words_of(theirs):
        return False
    names = _differing(ours, theirs)
    if "lr" not in names or None in (one.rate, other.rate):
        return False
    return all(map(Role.RATE.has, names)) and ("min_lr" not in names or _follows(one, other))


def _follows(one: Group, other: Group) -> bool:
    """Whether the lowest rates are to each other as the highest are."""
    shares = []
    for group in (one, other):
        lowest = settings_of(group.runs[0])["min_lr"]
        if not isinstance(lowest, int | float) or not group.rate:
            return False
        shares.append(lowest / group.rate)
    return math.isclose(*shares, rel_tol=_SAME_SHARE)


def _is_of(run: RecordedRun, other: RecordedRun) -> bool:
    if run.num_steps != other.num_steps or words_of(run) != words_of(other):
        return False
    return not _differing(run, other)


def _differing(run: RecordedRun, other: RecordedRun) -> list[str]:
    """Settings that set runs of one schedule apart."""
    one, two = settings_of(run), settings_of(other)
    return [
        name
        for name in known_differences(one, two)
        if not is_in_words(name)
        and not Role.CIRCUMSTANCES.has(name)
        and not Role.COMPUTATION.has(name)
        and not same_content(name, one, two)
    ]


def _names(groups: Sequence[Sequence[RecordedRun]], side: Side) -> list[str]:
    """Names of groups, each by one of its runs."""
    firsts = [found[0] for found in groups]
    names = [words_of(found[0]) or _without_methods(found, side) for found in groups]
    if len({run.num_steps for run in firsts}) > 1:
        names = [
            f"{name} of {run.num_steps:,} steps" for name, run in zip(names, firsts, strict=True)
        ]
    others = [
        [run for run, of_run in zip(firsts, names, strict=True) if of_run == name] for name in names
    ]
    full = [
        ", ".join([name, *_apart(run, alike)])
        for name, run, alike in zip(names, firsts, others, strict=True)
    ]
    # Where runs of one name differ only in what some of them do not tell.
    return [
        f"{name} ({run.name})" if full.count(name) > 1 else name
        for name, run in zip(full, firsts, strict=True)
    ]


def _without_methods(runs: Sequence[RecordedRun], side: Side) -> str:
    """What runs are called that tell of no method: ordinary only where they would tell."""
    if side == "candidate" and all(run.tells_methods for run in runs):
        return "ordinary"
    return side


def _apart(run: RecordedRun, alike: Sequence[RecordedRun]) -> list[str]:
    """What sets a run apart from others of its schedule and length, in words."""
    recipe = run.facts.recipe
    is_shared = {other.facts.recipe for other in alike} == {recipe}
    words = [] if recipe is None or is_shared else [recipe]
    settings = settings_of(run)
    names = {
        name
        for other in alike
        if not words or other.facts.recipe == recipe
        for name in _differing(run, other)
    }
    shown = sorted(name for name in names if not Role.LENGTH.has(name))
    return words + [f"{_WORDS.get(name, name)} {_value(settings[name])}" for name in shown]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)
