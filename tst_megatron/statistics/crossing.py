"""When curves get to a loss for good, many curves at once.

The one idea: the last point above the loss and the one after it are the crossing's two sides, so a
dip that does not last does not count.
"""

import numpy as np

from tst_megatron.statistics.array import Array
from tst_megatron.statistics.smoothing import log_steps


def crossing_steps(steps: Array, curves: Array, levels: Array) -> Array:
    """The step after which each curve stays at or below its level.

    Between two points a curve is straight over the logarithm of the step.

    Args:
        steps: ``[n]``, ascending.
        curves: ``[rows, n]``; infinite where nothing is reached for good.
        levels: ``[rows]``.

    Returns:
        ``[rows]``: infinite where a curve ends above its level, the first step where it was never
        above it, NaN where curve or level hold a NaN.
    """
    places = log_steps(steps)
    above = curves > levels[:, None]
    # The index of the first point after the last one above; 0 where none is.
    after = np.where(above.any(axis=1), len(steps) - np.argmax(above[:, ::-1], axis=1), 0)
    right = np.clip(after, 1, len(steps) - 1) if len(steps) > 1 else np.zeros_like(after)
    left = np.maximum(right - 1, 0)
    rows = np.arange(len(curves))
    high, low = curves[rows, left], curves[rows, right]
    # Where there is no crossing between the two points the share means nothing and is not used.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (high - levels) / (high - low)
        found = np.exp(places[left] + share * (places[right] - places[left]))
    found = np.where(after == 0, steps[0], found)
    # Exactly at a point: its step, not what logarithms make of it.
    at_point = (low == levels) | np.isinf(high)
    found = np.where((after > 0) & at_point, steps[right], found)
    found = np.where(after == len(steps), np.inf, found)
    return np.where(np.isnan(curves).any(axis=1) | np.isnan(levels), np.nan, found)


def values_at(steps: Array, curves: Array, at: Array) -> Array:
    """Curves at a step each, straight over the logarithm of the step; NaN outside their steps.

    Args:
        steps: ``[n]``, ascending.
        curves: ``[rows, n]``.
        at: ``[rows]``, or ``[1]`` for all.
    """
    at = np.broadcast_to(at, len(curves))
    right = np.clip(np.searchsorted(steps, at), 1 if len(steps) > 1 else 0, len(steps) - 1)
    left = np.maximum(right - 1, 0)
    places = log_steps(steps)
    rows = np.arange(len(curves))
    gap = places[right] - places[left]
    share = np.where(gap > 0, (log_steps(at) - places[left]) / np.where(gap > 0, gap, 1), 0)
    values = (1 - share) * curves[rows, left] + share * curves[rows, right]
    return np.where((at >= steps[0]) & (at <= steps[-1]), values, np.nan)
