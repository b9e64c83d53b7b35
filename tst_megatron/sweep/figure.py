"""The paper's Figure 4 of any sweep: final loss over s, over r, and the fitted U beside them.

The one idea: the bottom is what one looks for, so the axis of losses is cut a little above the
baseline; what lies higher leaves the panel, and the caption says so.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from tst_megatron.statistics.interval import Interval
from tst_megatron.sweep.fit import Fit, Optimum
from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.halving import Search
from tst_megatron.sweep.noise import levelled, means_of
from tst_megatron.sweep.recommendation import Recommendation
from tst_megatron.sweep.results import Result

type Means = dict[Config, tuple[float, int]]

_DPI = 130
_BASELINE = "#5f6368"
_OPTIMUM = "#d55e00"
# Of the depth of the U: how far above the baseline, and below the lowest cell, the axis goes.
_ABOVE, _BELOW = 0.25, 0.08
_MESH = 200
_MAP = "viridis_r"


def draw_sweep(results: Sequence[Result], found: Recommendation) -> bytes:
    """The three panels, as a PNG; the map is missing where there is no U."""
    means = means_of(levelled(results))
    panels = 3 if found.fit is not None else 2
    figure = Figure(figsize=(5.4 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle("Final held-out loss by bag size s and share r of the steps")
    _draw_lines(axes[0], means, over_sizes=True)
    _draw_lines(axes[1], means, over_sizes=False)
    if found.fit is not None:
        _draw_map(figure, axes[2], means, found, found.fit)
    return _png(figure)


def draw_search(search: Search) -> bytes:
    """Halving: the loss of every pair in each rung, over the steps of its runs, as a PNG."""
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    configs = list(search.losses[0])
    for config, colour in zip(sorted(configs), _colours(len(configs)), strict=True):
        rungs = [i for i, losses in enumerate(search.losses) if config in losses]
        steps = [search.rungs[i].steps for i in rungs]
        losses = [search.losses[i][config] for i in rungs]
        axes.plot(steps, losses, marker="o", color=colour, label=str(config))
    axes.set_xscale("log", base=2)
    axes.set_xticks([rung.steps for rung in search.rungs])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("steps of a run, each with its own recovery and decay")
    axes.set_title("Successive halving: who goes on")
    _finish(axes)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _draw_lines(axes: Axes, means: Means, over_sizes: bool) -> None:
    """A line for each value of the other one."""
    cells = sorted(config for config in means if not config.is_baseline)

    def this(config: Config) -> float:
        return config.bag_size if over_sizes else config.step_ratio

    def other(config: Config) -> float:
        return config.step_ratio if over_sizes else config.bag_size

    others = sorted({other(config) for config in cells})
    for value, colour in zip(others, _colours(len(others)), strict=True):
        line = sorted((c for c in cells if other(c) == value), key=this)
        label = f"r = {value:g}" if over_sizes else f"s = {value:g}"
        points = [this(c) for c in line], [means[c][0] for c in line]
        axes.plot(*points, marker="o", markersize=4.5, color=colour, label=label)
    if over_sizes:
        _log_sizes(axes.xaxis, axes.set_xscale, sorted({c.bag_size for c in cells}))
        axes.set_xlabel("bag size s (log)")
    else:
        axes.set_xticks(sorted({c.step_ratio for c in cells}))
        axes.set_xlabel("share r of the steps in bags")
    if BASELINE in means:
        baseline = means[BASELINE][0]
        axes.axhline(
            baseline, color=_BASELINE, linestyle="--", linewidth=1.4, label="baseline (s = 1)"
        )
    _finish(axes)
    hidden = _cut(axes, means)
    if hidden:
        axes.set_title(f"{hidden} higher cells lie above the panel", fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8, ncols=2 if len(others) > 4 else 1, loc="best")


def _cut(axes: Axes, means: Means) -> int:
    """Set the axis of losses; how many cells are above it."""
    losses = [loss for loss, _ in means.values()]
    low, high = min(losses), max(losses)
    if BASELINE in means and means[BASELINE][0] > low:
        depth = means[BASELINE][0] - low
        high = min(high, means[BASELINE][0] + _ABOVE * depth)
    room = _BELOW * (high - low) or 0.01
    axes.set_ylim(low - room, high + room)
    return sum(loss > high + room for loss in losses)


def _draw_map(figure: Figure, axes: Axes, means: Means, found: Recommendation, fit: Fit) -> None:
    """The U over both, the cells on it with their losses, its bottom with its interval."""
    cells = [config for config in means if not config.is_baseline]
    sizes = np.geomspace(*fit.sizes, _MESH)
    ratios = np.linspace(*fit.ratios, _MESH)
    axes.set_title("fitted U, measured numbers", fontsize=9, loc="left")
    _log_sizes(axes.yaxis, axes.set_yscale, sorted({c.bag_size for c in cells}))
    axes.set_ylabel("bag size s (log)")
    axes.set_xlabel("share r of the steps in bags")
    axes.set_xticks(sorted({c.step_ratio for c in cells}))
    surface = fit.loss(*np.meshgrid(sizes, ratios, indexing="ij"))
    if fit.sizes[0] < fit.sizes[1] and fit.ratios[0] < fit.ratios[1]:
        top = _top(means, float(surface.max()))
        mesh = axes.pcolormesh(
            ratios,
            sizes,
            surface,
            cmap=_MAP,
            vmin=float(surface.min()),
            vmax=top,
            shading="gouraud",
        )
        figure.colorbar(mesh, ax=axes, label="nats a token", extend="max")
    for config in cells:
        _write_loss(axes, config, means[config][0])
    low, high = fit.sizes
    axes.set_ylim(low / 1.15, high * 1.15)
    span = (fit.ratios[1] - fit.ratios[0]) or 0.1
    axes.set_xlim(fit.ratios[0] - 0.1 * span, fit.ratios[1] + 0.1 * span)
    if found.optimum is not None:
        _mark_optimum(axes, found.optimum)


def _top(means: Means, highest: float) -> float:
    """Where the colours end: at the baseline, so that they are spent on the bottom."""
    lowest = min(loss for loss, _ in means.values())
    baseline = means[BASELINE][0] if BASELINE in means else highest
    return min(highest, baseline) if baseline > lowest else highest


def _write_loss(axes: Axes, config: Config, loss: float) -> None:
    axes.annotate(
        f"{loss:.3f}",
        (config.step_ratio, config.bag_size),
        ha="center",
        va="center",
        fontsize=7.5,
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.8},
    )


def _mark_optimum(axes: Axes, optimum: Optimum) -> None:
    """A star at the bottom, and its intervals where there are any; an open one leaves the map."""
    x, left, right = _ends(optimum.step_ratio, axes.get_xlim())
    y, below, above = _ends(optimum.bag_size, axes.get_ylim())
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
        label="bottom of the U" + (", 95 % interval" if left < right or below < above else ""),
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


def _log_sizes(axis: Any, set_scale: Any, sizes: Sequence[int]) -> None:
    set_scale("log")
    axis.set_major_locator(FixedLocator(sizes))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


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
