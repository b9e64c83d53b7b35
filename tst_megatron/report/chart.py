"""A chart as a value: what is in it, apart from how it is drawn.

The one idea: the page's zoomable chart and the still picture (printed, in a PNG, without
JavaScript) are drawn from this same value, so they cannot tell different things.
"""

from dataclasses import dataclass
from typing import Literal

from tst_megatron.statistics.interval import Array


@dataclass(frozen=True)
class Line:
    """Points joined by straight lines.

    Attributes:
        name: in the legend; lines and bands of one name are one entry.
        xs: float64 ``[n]``.
        ys: float64 ``[n]``; NaN leaves a gap.
        colour: as #rrggbb.
        width: in points of a still picture.
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
    """

    at: float
    across: Literal["x", "y"]
    text: str
    at_foot: bool = False


@dataclass(frozen=True)
class Arrow:
    """A level arrow from what the baseline needed to what TST needed, and what that is.

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

    @property
    def legend(self) -> list[str]:
        """Names of the legend's entries, in their order."""
        dots = (dot.name for dot in self.dots if dot.listed)
        return list(dict.fromkeys([*(line.name for line in self.lines), *dots]))
