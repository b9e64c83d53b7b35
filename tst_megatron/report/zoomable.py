"""A chart for plotly.js, which draws it in the reader's browser, where it can be zoomed.

The one idea: what Python hands over is data; plotly.js itself is packed into the page, compressed,
so that the page loads nothing.
"""

import base64
import gzip
import math
from functools import cache
from html import escape
from importlib.resources import files
from textwrap import wrap
from typing import Any

from tst_megatron.report.chart import (
    BAND_OPACITY,
    FAINT,
    GRID,
    INK,
    SOFT,
    Arrow,
    Band,
    Beyond,
    Chart,
    Dot,
    Line,
    Rule,
)
from tst_megatron.statistics.array import Array

_DIGITS = 7
_LEGEND_LETTERS = 42
_AXES_REM, _ENTRY_REM = 22.0, 1.5
# A row of the rules' texts; what browsers have for 1 rem.
_ROW_PX, _REM_PX = 15, 16


@cache
def plotly_js() -> str:
    """plotly.js, gzipped, as base64 text."""
    source = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, mtime=0)).decode()


def figure(chart: Chart) -> dict[str, Any]:
    """``data`` and ``layout`` as plotly.js takes them."""
    listed: set[str] = set()
    return {
        "data": [
            *(_band(band) for band in chart.bands if band.xs.size),
            *(_line(line, _is_new(line, listed)) for line in chart.lines),
            *(trace for dot in chart.dots for trace in _dot(dot, dot.edges_beyond(chart.y_range))),
            *(_beyond(points) for points in chart.beyond),
        ],
        "layout": {
            "margin": {"l": 62, "r": 16, "t": 52 + _ROW_PX * _rows(chart), "b": 48},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "paper_bgcolor": "#fff",
            "plot_bgcolor": "#fff",
            "hovermode": "closest",
            "xaxis": _axis(chart.x_label, chart.x_range, chart.x_log) | _ticks(chart),
            "yaxis": _axis(chart.y_label, chart.y_range),
            "legend": {
                "orientation": "h",
                "yref": "container",
                "yanchor": "bottom",
                "y": 0,
                "x": 0,
            },
            "shapes": [_rule(rule) for rule in chart.rules],
            "annotations": [
                *(
                    _rule_text(rule, chart, row)
                    for rule, row in zip(chart.rules, chart.rows, strict=True)
                    if rule.text
                ),
                *(part for arrow in chart.arrows for part in _arrow(arrow)),
            ],
        },
    }


def height(chart: Chart) -> float:
    """How high to make it, in rem, so that its legend takes nothing from its axes."""
    return _AXES_REM + _ENTRY_REM * len(chart.legend) + _ROW_PX * _rows(chart) / _REM_PX


def _rows(chart: Chart) -> int:
    """Of rules' texts above the first."""
    return max(chart.rows, default=0)


def _line(line: Line, listed: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if line.marked else "lines",
        "name": _in_lines(line.name),
        "legendgroup": line.name,
        "showlegend": listed,
        "x": _numbers(line.xs),
        "y": _numbers(line.ys),
        "opacity": FAINT if line.faint else 1.0,
        "line": {"color": line.colour, "width": line.width, "dash": line.dash},
        "marker": {"size": 5},
        "hoverinfo": "skip" if line.faint else "all",
    }


def _in_lines(name: str) -> str:
    """A name that a narrow screen's legend can hold."""
    return "<br>".join(_as_it_is(part) for part in wrap(name, _LEGEND_LETTERS))


def _as_it_is(words: str) -> str:
    """Words in which plotly.js, whose text is a kind of HTML, finds no tags."""
    return escape(words, quote=False)


def _is_new(line: Line, listed: set[str]) -> bool:
    """Whether a line is the first of its name, which stands in the legend."""
    new = line.name not in listed
    listed.add(line.name)
    return new


def _band(band: Band) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _as_it_is(band.name),
        "legendgroup": band.name,
        "showlegend": False,
        "x": [*_numbers(band.xs), *_numbers(band.xs[::-1])],
        "y": [*_numbers(band.highs), *_numbers(band.lows[::-1])],
        "fill": "toself",
        "fillcolor": _translucent(band.colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _dot(dot: Dot, edges: tuple[float, ...]) -> list[dict[str, Any]]:
    """The dot with its bar, and an arrow to every edge that its interval goes on beyond."""
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": _in_lines(dot.name),
        "legendgroup": dot.name,
        "showlegend": dot.listed,
        "x": [dot.x],
        "y": [dot.y],
        "marker": {"color": dot.colour, "size": 11, "symbol": "diamond"},
    }
    if dot.low is not None or dot.high is not None:
        trace["error_y"] = {
            "type": "data",
            "array": [0.0 if dot.high is None else dot.high - dot.y],
            "arrayminus": [0.0 if dot.low is None else dot.y - dot.low],
            "color": dot.colour,
        }
    return [trace, *(_arrow_of_dot(dot, edge) for edge in edges)]


