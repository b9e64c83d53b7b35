"""Gradient norm and extra series: what is not in sight is said to be there."""

from dataclasses import replace

import numpy as np
from made_findings import STEPS, findings, superposed

from tst_megatron.analysis.compare.charts.logged import logged_charts, without_chart
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.output.folder import page_of
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report import picture, zoomable
from tst_megatron.report.page import html
from tst_megatron.runs.run import RecordedRun


def found_with(run: RecordedRun) -> Findings:
    return Findings((), (Group("bags", (run,), STEPS),), ())


def test_a_spike_out_of_sight_is_marked_at_the_edge_and_told() -> None:
    (run, *_) = superposed().runs
    norms = run.steps.grad_norms.copy()
    norms[100] = 1234.5
    chart = logged_charts(found_with(replace(run, steps=replace(run.steps, grad_norms=norms))))[0]
    assert chart.y_range is not None
    assert chart.y_range[1] < 2
    (points,) = chart.beyond
    assert (list(points.xs), list(points.ys)) == ([run.steps.steps[100]], [1234.5])
    assert points.edge == chart.y_range[1]
    assert "Triangles at an edge: points beyond it (1234)." in chart.caption
    (mark,) = (trace for trace in zoomable.figure(chart)["data"] if trace["mode"] == "markers")
    assert (mark["x"], mark["text"]) == ([run.steps.steps[100]], ["1234"])
    assert len(picture.svg(chart)) > len(picture.svg(replace(chart, beyond=())))


def test_what_is_in_sight_is_not_marked() -> None:
    for chart in logged_charts(found_with(superposed().runs[0])):
        assert chart.y_range is not None
        low, high = chart.y_range
        hidden = sum(((line.ys < low) | (line.ys > high)).sum() for line in chart.lines)
        assert sum(points.xs.size for points in chart.beyond) == hidden
        assert ("Triangles" in chart.caption) == bool(hidden)


def test_series_without_room_for_a_chart_are_named_on_the_page() -> None:
    (run, *_) = superposed().runs
    here = np.ones(run.steps.steps.size)
    extras = {f"loss {letter}": here for letter in "abcdefgh"} | {"nothing": here * np.nan}
    found = found_with(replace(run, steps=replace(run.steps, extras=extras)))
    assert without_chart(found) == ["loss g", "loss h"]
    assert "Logged series without a chart: loss g, loss h." in html(page_of(found, []))
    assert without_chart(findings()) == []
