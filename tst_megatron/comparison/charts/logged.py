"""Gradient norm and the other logged series, such as the router's losses, beside the losses."""

import numpy as np

from tst_megatron.comparison.charts.chart import Chart, Line, Rule
from tst_megatron.comparison.charts.palette import Shown, shown
from tst_megatron.comparison.charts.thinning import thin
from tst_megatron.comparison.findings import Findings
from tst_megatron.comparison.run import Array, Run

_MOST_EXTRAS = 6
# A norm of the first steps is many times the rest: the axis holds all but this share of the points.
_OUT_OF_SIGHT = 0.02
_MARGIN = 0.1


def logged_charts(findings: Findings) -> list[Chart]:
    """Charts of the gradient norm and of up to six extra series, those that a run logged."""
    groups = shown(findings)
    names = sorted({name for one in groups for name in one.group.runs[0].steps.extras})
    charts = [_chart(findings, groups, None)]
    charts += [_chart(findings, groups, name) for name in names[:_MOST_EXTRAS]]
    return [chart for chart in charts if chart is not None]


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
    return Chart(
        name="grad-norm" if extra is None else f"extra-{names_in_html(extra)}",
        title=f"{label[0].upper()}{label[1:]}",
        alt=f"{label} over steps, of the first run of each group.",
        caption="The first run of each group.",
        x_label="optimizer steps",
        y_label=label,
        lines=tuple(lines),
        rules=tuple(_switches(findings)),
        x_range=(0.0, max(float(line.xs.max()) for line in lines)),
        y_range=(float(low) - margin, float(high) + margin),
    )


def names_in_html(name: str) -> str:
    """A series' name as part of an element's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _series(run: Run, extra: str | None) -> Array:
    if extra is None:
        return run.steps.grad_norms
    return run.steps.extras.get(extra, np.full(run.steps.steps.size, np.nan))


def _switches(findings: Findings) -> list[Rule]:
    run = findings.tst[0].runs[0] if findings.tst else None
    return [Rule(phase.last_step, "x", "") for phase in (run.phases[:-1] if run else ())]
