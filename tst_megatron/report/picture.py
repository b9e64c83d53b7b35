"""A chart as a picture: for paper, for a PNG, and for a page without JavaScript.

Figures are made without pyplot, so nothing global changes.
"""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from html import escape
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from tst_megatron.report.chart import (
    BAND_OPACITY,
    FAINT,
    GRID,
    INK,
    SOFT,
    Arrow,
    Chart,
    Dot,
    Line,
    Rule,
)
from tst_megatron.report.formats import count

# In inches: a picture, its axes with their labels, an entry of the legend, a title.
_WIDTH, _AXES, _ENTRY, _TITLE = 6.4, 3.8, 0.2, 0.4
# In points: a row of the rules' texts, and what is between the uppermost and a title.
_ROW, _TITLE_PAD = 12.0, 6.0
# In points: the legend under the axes, whose labels it leaves room for.
_LEGEND_BELOW, _POINTS_AN_INCH = 36.0, 72.0
_LEGEND_LETTERS = 72
_PNG_DPI = 130
# Of an axis of logarithms: above this ratio of its ends powers of ten are marks enough.
_LONG = 300.0
_DASHES: dict[str, str | tuple[int, tuple[float, ...]]] = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.5)),
}


def svg(chart: Chart) -> str:
    """The chart as an ``<svg>`` element: no address in it, the text as text."""
    buffer = io.StringIO()
    # The salt and the missing date make the same runs give the same bytes.
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.name}),
        _names_as_they_are(),
    ):
        figure = Figure(figsize=(_WIDTH, _height(chart)), layout="constrained")
        _draw(figure.add_subplot(), chart)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), chart)


def png(charts: Sequence[Chart], columns: int) -> bytes:
    """Charts side by side, in rows of so many, as one PNG with their titles."""
    with _names_as_they_are():
        return _png(charts, columns)


