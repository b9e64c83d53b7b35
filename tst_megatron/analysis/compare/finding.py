"""From paths to what a report shows.

The steps it takes: read the runs, group each side by equal settings, ask whether the sides may be
compared, compare every TST group, and put the best one first.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tst_megatron.analysis.compare.comparable import clocks_compare, notes_on, reasons_against
from tst_megatron.analysis.compare.compare import DRAWS, compare
from tst_megatron.analysis.compare.derived import read_sides
from tst_megatron.analysis.compare.findings import Findings, Prices
from tst_megatron.analysis.compare.groups import Group, group, settings_notes
from tst_megatron.analysis.compare.result import Comparison
from tst_megatron.analysis.compare.tables import final_loss
from tst_megatron.errors import UserError
from tst_megatron.runs.run import Run

_NOT_ASKED = Prices()
# Copies beyond each end of an interval, below which their luck is what one sees.
_LEAST_OUTSIDE = 5


def find(
    baseline: Sequence[Path],
    tst: Sequence[Path],
    confidence: float,
    force: bool,
    prices: Prices,
) -> Findings:
    """Compare the runs at some paths.

    Args:
        baseline: of ordinary runs.
        tst: of superposed runs.
        confidence: of the intervals.
        force: compare also where it means nothing; the findings then say why it does not.
        prices: for energy and cost.

    Raises:
        UserError: the confidence is more than can be told, a run cannot be read, or the sides
            should not be compared.
    """
    most = 1 - 2 * _LEAST_OUTSIDE / DRAWS
    if confidence > most:
        raise UserError(
            f"--confidence {confidence:g} is more than {DRAWS:,} draws can tell: give at most "
            f"{most:g}"
        )
    of_baseline, of_tst = read_sides(baseline, tst)
    ours, theirs = group(of_tst, "candidate"), group(of_baseline, "baseline")
    reasons = reasons_against(theirs, ours)
    if reasons and not force:
        found = "; ".join(reason.removesuffix(".") for reason in reasons)
        raise UserError(f"{found}; --force compares all the same and marks the report")
    return _findings(theirs, ours, confidence, tuple(reasons), prices)


def find_so_far(baseline: Sequence[Run], tst: Sequence[Run], confidence: float) -> Findings:
    """Compare runs of which a side may be missing or at its beginning; nothing is refused.

    Args:
        baseline: ordinary runs; none yet, perhaps.
        tst: superposed runs; likewise.
        confidence: of the intervals.
    """
    ours, theirs = group(tst, "candidate"), group(baseline, "baseline")
    if ours and theirs:
        return _findings(theirs, ours, confidence)
    return Findings(tuple(theirs), tuple(ours), (), notes=tuple(notes_on(theirs, ours)))


def _findings(
    theirs: Sequence[Group],
    ours: Sequence[Group],
    confidence: float,
    reasons: tuple[str, ...] = (),
    prices: Prices = _NOT_ASKED,
) -> Findings:
    comparisons = sorted((_compared(theirs, one, confidence) for one in ours), key=_rank)
    used = comparisons[0].baseline
    unused = [one for one in theirs if not any(one is other for other in used)]
    return Findings(
        baseline=(*used, *unused),
        tst=tuple(one.tst for one in comparisons),
        comparisons=tuple(comparisons),
        reasons=reasons,
        notes=tuple(notes_on(theirs, ours)),
        prices=prices,
        clocks_compare=clocks_compare(theirs, ours),
    )


def _compared(theirs: Sequence[Group], ours: Group, confidence: float) -> Comparison:
    found = compare(theirs, ours, confidence=confidence)
    notes = [*found.notes, *settings_notes(found.baseline[0].runs[0], ours.runs[0])]
    return replace(found, notes=tuple(notes))


def _rank(comparison: Comparison) -> float:
    """By TST's final held-out loss; groups without one come last."""
    loss = final_loss(comparison.tst)
    return math.inf if loss is None else loss
