"""Whether two sides can be compared at all, and what a reader must know where they can.

The one idea: a comparison means nothing only where a fact that both sides tell differs: the model,
the tokenizer, the held-out text or the batch. What a side does not tell is taken to be the same,
and said. Of several tokenizers losses mean the same in bits a byte alone (`in_bits`), and then the
text must be known to be the same.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tst_megatron.analysis.compare.group_curve import diverged, runs_used
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.in_bits import bits_notes, tokenizers_differ, why_no_bits
from tst_megatron.analysis.compare.settings import tells_flags
from tst_megatron.analysis.compare.stories import (
    differences_between,
    every_story,
    settings_of,
    stories_of,
)
from tst_megatron.methods.story import Story
from tst_megatron.runs.facts import TOPICS, Topic
from tst_megatron.runs.run import RecordedRun, is_same_run

_BECAUSE = {
    "model": "The models differ",
    "tokenizer": "The tokenizers differ, so a loss a token is not of the same thing",
    "held-out text": "The held-out losses are not of the same text",
    "batch": "The batches differ, so a step is not a step",
}
_SHOWN_FACTS = 3
_SHOWN_HASH = 12


def reasons_against(baseline: Sequence[Group], candidate: Sequence[Group]) -> list[str]:
    """What makes a comparison meaningless, a sentence each; empty where nothing does.

    Args:
        baseline: groups of one side.
        candidate: groups of the other.
    """
    reasons = []
    for side, groups in (("baseline", baseline), ("candidate", candidate)):
        all_runs = [run for found in groups for run in found.runs]
        if not any(map(_num_losses, all_runs)):
            paths = ", ".join(str(run.path) for run in all_runs)
            reasons.append(f"The {side} has no held-out loss in {paths}.")
        elif any(map(diverged, all_runs)) and not any(map(runs_used, groups)):
            steps = ", ".join(
                f"step {run.curve.steps[-1]:,.0f} of {run.path}"
                for run in filter(diverged, all_runs)
            )
            reasons.append(
                f"The {side} diverged at the end: its held-out loss is not finite at {steps}."
            )
    runs = [(found, run) for found in (*baseline, *candidate) for run in found.runs]
    reasons += _on_both_sides(baseline, candidate)
    reasons += _known_differences(runs)
    theirs = [_stories(found) for found in baseline]
    if all(theirs) and not any(_stories(found) or not _tells(found) for found in candidate):
        reasons += [story.swapped for found in theirs[:1] for story in found[:1]]
    return reasons


def _known_differences(runs: Sequence[tuple[Group, RecordedRun]]) -> Iterator[str]:
    """What the losses and steps of any two runs are known to differ in, a sentence a topic."""
    every = [run for _, run in runs]
    if not tokenizers_differ(every):
        for topic in TOPICS:
            yield from _first_difference(topic, runs)
        return
    yield from _first_difference("model", runs)
    # Whose batches and held-out ids differ anyway: text is compared, and FLOPs.
    if (reason := why_no_bits(every)) is not None:
        for found in _first_difference("tokenizer", runs):
            yield f"{found.removesuffix('.')}; nor do they compare in bits a byte, as {reason}."


def notes_on(baseline: Sequence[Group], candidate: Sequence[Group]) -> list[str]:
    """What a reader of a comparison must know of the runs in it, a sentence each.

    Args:
        baseline: groups of one side.
        candidate: groups of the other.
    """
    groups = [*baseline, *candidate]
    notes = bits_notes([run for found in groups for run in found.runs])
    notes += [note for found in groups for note in _notes_on_group(found)]
    notes += [story.on_both_sides(found.name) for found in baseline for story in _stories(found)]
    *first, last = (story.absence for story in every_story())
    absence = f"{', '.join(first)} and {last}" if first else last
    notes += [
        f'"{found.name}" {absence}: the comparison is of two ordinary runs.'
        for found in candidate
        if not _stories(found) and _tells(found)
    ]
    notes += [
        f'"{found.name}" does not tell by which methods it was trained: it may be an ordinary run '
        "or not, and how much text it read is not known."
        for found in groups
        if not _tells(found)
    ]
    notes += _hours_note([run for found in groups for run in found.runs])
    notes += _same_behind_the_text([run for found in groups for run in found.runs])
    hardware = _hardware_difference([run for found in groups for run in found.runs])
    if hardware is not None:
        notes.append(
            f"The runs had different hardware ({hardware}): their hours say more of that than of "
            "the method, while steps, FLOPs and losses compare."
        )
    return notes


def clocks_compare(baseline: Sequence[Group], candidate: Sequence[Group]) -> bool:
    """Whether wall-clock and GPU hours mean something: no run is known to differ in hardware.

    Args:
        baseline: groups of one side.
        candidate: groups of the other.
    """
    runs = [run for found in (*baseline, *candidate) for run in found.runs]
    return _hardware_difference(runs) is None


def _on_both_sides(baseline: Sequence[Group], candidate: Sequence[Group]) -> Iterator[str]:
    """Every run that is on both sides, in a sentence."""
    for theirs in (run for found in baseline for run in found.runs):
        for ours in (run for found in candidate for run in found.runs):
            if is_same_run(theirs, ours):
                where = [f'"{run.name}" ({run.path})' for run in (theirs, ours)]
                what = where[0] if where[0] == where[1] else " and ".join(where)
                one_of = ", of an export as FILE.csv:RUN" if theirs.source == "wandb" else ""
                yield (
                    f"A run would be compared with itself: {what} is on both sides, so name the "
                    f"runs of each{one_of}."
                )


def _tells(found: Group) -> bool:
    """Whether it is known of all its runs by which methods they were trained."""
    return all(run.tells_methods for run in found.runs)


def _hours_note(runs: Sequence[RecordedRun]) -> Iterator[str]:
    """What the hours of a ledger hold and others do not."""
    timed = {run.source for run in runs if np.isfinite(run.curve.wall_clock_s).any()}
    if "ledger" in timed and len(timed) > 1:
        yield (
            "Hours are not all of one kind: those of ledgers hold start-up and what restarts lost, "
            "and those of TensorBoard and W&B do not."
        )


def _same_behind_the_text(runs: Sequence[RecordedRun]) -> Iterator[str]:
    """What was trained for the text of all runs alike, which is no difference between them."""
    behind = [tuple(one for one in run.facts.parents if one.what is not None) for run in runs]
    if behind and all(one == behind[0] for one in behind):
        for parent in behind[0]:
            yield (
                f"The text of all runs needs {parent.what}: it is in both sides alike, and no "
                "difference between them is of it."
            )


def _first_difference(topic: Topic, runs: Sequence[tuple[Group, RecordedRun]]) -> Iterator[str]:
    """The first two runs that differ in a topic, in a sentence."""
    for (group, run), (other_group, other) in combinations(runs, 2):
        if found := differences_between(topic, run, other):
            told = ", ".join(
                f'{name} is {_shown(ours)} in "{group.name}" and {_shown(theirs)} in '
                f'"{other_group.name}"'
                for name, ours, theirs in found[:_SHOWN_FACTS]
            )
            more = len(found) - _SHOWN_FACTS
            yield f"{_BECAUSE[topic]}: {told}{f' and {more} more' if more > 0 else ''}."
            return


def _notes_on_group(found: Group) -> Iterator[str]:
    untold = [topic for topic in TOPICS if not any(run.facts.topics[topic] for run in found.runs)]
    if untold:
        *most, last = untold
        listed = f"{', '.join(most)} or {last}" if most else last
        yield f'"{found.name}" does not tell its {listed}: taken to be the same as the others\'.'
    names = {name for run in found.runs if (name := run.facts.name_of_untold_tokenizer)}
    if names:
        listed = ", ".join(f'"{name}"' for name in sorted(names))
        yield (
            f'"{found.name}" tells its tokenizer by name alone ({listed}): taken to hold the same '
            "as the others'."
        )
    if len(found.runs) > 1 and not all(tells_flags(settings_of(run)) for run in found.runs):
        listed = ", ".join(run.name for run in found.runs)
        yield (
            f'The runs of "{found.name}" ({listed}) do not all tell their settings: they are taken '
            "for seeds of one setting, so compare them one by one if they are not."
        )
    seeds = Counter(run.facts.seed for run in found.runs)
    for seed, times in seeds.items():
        if seed is not None and times > 1:
            yield (
                f'{times} runs of "{found.name}" have seed {seed}: each counts as a sample of its '
                "own."
            )
    for run in found.runs:
        if _num_losses(run) == 1:
            yield f"{run.name} has a single held-out loss: nothing along its run can be compared."
        done = int(max([0, *run.steps.steps[-1:], *run.curve.steps[-1:]]))
        if done < run.num_steps:
            yield f"{run.name} ended at step {done:,} of {run.num_steps:,}."


def _num_losses(run: RecordedRun) -> int:
    """Held-out losses that are numbers."""
    return int(np.isfinite(run.curve.losses).sum())


def _stories(found: Group) -> list[Story]:
    """Of the methods that change something in its runs."""
    by_name = {story.name: story for run in found.runs for story in stories_of(run)}
    return list(by_name.values())


def _hardware_difference(runs: Sequence[RecordedRun]) -> str | None:
    """The first differing fact in words; None without one."""
    for name, words in (("device", "{}"), ("world_size", "{} ranks")):
        told = dict.fromkeys(
            str(run.facts.hardware[name]) for run in runs if name in run.facts.hardware
        )
        if len(told) > 1:
            return " and ".join(words.format(value) for value in told)
    return None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, str) and len(value) == 64:
        return value[:_SHOWN_HASH]
    return f"{value:,}" if type(value) is int else str(value)
