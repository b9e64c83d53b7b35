"""Where a run went from one stage to the next: marks for any chart, and the switch close up.

The one idea: the training losses of two stages are two things, so each is a line of its own with
its name, and the held-out next-token loss runs through both.
"""

from itertools import pairwise

import numpy as np

from tst_megatron.analysis.compare.charts.palette import shown
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report.chart import Chart, Line, Rule, thin
from tst_megatron.runs.run import LossUnit, RecordedRun
from tst_megatron.statistics.array import Array

# Of the steps of the whole run, before the first switch and after the last.
_BEFORE, _AFTER = 0.05, 0.15
_MARGIN = 0.08
_TRAINING = ("#cc79a7", "#e69f00", "#009e73", "#56b4e9")
_HELD_OUT = "held-out loss of "


def switch_chart(findings: Findings) -> Chart | None:
    """The first run of the best candidate group around its switches; None where it has none.

    None as well of bits a byte, which training losses are not in.
    """
    if findings.unit is not LossUnit.NATS:
        return None
    if not findings.candidate or len(findings.candidate[0].runs[0].stages) < 2:
        return None
    run = findings.candidate[0].runs[0]
    ends = [span.last_step for span in run.stages[:-1]]
    whole = run.stages[-1].last_step
    start, end = max(0.0, ends[0] - _BEFORE * whole), min(whole, ends[-1] + _AFTER * whole)
    lines = [*_training(run, start, end), *_held_out(findings, start, end)]
    if not lines:
        return None
    return Chart(
        name="switch",
        title="The phase switch close up",
        alt=f"Losses of {run.name} from step {start:,.0f} to {end:,.0f}, around the switch from "
        f"{run.stages[0].stage.name} to {run.stages[-1].stage.name}: the next-token loss falls "
        "from its spike.",
        caption=f"One run, {run.name}. A loss on {run.stages[0].stage.name} and one on "
        f"{run.stages[-1].stage.name} measure different things: only lines of one name compare.",
        x_label="optimizer steps",
        y_label="loss (nats a token)",
        lines=tuple(lines),
        rules=(
            *(Rule(before.last_step, "x", f"{before.stage.name} →") for before in run.stages[:-1]),
            *(rule for rule in link_rules(run, "steps") if start <= rule.at <= end),
        ),
        x_range=(start, end),
        y_range=_range_of(lines),
    )


def _training(run: RecordedRun, start: float, end: float) -> list[Line]:
    """The training loss, a line a stage."""
    series = run.steps
    inside = (series.steps >= start) & (series.steps <= end) & np.isfinite(series.losses)
    lines: list[Line] = []
    for span in run.stages:
        of_stage = (series.steps >= span.first_step) & (series.steps <= span.last_step)
        there = inside & of_stage
        if not there.any():
            continue
        name = f"training loss on {span.stage.name}"
        colour = _TRAINING[len(lines) % len(_TRAINING)]
        xs, losses = thin(series.steps[there], series.losses[there])
        lines.append(Line(name, xs, losses, colour, width=1.0))
    return lines


def _held_out(findings: Findings, start: float, end: float) -> list[Line]:
    """The held-out loss of the run and, to compare it with, of a baseline's run."""
    lines = []
    for one in shown(findings):
        if one.group not in (*findings.baseline[:1], findings.candidate[0]):
            continue
        curve = one.group.runs[0].curve
        inside = (curve.steps >= start) & (curve.steps <= end) & np.isfinite(curve.losses)
        if inside.any():
            xs, losses = curve.steps[inside], curve.losses[inside]
            name = f"{_HELD_OUT}{one.group.name}"
            lines.append(Line(name, xs, losses, one.colour, dash=one.dash, marked=True))
    return lines


def _range_of(lines: list[Line]) -> tuple[float, float]:
    every: Array = np.concatenate([line.ys for line in lines])
    low, high = float(every.min()), float(every.max())
    margin = _MARGIN * (high - low) or 0.05
    return low - margin, high + margin


def switches(run: RecordedRun, amount: str) -> list[tuple[float, str]]:
    """(where, words) of every change of the stage that the run tells.

    Args:
        run: of any source.
        amount: an attribute of `StepSeries` and `Curve`, such as ``gpu_hours``.
    """
    marks = [
        (before.last_step, f"{before.stage.name} → {after.stage.name}")
        for before, after in pairwise(run.stages)
    ]
    return _laid_over(run, amount, marks)


def link_rules(run: RecordedRun, amount: str, per: float = 1.0) -> list[Rule]:
    """A thin line with its name where each link of a chain begins; none of any other run.

    Args:
        run: of any source.
        amount: as of `switches`.
        per: of the amount, what the axis counts in.
    """
    marks = _laid_over(run, amount, [(link.after, link.name) for link in run.links])
    return [Rule(at / per, "x", name, along=True) for at, name in marks]


def _laid_over(
    run: RecordedRun, amount: str, marks: list[tuple[int, str]]
) -> list[tuple[float, str]]:
    """Marks (step, words) at what the run had used up by then, as far as it got."""
    steps = np.concatenate([[0.0], run.steps.steps, run.curve.steps])
    values = np.concatenate([[0.0], getattr(run.steps, amount), getattr(run.curve, amount)])
    known = np.isfinite(values)
    order = np.argsort(steps[known], kind="stable")
    steps, values = steps[known][order], values[known][order]
    return [
        (float(np.interp(step, steps, values)), words) for step, words in marks if step <= steps[-1]
    ]
