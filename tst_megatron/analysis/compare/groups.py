"""Runs of equal settings but for the seed, and what sets one such group apart from another.

The one idea: two runs are of one group unless a setting that both tell differs; so a source that
tells little joins in, and nothing that is known to differ is averaged over.
"""

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
from tst_megatron.runs.run import RecordedRun

Side = Literal["baseline", "candidate"]

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
    """

    name: str
    runs: tuple[RecordedRun, ...]
    num_steps: int


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


def settings_apart(one: Group, other: Group) -> list[str]:
    """Names of the settings that both groups tell and that set them apart.

    Of two lengths, what follows from the length, such as where the decay starts, sets nothing
    apart.
    """
    ours, theirs = one.runs[0], other.runs[0]
    names = _differing(ours, theirs)
    if one.num_steps != other.num_steps:
        names = [name for name in names if not Role.LENGTH.has(name)]
    if words_of(ours) == words_of(theirs):
        return names
    subjects = (story.subject for run in (ours, theirs) for story in stories_of(run))
    return [*dict.fromkeys(subjects), *names]


def settings_notes(baseline: RecordedRun, candidate: RecordedRun) -> list[str]:
    """Which settings differ besides the methods', in a sentence; none where none does.

    Of runs of two lengths, what follows from the length is not told.
    """
    found = compare_settings(baseline, candidate)
    values = {name: (theirs, ours) for name, theirs, ours in found.differing}
    both = settings_of(baseline), settings_of(candidate)
    names = [
        name
        for name in found.beyond_methods
        if not Role.CIRCUMSTANCES.has(name)
        and not (baseline.num_steps != candidate.num_steps and Role.LENGTH.has(name))
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
