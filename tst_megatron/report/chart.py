"""A chart as a value: what is in it, apart from how it is drawn.

The one idea: the page's zoomable chart and the picture (printed, in a PNG, without JavaScript) are
drawn from this same value, so they cannot tell different things. Nor does anything look more exact
than it is: an end of an interval without a bound is drawn to the edge of the chart, and a series
that is thinned for a screen keeps its spikes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_megatron.statistics.array import Array

INK, SOFT, GRID = "#1f2328", "#59636e", "#e4e7eb"
"""Colours of what is read, what stands back, and the grid."""
BAND_OPACITY, FAINT = 0.18, 0.45
"""Opacities of bands and of faint lines."""
LETTERS_ACROSS = 76
"""Of a rule's text, as many as are as wide as the axes of a picture."""
MOST_POINTS = 2000
"""Of a series on a screen: see `thin`."""
MARGIN = 0.1
"""Of an axis beyond what it holds, as a share of that: see `around`."""
_ROUNDING = 1e-12
_OPEN = " An arrow, or a band up to the chart's edge, goes on beyond it or has no bound that way."
_NONE = " A point without a bar has no interval."


@dataclass(frozen=True)
class Line:
    """Points joined by straight lines.

    Attributes:
        name: in the legend; lines and bands of one name are one entry.
        xs: float64 ``[n]``.
        ys: float64 ``[n]``; NaN leaves a gap.
        colour: as #rrggbb.
        width: in points of a picture.
        dash: of the stroke.
        marked: every point is marked.
        faint: behind others, such as one seed of several.
    """

    name: str
    xs: Array
    ys: Array
    colour: str
    width: float = 2.0
    dash: Literal["solid", "dash", "dot"] = "solid"
    marked: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Band:
    """What lies between two curves ``[n]``."""

    name: str
    xs: Array
    lows: Array
    highs: Array
    colour: str


@dataclass(frozen=True)
class Dot:
    """One figure with its interval: a bar to each end, an arrow where it goes on beyond the chart.

    Attributes:
        name: what it is.
        x: where.
        y: the figure.
        low: the interval's lower end; None where it has no bound that way.
        high: its upper end, likewise; without either end there is no interval.
        colour: as #rrggbb.
        listed: it has an entry in the legend, besides its group's line.
    """

    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    colour: str
    listed: bool = True

    def edges_beyond(self, y_range: tuple[float, float] | None) -> tuple[float, ...]:
        """The ys of the chart's edges that the interval goes on beyond, or has no bound towards."""
        if y_range is None or (self.low is None and self.high is None):
            return ()
        bottom, top = y_range
        below = [bottom] if self.low is None or self.low < bottom else []
        above = [top] if self.high is None or self.high > top else []
        return (*below, *above)


@dataclass(frozen=True)
class Beyond:
    """Points of a line outside the range that is shown, each marked at the edge that hides it.

    Attributes:
        name: of the line.
        xs: float64 ``[n]``.
        ys: float64 ``[n]``, beyond the edge.
        edge: its y.
        colour: as #rrggbb.
    """

    name: str
    xs: Array
    ys: Array
    edge: float
    colour: str

    @property
    def is_above(self) -> bool:
        """Whether the edge is the upper one."""
        return bool(self.ys[0] > self.edge)


@dataclass(frozen=True)
class Rule:
    """A straight line across the chart with words at its end.

    Attributes:
        at: where it crosses its axis.
        across: ``x`` for an upright line at an x, ``y`` for a level one at a y.
        text: beside it.
        at_foot: the text of an upright line stands at its foot, where others have theirs on top.
        along: it runs along the upright line, inside the chart, so that many are told apart.
    """

    at: float
    across: Literal["x", "y"]
    text: str
    at_foot: bool = False
    along: bool = False

    @property
    def is_on_top(self) -> bool:
        """Whether its text stands above the axes."""
        return self.across == "x" and not (self.at_foot or self.along)


@dataclass(frozen=True)
class Arrow:
    """A level arrow from one amount to another, and what that is.

    Attributes:
        start: x.
        end: x.
        y: of both.
        text: below it, in lines.
    """

    start: float
    end: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: of its element on the page, such as ``loss-gpu-hours``.
        title: what it shows.
        alt: in a sentence, for who does not see it.
        caption: how to read it.
        x_label: with the unit.
        y_label: with the unit.
        lines: in the order of the legend.
        bands: behind the lines.
        dots: above them.
        beyond: marks at the edges.
        rules: thin.
        arrows: thin.
        x_range: what is shown at first, from left to right; a falling one turns the axis round.
        y_range: what is shown at first, from the bottom.
        x_log: whether equal ratios of x are equally wide, not equal differences. Such a chart has
            no arrows.
        x_ticks: the xs that are marked; none to mark round numbers.
    """

    name: str
    title: str
    alt: str
    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    bands: tuple[Band, ...] = ()
    dots: tuple[Dot, ...] = ()
    beyond: tuple[Beyond, ...] = ()
    rules: tuple[Rule, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_log: bool = False
    x_ticks: tuple[float, ...] = ()

    @property
    def rows(self) -> list[int]:
        """Of each rule, how many rows its text on top stands above the axes, so that none of them
        covers another."""
        rows, ends = [0] * len(self.rules), list[float]()
        on_top = [n for n, rule in enumerate(self.rules) if rule.text and rule.is_on_top]
        for number in sorted(on_top, key=lambda n: self._across(self.rules[n].at)):
            middle = self._across(self.rules[number].at)
            half = len(self.rules[number].text) / LETTERS_ACROSS / 2
            row = next((n for n, end in enumerate(ends) if end <= middle - half), len(ends))
            ends[row:] = [middle + half, *ends[row + 1 :]]
            rows[number] = row
        return rows

    def _across(self, x: float) -> float:
        """As a share of the axis."""
        if self.x_range is None:
            return x
        ends = [*self.x_range, x]
        if self.x_log:
            ends = [float(np.log(one)) for one in ends]
        return (ends[2] - ends[0]) / (ends[1] - ends[0])

    @property
    def legend(self) -> list[str]:
        """Names of the legend's entries, in their order."""
        dots = (dot.name for dot in self.dots if dot.listed)
        return list(dict.fromkeys([*(line.name for line in self.lines), *dots]))


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
    # Figures that rounding alone keeps apart have no margin that a float holds, nor have those that
    # are apart by the least numbers that there are.
    least = max(_ROUNDING * max(abs(low), abs(high)), float(np.finfo(float).tiny))
    apart = high - low > least
    margin = MARGIN * (high - low) if apart else 0.05
    return low - margin, high + margin


def on_open_ends(
    figures: Sequence[Figures], dots: Sequence[Dot], y_range: tuple[float, float]
) -> str:
    """What a caption has to say of intervals that do not end in sight, or are not there."""
    beyond = any(one.has_open_end for one in figures)
    beyond = beyond or any(dot.edges_beyond(y_range) for dot in dots)
    bare = any(dot.low is None and dot.high is None for dot in dots)
    return (_OPEN if beyond else "") + (_NONE if bare else "")


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
