"""Long series for a screen: fewer points, and no spike lost."""

import numpy as np

from tst_megatron.statistics.interval import Array

MOST_POINTS = 2000


def thin(xs: Array, ys: Array) -> tuple[Array, Array]:
    """At most `MOST_POINTS` points: of every stretch its lowest and its highest.

    Args:
        xs: float64 ``[n]``.
        ys: float64 ``[n]``; points that are not a number are left out where there are too many.
    """
    if xs.size <= MOST_POINTS:
        return xs, ys
    known = np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    stretches = np.array_split(np.arange(xs.size), MOST_POINTS // 2)
    ends = [(s[np.argmin(ys[s])], s[np.argmax(ys[s])]) for s in stretches if s.size]
    kept = np.unique(np.array(ends, dtype=np.int64))
    return xs[kept], ys[kept]
