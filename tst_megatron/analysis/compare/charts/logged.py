"""Gradient norm and the other logged series, such as the router's losses, beside the losses."""

import numpy as np

from tst_megatron.analysis.compare.charts.palette import Shown, shown
from tst_megatron.analysis.compare.charts.switch import link_rules
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report.chart import Beyond, Chart, Line, Rule, thin
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.array import Array

_MOST_EXTRAS = 6
# A norm of the first steps is many times the rest: the axis holds all but this share of the points.
_OUT_OF_SIGHT = 0.02
_MARGIN = 0.1


def logged_charts(findings: Findings) -> list[Chart]:
    """Charts of the gradient norm and of up to six extra series, those that a run logged."""
    groups = shown(findings)
    charts = [_chart(findings, groups, None)]
    charts += [_chart(findings, groups, name) for name in _extras(groups)[:_MOST_EXTRAS]]
    return [chart for chart in charts if chart is not None]


def without_chart(findings: Findings) -> list[str]:
    """The extra series that there is no room for."""
    return _extras(shown(findings))[_MOST_EXTRAS:]


def _extras(groups: list[Shown]) -> list[str]:
    """Names of the extra series of the runs that are drawn, of those with a number in them."""
    return sorted(
        {
            name
            for one in groups
            for name, values in one.group.runs[0].steps.extras.items()
            if np.isfinite(values).any()
        }
    )


def _chart(findings: Findings, groups: list[Shown], extra: str | None) -> Chart | None:
    """One series of the first run of every group."""
    lines = []
    for one in groups:
        run = one.group.runs[0]
        ys = _series(run, extra)
        there = np.isfinite(ys)
        if there.any():
            xs, ys = thin(run.steps.steps[there], ys[there])
            lines.append(Line(one.group.name, xs, ys, one.colour, width=1.0))
    if not lines:
        return None
    label = "gradient norm before clipping" if extra is None else extra.replace("_", " ")
    every = np.concatenate([line.ys for line in lines])
    low, high = np.quantile(every, [_OUT_OF_SIGHT / 2, 1 - _OUT_OF_SIGHT / 2])
    margin = _MARGIN * float(high - low) or 0.05
    y_range = float(low) - margin, float(high) + margin
    beyond = [points for line in lines for points in _beyond(line, y_range)]
    return Chart(
        name="grad-norm" if extra is None else f"extra-{names_in_html(extra)}",
        title=f"{label[0].upper()}{label[1:]}",
        alt=f"{label} over steps, of the first run of each group.",
        caption=f"The first run of each group.{_on_beyond(beyond)}",
        x_label="optimizer steps",
        y_label=label,
        lines=tuple(lines),
        beyond=tuple(beyond),
        rules=tuple(_switches(findings)),
        x_range=(0.0, max(float(line.xs.max()) for line in lines)),
        y_range=y_range,
    )


def _beyond(line: Line, y_range: tuple[float, float]) -> list[Beyond]:
    """The points below and above what is shown."""
    bottom, top = y_range
    sides = ((bottom, line.ys < bottom), (top, line.ys > top))
    return [
        Beyond(line.name, line.xs[out], line.ys[out], edge, line.colour)
        for edge, out in sides
        if out.any()
    ]


def _on_beyond(beyond: list[Beyond]) -> str:
    if not beyond:
        return ""
    ys = np.concatenate([points.ys for points in beyond])
    values = f"{ys.min():.4g} to {ys.max():.4g}" if ys.size > 1 else f"{ys[0]:.4g}"
    return f" Triangles at an edge: points beyond it ({values})."


def names_in_html(name: str) -> str:
    """A series' name as part of an element's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _series(run: RecordedRun, extra: str | None) -> Array:
    if extra is None:
        return run.steps.grad_norms
    return run.steps.extras.get(extra, np.full(run.steps.steps.size, np.nan))


def _switches(findings: Findings) -> list[Rule]:
    run = findings.candidate[0].runs[0] if findings.candidate else None
    if run is None:
        return []
    return [
        *(Rule(span.last_step, "x", "") for span in run.stages[:-1]),
        *link_rules(run, "steps"),
    ]