def _png(charts: Sequence[Chart], columns: int) -> bytes:
    rows = [charts[at : at + columns] for at in range(0, len(charts), columns)]
    heights = [_TITLE + max(map(_height, row)) for row in rows]
    figure = Figure(figsize=(columns * _WIDTH, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for number, chart in enumerate(charts):
        axes = figure.add_subplot(grid[divmod(number, columns)])
        pad = _ROW * (1 + max(chart.rows, default=0)) + _TITLE_PAD
        axes.set_title(chart.title, loc="left", pad=pad, fontweight="bold", fontsize=11)
        _draw(axes, chart)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI)
    return buffer.getvalue()


def _names_as_they_are() -> AbstractContextManager[None]:
    """In which no formula begins at a "$"."""
    return matplotlib.rc_context({"text.parse_math": False})


def _height(chart: Chart) -> float:
    """Inches, so that the legend takes nothing from the axes."""
    entries = sum(_in_lines(name).count("\n") + 1 for name in chart.legend)
    rows = max(chart.rows, default=0)
    return _AXES + _ENTRY * entries + rows * _ROW / _POINTS_AN_INCH


def _in_lines(name: str) -> str:
    """A name that the legend has room for beside another chart's."""
    return "\n".join(wrap(name, _LEGEND_LETTERS)) or name


def _inline(document: str, chart: Chart) -> str:
    """An SVG document as an HTML element, which needs no prolog, namespaces or metadata."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # The names of groups are the same in every picture, and nothing refers to them.
    element = re.sub(r'<g id="[^"]*"', "<g", element).replace("xlink:href", "href")
    head, body = element.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    return (
        f'<svg {view_box.group() if view_box else ""} role="img" aria-label="{escape(chart.alt)}">'
        f"<title>{escape(chart.title)}</title>{body}"
    )


def _draw(axes: Axes, chart: Chart) -> None:
    for band in chart.bands:
        axes.fill_between(
            band.xs, band.lows, band.highs, color=band.colour, alpha=BAND_OPACITY, linewidth=0
        )
    entries: dict[str, Artist | Container] = {}
    for line in chart.lines:
        entries.setdefault(line.name, _draw_line(axes, line))
    for dot in chart.dots:
        drawn = _draw_dot(axes, dot, dot.edges_beyond(chart.y_range))
        if dot.listed:
            entries.setdefault(dot.name, drawn)
    for points in chart.beyond:
        axes.plot(
            points.xs,
            [points.edge] * points.xs.size,
            color=points.colour,
            marker="^" if points.is_above else "v",
            markersize=4,
            linestyle="",
            clip_on=False,
        )
    # Before limits are set, which a change of scale would take away.
    if chart.x_log:
        axes.set_xscale("log")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.x_range is not None:
        axes.set_xlim(*chart.x_range)
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
    if chart.x_ticks:
        axes.set_xticks(chart.x_ticks, [f"{tick:g}" for tick in chart.x_ticks], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
    elif chart.x_log:
        _mark_powers(axes.xaxis, axes.get_xlim())
    for rule, row in zip(chart.rules, chart.rows, strict=True):
        _draw_rule(axes, rule, row)
    for arrow in chart.arrows:
        _draw_arrow(axes, arrow)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if entries:
        _draw_legend(axes, entries)


def _mark_powers(axis: Axis, limits: tuple[float, float]) -> None:
    """Marks of an axis of logarithms, in plain numbers; more of them where it is short."""
    low, high = sorted(limits)
    axis.set_major_locator(LogLocator(subs=(1,) if high > _LONG * low else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    """As 0.003, 50 k or 2 M."""
    if not 1e4 <= value < 1e15:
        return f"{value:g}"
    return f"{value / 1e3:g} k" if value < 1e6 else count(value)


def _draw_legend(axes: Axes, entries: Mapping[str, Artist | Container]) -> None:
    """Under the axes, at the same distance whatever their height.

    Its entries are given, as matplotlib would leave out names that begin with "_".
    """
    below = ScaledTranslation(0, -_LEGEND_BELOW / _POINTS_AN_INCH, axes.figure.dpi_scale_trans)
    axes.legend(
        list(entries.values()),
        [_in_lines(name) for name in entries],
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=axes.transAxes + below,
        fontsize=9,
        borderaxespad=0.0,
    )


def _draw_line(axes: Axes, line: Line) -> Artist:
    (drawn,) = axes.plot(
        line.xs,
        line.ys,
        color=line.colour,
        linewidth=line.width,
        linestyle=_DASHES[line.dash],
        marker="o" if line.marked else None,
        markersize=3.5,
        alpha=FAINT if line.faint else 1.0,
        zorder=2.0 if line.faint else 3.0,
    )
    return drawn


def _draw_dot(axes: Axes, dot: Dot, edges: tuple[float, ...]) -> Container:
    """The dot with its bar, and an arrow to every edge that its interval goes on beyond."""
    below = 0.0 if dot.low is None else dot.y - dot.low
    above = 0.0 if dot.high is None else dot.high - dot.y
    has_bar = dot.low is not None or dot.high is not None
    drawn = axes.errorbar(
        [dot.x],
        [dot.y],
        yerr=[[below], [above]] if has_bar else None,
        fmt="D",
        color=dot.colour,
        capsize=4,
        zorder=4,
    )
    for edge in edges:
        axes.annotate(
            "",
            xy=(dot.x, edge),
            xytext=(dot.x, dot.y),
            arrowprops={"arrowstyle": "-|>", "color": dot.colour, "shrinkA": 0, "shrinkB": 0},
            zorder=4,
        )
    return drawn


def _draw_rule(axes: Axes, rule: Rule, row: int) -> None:
    look: dict[str, Any] = {"color": SOFT, "linewidth": 1.0, "linestyle": ":", "zorder": 1.5}
    if rule.across == "x":
        axes.axvline(rule.at, **look)
        if rule.along:
            _draw_along(axes, rule)
            return
        place = "right" if rule.at_foot else "center"
        transform, at = axes.get_xaxis_transform(), (rule.at, 0.01 if rule.at_foot else 1.01)
    else:
        axes.axhline(rule.at, **look)
        place, transform, at = "left", axes.get_yaxis_transform(), (0.005, rule.at)
    axes.annotate(
        rule.text,
        at,
        xycoords=transform,
        xytext=(0, row * _ROW),
        textcoords="offset points",
        ha=place,
        va="bottom",
        color=SOFT,
        fontsize=9,
    )


def _draw_along(axes: Axes, rule: Rule) -> None:
    """To the right of the line, from its top down; before what is drawn of runs."""
    axes.annotate(
        rule.text,
        (rule.at, 0.99),
        xycoords=axes.get_xaxis_transform(),
        xytext=(2, 0),
        textcoords="offset points",
        rotation=90,
        ha="left",
        va="top",
        color=SOFT,
        fontsize=8,
        annotation_clip=True,
        zorder=1.6,
    )


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    axes.annotate(
        "",
        xy=(arrow.end, arrow.y),
        xytext=(arrow.start, arrow.y),
        arrowprops={
            "arrowstyle": "->",
            "color": INK,
            "linewidth": 1.4,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=5,
    )
    axes.annotate(
        arrow.text,
        xy=((arrow.start + arrow.end) / 2, arrow.y),
        xytext=(0, -6),
        textcoords="offset points",
        ha="center",
        va="top",
        fontweight="bold",
        fontsize=9,
        color=INK,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0},
        zorder=5,
    )
