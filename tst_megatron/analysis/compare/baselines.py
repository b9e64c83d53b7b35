"""Which of several baselines a candidate is held against: one setting, the strongest.

The one idea: a saving over a poor baseline persuades nobody, so of several settings the one counts
that ends lowest at the length nearest the candidate's, whatever order they were given in.
"""

import math
from collections.abc import Sequence

import numpy as np

from tst_megatron.analysis.compare.group_curve import GroupCurve, group_curve
from tst_megatron.analysis.compare.groups import Group, settings_apart
from tst_megatron.analysis.compare.in_bits import steps_compare
from tst_megatron.analysis.compare.rates import at_rate_of

_SHOWN = 4


def strongest(groups: Sequence[Group], candidate: Group) -> tuple[tuple[Group, ...], list[str]]:
    """The baseline's groups of one setting, and what is said of the others.

    Settings that both tell and that do not follow from the length part two groups; what one does
    not tell parts nothing, nor do learning rates that were chosen of several at either length.

    Args:
        groups: of the baseline, of any settings and lengths.
        candidate: the group that they are held against.

    Returns:
        One group a length, the one of the candidate's own length, or nearest to it, first
        (in FLOPs, where steps do not compare); the others ascending in length, and last those
        without a held-out loss at their end.
    """
    if not groups:
        return (), []
    curves = {id(group): group_curve(group) for group in groups}
    by_steps = steps_compare([run for one in (*groups, candidate) for run in one.runs])

    def length(group: Group) -> float:
        return max(float(group.num_steps) if by_steps else _flops(group), 1.0)

    def rank(group: Group) -> tuple[float, bool, float, str]:
        curve = curves[id(group)]
        apart = abs(math.log(length(group) / length(candidate)))
        return apart, curve is None or not curve.is_whole, _final(curve), group.name

    known = sorted((group for group in groups if curves[id(group)] is not None), key=rank)
    if not known:
        return tuple(groups), []
    first = known[0]
    used: dict[int, Group] = {}
    for group in known:
        of_setting = group if group is first else at_rate_of(first, group)
        if of_setting is not None:
            used.setdefault(group.num_steps, of_setting)
    others = sorted(
        (group for group in used.values() if group is not first), key=lambda group: group.num_steps
    )
    unknown = [group for group in groups if curves[id(group)] is None]
    notes = [
        f'The baseline "{group.name}" is not used: {_why(first, group)}.'
        for group in known
        if not any(group is one for one in used.values())
    ]
    return (first, *others, *unknown), notes


def _why(first: Group, group: Group) -> str:
    names = settings_apart(first, group)
    if not names:
        return "another of its length ended lower"
    more = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    lower = ", which ended lower" if first.num_steps == group.num_steps else ""
    return f'its settings are not those of "{first.name}"{lower} ({listed})'


def _flops(group: Group) -> float:
    """Spent at the last evaluation; 0 where that is not known."""
    spent = [run.curve.flops[-1] for run in group.runs if run.curve.flops.size]
    return float(np.nan_to_num(np.mean(spent))) if spent else 0.0


def _final(curve: GroupCurve | None) -> float:
    return math.inf if curve is None else float(np.mean(curve.losses[:, -1]))
