"""Intervals along a line, and an axis that holds them.

The one idea: an end without a bound is drawn to the edge of the chart, so that nothing looks more
exact than it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tst_megatron.report.chart import Band, Dot
from tst_megatron.statistics.interval import Array

MARGIN = 0.1
_OPEN = " An arrow, or a band up to the chart's edge, goes on beyond it or has no bound that way."
_NONE = " A point without a bar has no interval."


@dataclass(frozen=True)
class Figures:
    """Figures ``[n]`` of one name with their intervals; NaN for an end that has no bound."""

    name: str
    colour: str
    xs: Array
    ys: Array
    lows: Array
    highs: Array

    def bands(self, y_range: tuple[float, float]) -> list[Band]:
        """Between the ends, a band a stretch of figures that have an end."""
        told = np.isfinite(self.ys) & (np.isfinite(self.lows) | np.isfinite(self.highs))
        places = np.flatnonzero(told)
        bottom, top = y_range
        # The other end, and so the figure, may itself be out of sight.
        lows = np.where(np.isfinite(self.lows), self.lows, np.fmin(bottom, self.highs))
        highs = np.where(np.isfinite(self.highs), self.highs, np.fmax(top, self.lows))
        stretches = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        return [
            Band(self.name, self.xs[there], lows[there], highs[there], self.colour)
            for there in stretches
            if there.size
        ]

    @property
    def has_open_end(self) -> bool:
        """Whether an interval has one end only."""
        return bool((np.isfinite(self.lows) != np.isfinite(self.highs)).any())


def around(ys: Array, ends: Iterable[float | None], room: float) -> tuple[float, float]:
    """Limits that hold figures and the ends of their intervals, with a margin.

    Args:
        ys: the figures; those that are not a number do not count.
        ends: None or NaN where there is no bound.
        room: how far an end may move a limit away from the figures, or as far as the figures are
            apart. Further out it would squeeze them.
    """
    ys = ys[np.isfinite(ys)]
    low, high = float(ys.min()), float(ys.max())
    room = max(room, high - low)
    known = np.array([end for end in ends if end is not None and np.isfinite(end)])
    held = np.clip([low, high, *known], low - room, high + room)
    low, high = float(held.min()), float(held.max())
    margin = MARGIN * (high - low) or 0.05
    return low - margin, high + margin


def on_open_ends(
    figures: Sequence[Figures], dots: Sequence[Dot], y_range: tuple[float, float]
) -> str:
    """What a caption has to say of intervals that do not end in sight, or are not there."""
    beyond = any(one.has_open_end for one in figures)
    beyond = beyond or any(dot.edges_beyond(y_range) for dot in dots)
    bare = any(dot.low is None and dot.high is None for dot in dots)
    return (_OPEN if beyond else "") + (_NONE if bare else "")
