"""Held-out loss of both runs over wall-clock, over steps, and over the last quarter of the steps.

The one idea: the end is where the runs differ, so the axes leave out the early descent and the
last quarter has a panel of its own. Every panel can stand alone, as in the page, or beside the
others, as in the PNG. Figures are made without pyplot, so nothing global changes.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tst_megatron.comparison.align import Curve, clock_at, interpolate
from tst_megatron.comparison.phases import phase_name, phases_of
from tst_megatron.files import write_whole
from tst_megatron.training.ledger import Ledger

# Grey and blue differ in lightness too, so they survive a black-and-white print.
_COLOURS = {"baseline": "#5f6368", "TST": "#0072b2"}
_BOUNDARY = "#d55e00"
_EARLY_SHARE = 0.15
_LATE_SHARE = 0.75
_MARGIN = 0.08
# Height of a row of names above a panel, as a share of the panel.
_ROW = 0.06
_MARKED_POINTS = 40
_PANEL_INCHES = (6.0, 4.0)
_PNG_DPI = 130


@dataclass(frozen=True)
class _Switch:
    """From one bag size to the next: where, the names of the phases, and the row they stand in."""

    step: int
    wall_clock_s: float | None
    before: str
    after: str
    row: int


@dataclass(frozen=True)
class _Run:
    """A run as a panel draws it."""

    name: str
    curve: Curve
    switches: tuple[_Switch, ...]


def draw_loss(baseline: Ledger | None, tst: Ledger | None, path: Path) -> None:
    """Write the three panels as one PNG, whole or not at all; without validations they say so.

    Raises:
        OSError: the file cannot be written.
    """
    runs = _runs(baseline, tst)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(2 * width, 2 * height), layout="constrained")
    figure.suptitle("Held-out next-token loss")
    grid = figure.add_gridspec(2, 2, wspace=0.06, hspace=0.08)
    places = (grid[0, 0], grid[0, 1], grid[1, :])
    for place, (_, draw) in zip(places, _PANELS, strict=True):
        draw(figure.add_subplot(place), runs)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI)
    write_whole(path, buffer.getvalue())


def loss_svgs(baseline: Ledger | None, tst: Ledger | None) -> list[str]:
    """The panels as ``<svg>`` elements for a page: no address in them, the text as text."""
    runs = _runs(baseline, tst)
    return [_svg(title, draw, runs) for title, draw in _PANELS]


def _svg(title: str, draw: Callable[[Axes, Sequence[_Run]], None], runs: Sequence[_Run]) -> str:
    figure = Figure(figsize=_PANEL_INCHES, layout="constrained")
    draw(figure.add_subplot(), runs)
    buffer = io.StringIO()
    # The salt and the missing date make the same runs give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), title)


def _inline(document: str, title: str) -> str:
    """An SVG document as an HTML element, which needs no prolog, namespaces or metadata."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # The names of groups are the same in every panel, and nothing refers to them.
    element = re.sub(r'<g id="[^"]*"', "<g", element).replace("xlink:href", "href")
    head, body = element.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    label = escape(title)
    return (
        f'<svg {view_box.group() if view_box else ""} role="img" aria-label="{label}">'
        f"<title>{label}</title>{body}"
    )


def _runs(baseline: Ledger | None, tst: Ledger | None) -> list[_Run]:
    return [
        _Run(name, Curve.of(ledger), _switches(ledger))
        for name, ledger in (("baseline", baseline), ("TST", tst))
        if ledger is not None
    ]


def _switches(ledger: Ledger) -> tuple[_Switch, ...]:
    return tuple(
        _Switch(
            before.last_step,
            clock_at(ledger, before.last_step),
            phase_name(before.bag_size),
            phase_name(after.bag_size),
            row,
        )
        for row, (before, after) in enumerate(pairwise(phases_of(ledger)))
    )


def _draw_over_clock(axes: Axes, runs: Sequence[_Run]) -> None:
    axes.set_xlabel("wall-clock (minutes), everything counted")
    for run in runs:
        _draw_run(axes, run, [seconds / 60 for seconds in run.curve.wall_clock_s])
        for switch in run.switches:
            if switch.wall_clock_s is not None:
                _mark(axes, switch.wall_clock_s / 60, switch)
    axes.set_xlim(left=0)
    _finish(axes, runs, _loss_range(runs, _EARLY_SHARE))


def _draw_over_steps(axes: Axes, runs: Sequence[_Run]) -> None:
    axes.set_xlabel("optimizer steps")
    for run in runs:
        _draw_run(axes, run, run.curve.steps)
        for switch in run.switches:
            _mark(axes, switch.step, switch)
    axes.set_xlim(left=0)
    _finish(axes, runs, _loss_range(runs, _EARLY_SHARE))


