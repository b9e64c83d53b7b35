"""How much of its decay of the learning rate a side has behind it, and whether both are alike.

The one idea: a decay at the end takes off a loss what no steps before it could, so a loss after a
decay set beside one before it shows the decay and not the method. Where a side is known to have
decayed and the other not, figures stay and nothing is claimed of them.
"""

from tst_megatron.analysis.compare.group_curve import GroupCurve

# A last evaluation so near to the end is the end.
_WHOLE = 0.99
# Shares of a decay that are as good as equal.
_ALIKE = 0.05


def decay_share(curve: GroupCurve, step: float) -> float | None:
    """The share of its decay that a group has behind it at a step; None if no decay is known of.

    Args:
        curve: of the group.
        step: of its runs; beyond their end as at their end.
    """
    if curve.runs[0].decay_start is None:
        return None
    start, end = curve.decay_start, curve.group.num_steps
    if start is None or step <= start:
        return 0.0
    if (curve.is_whole and step >= _WHOLE * curve.steps[-1]) or end <= start:
        return 1.0
    return float(min((step - start) / (end - start), 1.0))


def why_unlike(baseline: float | None, tst: float | None) -> str:
    """What is wrong with setting the sides beside each other; nothing where nothing is known to be.

    Args:
        baseline: as of `decay_share`.
        tst: likewise.
    """
    if baseline is None or tst is None or abs(baseline - tst) <= _ALIKE:
        return ""
    return f"TST's learning rate {_words(tst)} there and the baseline's {_words(baseline)}"


def _words(share: float) -> str:
    if share in (0, 1):
        return "has decayed" if share else "has not decayed"
    return f"is {100 * share:.0f} % through its decay"
