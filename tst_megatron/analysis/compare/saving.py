"""The saving as a function of the loss: both sides' crossings along their runs."""

import numpy as np

from tst_megatron.analysis.compare.paths import along
from tst_megatron.analysis.compare.resampling import Rows, interval
from tst_megatron.analysis.compare.result import Saving
from tst_megatron.statistics.interval import Array, Interval

_LOSSES = 48


def saving(baseline: Rows, tst: Rows, confidence: float) -> Saving:
    """Ratios at losses from the first that both sides came from above to, down to the last.

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
    steps, hours = [], []
    for loss in losses:
        theirs, ours = (path.crossing(np.full(len(path.losses), loss)) for path in paths)
        steps.append(interval(_ratios(theirs, ours), confidence))
        paid = baseline.costs_at("gpu_hours", theirs), tst.costs_at("gpu_hours", ours)
        hours.append(interval(_ratios(*paid), confidence))
    return Saving(losses, *_columns(steps), *_columns(hours))


def _ratios(theirs: Array, ours: Array) -> Array:
    """Baseline over TST ``[rows]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.isinf(ours), -np.inf, theirs / ours)
    # In a copy where neither side gets there neither is ahead.
    return np.where(np.isinf(theirs) & np.isinf(ours), 1.0, ratios)


def _columns(found: list[Interval]) -> tuple[Array, Array, Array]:
    """Values and ends; NaN for what is not there."""
    ends = [(one.value, one.low, one.high) for one in found]
    values, lows, highs = np.array(ends, dtype=np.float64).T
    return values, lows, highs
