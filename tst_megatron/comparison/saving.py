"""The saving as a function of the loss: both sides' crossings along their runs."""

import numpy as np

from tst_megatron.comparison.paths import along
from tst_megatron.comparison.resampling import Rows, interval
from tst_megatron.comparison.result import Saving

_LOSSES = 48


def saving(baseline: Rows, tst: Rows, confidence: float) -> Saving:
    """Step ratios at losses from the first that both sides came from above to, down to the last.

    Down to the higher of the two final losses: what both reached, nothing extrapolated.
    """
    start = min(baseline.losses[0, 0], tst.losses[0, 0])
    end = max(baseline.finals[0], tst.finals[0])
    if not start > end:
        nothing = np.array([])
        return Saving(nothing, nothing, nothing, nothing)
    # Close together near the end, where curves are flat and readers look.
    losses = end + (start - end) * np.linspace(1, 0, _LOSSES) ** 2
    paths = along(baseline), along(tst)
    found = []
    for loss in losses:
        theirs, ours = (path.crossing(np.full(len(path.losses), loss)) for path in paths)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(np.isinf(ours), -np.inf, theirs / ours)
        # In a copy where neither side gets there neither is ahead.
        ratios = np.where(np.isinf(theirs) & np.isinf(ours), 1.0, ratios)
        found.append(interval(ratios, confidence))
    ratios, lows, highs = (
        np.array([getattr(one, end) for one in found], dtype=np.float64)
        for end in ("value", "low", "high")
    )
    return Saving(losses, ratios, lows, highs)
