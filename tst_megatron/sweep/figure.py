"""The figures of a sweep: final loss over every axis, the fitted curve over both, and halving.

The one idea: the bottom is what one looks for, so the axis of losses is cut a little above the
baseline; what lies higher leaves the panel, and the caption says so.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from tst_megatron.experiments.search import Halving
from tst_megatron.methods.search import Axis, Fit, Search
from tst_megatron.runs.noise import levelled, means_of
from tst_megatron.runs.outcomes import Choice, Outcome
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.sweep.rates import ChosenRate
from tst_megatron.sweep.recommendation import Recommendation

type Means = dict[Choice, tuple[float, int]]

_DPI = 130
_BASELINE = "#5f6368"
_OPTIMUM = "#d55e00"
# Of the depth of the bottom: how far above the baseline, and below the lowest cell, the axis goes.
_ABOVE, _BELOW = 0.25, 0.08
_MESH = 200
# Choices whose losses over the learning rate are drawn.
_MOST_RATES = 6
_MAP = "viridis_r"


def draw_sweep(search: Search, outcomes: Sequence[Outcome], found: Recommendation) -> bytes:
    """A panel an axis, and a map of two where a curve is fitted, as a PNG."""
    means = means_of(levelled(outcomes))
    has_map = found.fit is not None and len(search.axes) == 2
    panels = len(search.axes) + has_map
    figure = Figure(figsize=(5.4 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle(search.words.title)
    for panel, axis in zip(axes, search.axes, strict=False):
        _draw_lines(panel, search, axis, means)
    if found.fit is not None and has_map:
        _draw_map(figure, axes[-1], search, means, found, found.fit)
    return _png(figure)


def draw_rates(rates: Mapping[Choice, ChosenRate], found: Recommendation | None) -> bytes:
    """Final loss over the learning rate, the baseline's and the lowest cells', as a PNG."""
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = _shown_rates(rates, found)
    colours = iter(_colours(len(shown)))
    for choice in shown:
        chosen = rates[choice]
        colour = _BASELINE if choice.is_baseline else next(colours)
        tried, losses = list(chosen.means), list(chosen.means.values())
        axes.plot(tried, losses, marker="o", color=colour, label=str(choice))
        axes.plot(chosen.best.rate, chosen.means[chosen.best.rate], marker="D", ms=9, color=colour)
        parabola = chosen.parabola
        if parabola is not None and parabola.coefficients is not None:
            xs = np.geomspace(tried[0], tried[-1], _MESH)
            axes.plot(xs, parabola.losses(xs), color=colour, linestyle=":", linewidth=1.2)
    axes.set_xscale("log")
    ticks = sorted({rate for choice in shown for rate in rates[choice].losses})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate (diamond: chosen; dotted: a parabola in its logarithm)")
    axes.set_title("Final held-out loss over the learning rate")
    _finish(axes)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _shown_rates(rates: Mapping[Choice, ChosenRate], found: Recommendation | None) -> list[Choice]:
    """The baseline, the lowest cell and those that come after it."""

    def rank(choice: Choice) -> tuple[bool, bool, float]:
        loss = rates[choice].means[rates[choice].best.rate]
        is_best = found is not None and choice == found.best
        return not choice.is_baseline, not is_best, loss if np.isfinite(loss) else np.inf

    return sorted(rates, key=rank)[:_MOST_RATES]


def draw_halving(halving: Halving) -> bytes:
    """Halving: the loss of every choice in each rung, over the steps of its runs, as a PNG."""
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    choices = list(halving.losses[0])
    for choice, colour in zip(sorted(choices), _colours(len(choices)), strict=True):
        rungs = [i for i, losses in enumerate(halving.losses) if choice in losses]
        steps = [halving.rungs[i].steps for i in rungs]
        losses = [halving.losses[i][choice] for i in rungs]
        axes.plot(steps, losses, marker="o", color=colour, label=str(choice))
    axes.set_xscale("log", base=2)
    axes.set_xticks([rung.steps for rung in halving.rungs])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("steps of a run, each with its own recovery and decay")
    axes.set_title("Successive halving: who goes on")
    _finish(axes)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _draw_lines(panel: Axes, search: Search, axis: Axis, means: Means) -> None:
    """A line for each value of the other axis."""
    cells = sorted(choice for choice in means if not choice.is_baseline)
    others = [other for other in search.axes if other != axis]
    lines: dict[tuple[float, ...], list[Choice]] = {}
    for choice in sorted(cells, key=axis.of):
        lines.setdefault(tuple(other.of(choice) for other in others), []).append(choice)
    for (values, line), colour in zip(sorted(lines.items()), _colours(len(lines)), strict=True):
        label = ", ".join(f"{o.symbol} = {v:g}" for o, v in zip(others, values, strict=True))
        points = [axis.of(c) for c in line], [means[c][0] for c in line]
        panel.plot(*points, marker="o", markersize=4.5, color=colour, label=label or None)
    _mark_values(panel.xaxis, panel.set_xscale, axis, cells)
    panel.set_xlabel(_label(axis))
    if search.baseline in means:
        first = search.axes[0]
        panel.axhline(
            means[search.baseline][0],
            color=_BASELINE,
            linestyle="--",
            linewidth=1.4,
            label=f"baseline ({first.symbol} = {first.of(search.baseline):g})",
        )
    _finish(panel)
    hidden = _cut(panel, means, search.baseline)
    if hidden:
        panel.set_title(f"{hidden} higher cells lie above the panel", fontsize=9, loc="left")
    panel.legend(frameon=False, fontsize=8, ncols=2 if len(lines) > 4 else 1, loc="best")


def _cut(axes: Axes, means: Means, baseline: Choice) -> int:
    """Set the axis of losses; how many cells are above it."""
    losses = [loss for loss, _ in means.values()]
    low, high = min(losses), max(losses)
    if baseline in means and means[baseline][0] > low:
        depth = means[baseline][0] - low
        high = min(high, means[baseline][0] + _ABOVE * depth)
    room = _BELOW * (high - low) or 0.01
    axes.set_ylim(low - room, high + room)
    return sum(loss > high + room for loss in losses)


def _draw_map(
    figure: Figure, axes: Axes, search: Search, means: Means, found: Recommendation, fit: Fit
) -> None:
    """The curve over both axes, the cells on it with their losses, its bottom with its interval."""
    upright, across = search.axes
    cells = [choice for choice in means if not choice.is_baseline]
    (low, high), (left, right) = fit.ends
    values = [_mesh(axis, ends) for axis, ends in zip(search.axes, fit.ends, strict=True)]
    curve = search.words.curve
    axes.set_title(f"fitted {curve}, measured numbers", fontsize=9, loc="left")
    _mark_values(axes.yaxis, axes.set_yscale, upright, cells)
    _mark_values(axes.xaxis, axes.set_xscale, across, cells)
    axes.set_ylabel(_label(upright))
    axes.set_xlabel(_label(across))
    surface = fit.loss(*np.meshgrid(*values, indexing="ij"))
    if low < high and left < right:
        mesh = axes.pcolormesh(
            values[1],
            values[0],
            surface,
            cmap=_MAP,
            vmin=float(surface.min()),
            vmax=_top(means, search.baseline, float(surface.max())),
            shading="gouraud",
        )
        figure.colorbar(mesh, ax=axes, label="nats a token", extend="max")
    for choice in cells:
        _write_loss(axes, across.of(choice), upright.of(choice), means[choice][0])
    axes.set_ylim(_room(upright, low, high))
    axes.set_xlim(_room(across, left, right))
    if found.optimum is not None:
        places = across.interval(found.optimum), upright.interval(found.optimum)
        _mark_optimum(axes, *places, f"bottom of the {curve}")


def _mesh(axis: Axis, ends: tuple[float, float]) -> Array:
    """Values ``[n]`` from end to end."""
    return np.geomspace(*ends, _MESH) if axis.is_log else np.linspace(*ends, _MESH)


def _room(axis: Axis, low: float, high: float) -> tuple[float, float]:
    """The ends of an axis with a margin."""
    if axis.is_log:
        return low / 1.15, high * 1.15
    span = (high - low) or 0.1
    return low - 0.1 * span, high + 0.1 * span


def _top(means: Means, baseline: Choice, highest: float) -> float:
    """Where the colours end: at the baseline, so that they are spent on the bottom."""
    lowest = min(loss for loss, _ in means.values())
    end = means[baseline][0] if baseline in means else highest
    return min(highest, end) if end > lowest else highest


def _write_loss(axes: Axes, x: float, y: float, loss: float) -> None:
    axes.annotate(
        f"{loss:.3f}",
        (x, y),
        ha="center",
        va="center",
        fontsize=7.5,
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.8},
    )


def _mark_optimum(axes: Axes, across: Interval, upright: Interval, label: str) -> None:
    """A star at the bottom, and its intervals where there are any; an open one leaves the map."""
    x, left, right = _ends(across, axes.get_xlim())
    y, below, above = _ends(upright, axes.get_ylim())
    axes.errorbar(
        [x],
        [y],
        xerr=[[x - left], [right - x]],
        yerr=[[y - below], [above - y]],
        fmt="*",
        markersize=14,
        color=_OPTIMUM,
        markeredgecolor="white",
        elinewidth=2,
        capsize=4,
        zorder=5,
        label=label + (", 95 % interval" if left < right or below < above else ""),
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _ends(interval: Interval, limits: tuple[float, float]) -> tuple[float, float, float]:
    """Value, low and high, an open end at the map's; without an interval all are the value."""
    value = interval.value or 0.0
    if interval.low is None and interval.high is None:
        return value, value, value
    low, high = limits
    return (
        value,
        low if interval.low is None else interval.low,
        high if interval.high is None else interval.high,
    )


def _label(axis: Axis) -> str:
    return f"{axis.label} (log)" if axis.is_log else axis.label


def _mark_values(of: Any, set_scale: Any, axis: Axis, cells: Sequence[Choice]) -> None:
    """Let an axis of a panel have a tick at every value of the cells."""
    if axis.is_log:
        set_scale("log")
    of.set_major_locator(FixedLocator(sorted({axis.of(choice) for choice in cells})))
    if not axis.is_log:
        return
    of.set_major_formatter(StrMethodFormatter("{x:g}"))
    of.set_minor_locator(NullLocator())
    of.set_minor_formatter(NullFormatter())


def _colours(number: int) -> list[Any]:
    """From dark to light, as the values rise; the lightest yellow is left out."""
    return [colormaps["viridis"](share) for share in np.linspace(0.0, 0.88, number)]


def _finish(axes: Axes) -> None:
    axes.set_ylabel("final held-out loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