def _draw_last_quarter(axes: Axes, runs: Sequence[_Run]) -> None:
    axes.set_xlabel("optimizer steps, the last quarter")
    start, end = _LATE_SHARE * _last_step(runs), _last_step(runs)
    for run in runs:
        _draw_run(axes, run, run.curve.steps)
        for switch in run.switches:
            if switch.step > start:
                _mark(axes, switch.step, switch)
    if end:
        axes.set_xlim(start, end + _MARGIN * (end - start))
    _finish(axes, runs, _loss_range(runs, _LATE_SHARE))
    _label_ends(axes, [run for run in runs if run.curve.final_loss is not None], start)


_PANELS: tuple[tuple[str, Callable[[Axes, Sequence[_Run]], None]], ...] = (
    ("Held-out next-token loss over wall-clock", _draw_over_clock),
    ("Held-out next-token loss over steps", _draw_over_steps),
    ("Held-out next-token loss over the last quarter of the steps", _draw_last_quarter),
)


def _draw_run(axes: Axes, run: _Run, xs: Sequence[float]) -> None:
    losses = [loss if math.isfinite(loss) else math.nan for loss in run.curve.losses]
    final = run.curve.final_loss
    axes.plot(
        xs,
        losses,
        color=_COLOURS[run.name],
        linestyle="--" if run.name == "baseline" else "-",
        linewidth=1.8,
        marker="o" if len(losses) <= _MARKED_POINTS else None,
        markersize=3.5,
        label=run.name if final is None else f"{run.name}, ends at {final:.3f}",
    )


def _mark(axes: Axes, x: float, switch: _Switch) -> None:
    """A line at a switch that goes up to between the names of the phases it parts.

    Each switch of a run has its own row above the axes, so that names do not meet.
    """
    row = 1.0 + _ROW * switch.row
    in_panel = axes.get_xaxis_transform()
    line: dict[str, Any] = {"color": _BOUNDARY, "linewidth": 1.0, "linestyle": ":", "zorder": 4}
    axes.plot([x, x], [0.0, row + _ROW], transform=in_panel, clip_on=False, **line)
    name: dict[str, Any] = {
        "transform": in_panel,
        "color": _BOUNDARY,
        "fontsize": 9,
        "va": "bottom",
        "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    }
    axes.text(x, row + 0.012, f"{switch.before} ", ha="right", **name)
    axes.text(x, row + 0.012, f" {switch.after}", ha="left", **name)


def _finish(axes: Axes, runs: Sequence[_Run], limits: tuple[float, float] | None) -> None:
    axes.set_ylabel("held-out loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    if limits is None:
        axes.text(0.5, 0.5, "no validation yet", transform=axes.transAxes, ha="center")
        return
    axes.set_ylim(*limits)
    axes.legend(frameon=False, loc="best")


def _label_ends(axes: Axes, runs: Sequence[_Run], start: float) -> None:
    """The final losses beside the last points, the higher above and the lower below."""
    shown = [run for run in runs if run.curve.steps[-1] >= start]
    for run in shown:
        higher = run.curve.losses[-1] >= max(other.curve.losses[-1] for other in shown)
        axes.annotate(
            f"{run.name} {run.curve.losses[-1]:.3f}",
            (run.curve.steps[-1], run.curve.losses[-1]),
            xytext=(6, 7 if higher else -7),
            textcoords="offset points",
            va="center",
            color=_COLOURS[run.name],
            fontweight="bold",
            annotation_clip=False,
        )


def _last_step(runs: Sequence[_Run]) -> int:
    return max((run.curve.steps[-1] for run in runs if run.curve.steps), default=0)


def _loss_range(runs: Sequence[_Run], share: float) -> tuple[float, float] | None:
    """Limits that hold the losses from a share of the steps on, with a margin; None without any."""
    start = share * _last_step(runs)
    losses = [loss for run in runs for loss in _losses_from(run, start) if math.isfinite(loss)]
    if not losses:
        return None
    low, high = min(losses), max(losses)
    # Equal losses still need an axis with a height.
    margin = _MARGIN * (high - low) or 0.05
    return low - margin, high + margin


def _losses_from(run: _Run, start: float) -> list[float]:
    """The losses of a run from a step on, or from its switch to single tokens if that is later.

    In bags the next-token loss is a nat or two higher, and would press the rest together.
    """
    steps, losses = run.curve.steps, run.curve.losses
    switch = run.switches[-1].step if run.switches else 0
    if steps and start < switch < steps[-1]:
        start = switch
    there = interpolate(steps, losses, start)
    after = [loss for step, loss in zip(steps, losses, strict=True) if step >= start]
    return after if there is None else [there, *after]
