"""Whether lines of an export that name no run are of one run.

The one idea: lines stand in the order in which they were logged. A run that was started again goes
back to a step that it had passed, evaluates where it had evaluated, and gets further than before.
Whatever goes back otherwise is taken for another run: read as one, either's losses would stand in
for the other's.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

# Lines in an order of their own go back about every second time.
_FEWEST_IN_A_ROW = 4


class Evaluation(NamedTuple):
    """A line with a held-out loss: its number in the file, and all its cells."""

    line: int
    step: int
    loss: float
    cells: Sequence[str]


def why_several(told: Sequence[Evaluation], unread: Mapping[int, str]) -> str | None:
    """Why evaluations are taken for those of several runs.

    Args:
        told: in the order of the file.
        unread: names of the columns that nothing is read of, by their place.

    Returns:
        What goes on after "in the file"; None where they may be of one run.
    """
    first: dict[tuple[int, float], Evaluation] = {}
    losses: dict[int, set[float]] = {}
    for one in told:
        first.setdefault((one.step, one.loss), one)
        losses.setdefault(one.step, set()).add(one.loss)
    # A line that says what one before it said changes nothing.
    found = list(first.values())
    several = [step for step, of_step in losses.items() if len(of_step) > 1]
    if len(several) > 1 and (2 * len(several) > len(losses) or min(losses) in several):
        return f"several held-out losses at {len(several)} of {len(losses)} steps"
    backs = [at for at, (one, two) in enumerate(pairwise(found), 1) if two.step < one.step]
    if not several and _FEWEST_IN_A_ROW * (len(backs) + 1) > len(found):
        # In whatever order, every step has one loss.
        return None
    for at in backs:
        before, after = found[:at], found[at:]
        why = _changes_with(before, after, unread) or _goes_on_otherwise(
            [one.step for one in before], [one.step for one in after], bool(several)
        )
        if why is not None:
            return (
                f"steps that go back from {found[at - 1].step:,} to {found[at].step:,} in line "
                f"{found[at].line}, {why}"
            )
    return None


def _changes_with(
    before: Sequence[Evaluation], after: Sequence[Evaluation], unread: Mapping[int, str]
) -> str | None:
    """The column that says something else from there on, as one does that names a group."""
    for at, head in unread.items():
        ours, theirs = (
            [cell for one in lines if (cell := one.cells[at].strip())] for lines in (before, after)
        )
        # What has a text of its own in every line names none.
        repeats = all(len(set(cells)) < len(cells) for cells in (ours, theirs))
        if repeats and set(ours).isdisjoint(theirs) and not any(map(_is_number, ours + theirs)):
            return f'where "{head}" changes'
    return None


def _goes_on_otherwise(before: Sequence[int], after: Sequence[int], replays: bool) -> str | None:
    """How steps after a step back are not those of a run that was started again.

    Args:
        before: steps up to there.
        after: steps from there on.
        replays: steps have several losses.
    """
    if replays and after[0] <= min(before):
        return "where they began"
    if replays and max(after) <= max(before):
        return f"and never get past {max(before):,}"
    ours = {step for step in before if min(after) <= step <= max(after)}
    theirs = {step for step in after if min(before) <= step <= max(before)}
    fewest = min(len(ours), len(theirs))
    if fewest > 1 and 2 * len(ours & theirs) <= fewest:
        return "and are others from there on"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