def _arrow_of_dot(dot: Dot, edge: float) -> dict[str, Any]:
    """Hidden with its dot, which an annotation would not be."""
    head = "triangle-up" if edge > dot.y else "triangle-down"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "legendgroup": dot.name,
        "showlegend": False,
        "x": [dot.x, dot.x],
        "y": [dot.y, edge],
        "line": {"color": dot.colour, "width": 2},
        "marker": {
            "color": dot.colour,
            "size": [0, 11],
            "symbol": ["circle", head],
            # Of several sizes, plotly.js takes less and a white line by itself.
            "opacity": 1,
            "line": {"width": 0},
        },
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _beyond(points: Beyond) -> dict[str, Any]:
    """Marks at an edge, which tell what they stand for."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _in_lines(points.name),
        "legendgroup": points.name,
        "showlegend": False,
        "x": _numbers(points.xs),
        "y": [points.edge] * points.xs.size,
        "text": [f"{y:.4g}" for y in points.ys],
        "hoverinfo": "x+text+name",
        "marker": {
            "color": points.colour,
            "size": 8,
            "symbol": "triangle-up" if points.is_above else "triangle-down",
        },
        "cliponaxis": False,
    }


def _axis(label: str, limits: tuple[float, float] | None, is_log: bool = False) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "title": {"text": _as_it_is(label)},
        "gridcolor": GRID,
        "linecolor": SOFT,
        "zeroline": False,
        "ticks": "outside",
        "automargin": True,
    }
    if is_log:
        axis |= {"type": "log", "exponentformat": "SI"}
    if limits is not None:
        axis["range"] = [_place(end, is_log) for end in limits]
    return axis


def _ticks(chart: Chart) -> dict[str, Any]:
    """Marks that are asked for; else plotly.js has its own."""
    if not chart.x_ticks:
        return {}
    labels = [f"{tick:g}" for tick in chart.x_ticks]
    return {"tickmode": "array", "tickvals": list(chart.x_ticks), "ticktext": labels}


def _place(at: float, is_log: bool) -> float:
    """Where ranges and annotations have it: on an axis of logarithms by the logarithm to 10."""
    return math.log10(at) if is_log else at


def _rule(rule: Rule) -> dict[str, Any]:
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": rule.at, "y1": rule.at, "yref": "y"}
    if rule.across == "x":
        ends = {"x0": rule.at, "x1": rule.at, "xref": "x", "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "line", **ends, "line": {"color": SOFT, "width": 1, "dash": "dot"}}


def _rule_text(rule: Rule, chart: Chart, row: int) -> dict[str, Any]:
    text = {"text": _as_it_is(rule.text), "showarrow": False, "font": {"size": 12, "color": SOFT}}
    if rule.across == "x":
        at = _place(rule.at, chart.x_log)
        if rule.along:
            place = {"y": 1, "xanchor": "left", "textangle": -90}
            return {**text, "x": at, "xref": "x", **place, "yref": "paper", "yanchor": "top"}
        place = {"y": 0, "xanchor": "right"} if rule.at_foot else {"y": 1, "xanchor": "center"}
        place["yshift"] = row * _ROW_PX
        return {**text, "x": at, "xref": "x", **place, "yref": "paper", "yanchor": "bottom"}
    return {**text, "x": 0, "xref": "paper", "xanchor": "left", "y": rule.at, "yanchor": "bottom"}


def _arrow(arrow: Arrow) -> list[dict[str, Any]]:
    """The arrow, and its words above its middle."""
    middle = (arrow.start + arrow.end) / 2
    return [
        {
            "x": arrow.end,
            "y": arrow.y,
            "ax": arrow.start,
            "ay": arrow.y,
            "xref": "x",
            "yref": "y",
            "axref": "x",
            "ayref": "y",
            "showarrow": True,
            "arrowhead": 2,
            "arrowwidth": 1.6,
            "arrowcolor": INK,
            "text": "",
        },
        {
            "x": middle,
            "y": arrow.y,
            "text": _as_it_is(arrow.text).replace("\n", "<br>"),
            "showarrow": False,
            "yanchor": "top",
            "yshift": -4,
            "font": {"size": 13, "color": INK, "weight": 600},
            "bgcolor": "rgba(255,255,255,0.8)",
        },
    ]


def _numbers(values: Array) -> list[float | None]:
    """Rounded to what a screen can show; a gap for what is not a number."""
    return [
        float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()
    ]


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND_OPACITY})"
