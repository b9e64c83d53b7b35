"""Intervals in charts: none looks more exact than it is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_findings import findings

from tst_megatron.analysis.compare.amounts import STEPS
from tst_megatron.analysis.compare.charts.saving import difference_chart, saving_chart
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report import picture, zoomable
from tst_megatron.report.chart import Chart, Figures, around
from tst_megatron.statistics.interval import Interval


def chart_of(ratio: Interval) -> Chart:
    chart = saving_chart(findings(ratio), STEPS)
    assert chart is not None
    assert chart.y_range is not None
    return chart


def test_the_axis_holds_both_ends_of_the_headlines_bar() -> None:
    chart = chart_of(Interval(1.3, 0.6, 2.6))
    assert chart.y_range is not None
    assert chart.y_range[0] < 0.6
    assert chart.y_range[1] > 2.6
    assert chart.dots[0].edges_beyond(chart.y_range) == ()
    assert "beyond" not in chart.caption


@pytest.mark.parametrize("high", [None, 500.0])
def test_an_end_that_is_open_or_far_away_is_an_arrow_to_the_edge(high: float | None) -> None:
    chart = chart_of(Interval(1.3, 0.9, high))
    assert chart.y_range is not None
    top = chart.y_range[1]
    assert top < 10
    assert chart.dots[0].edges_beyond(chart.y_range) == (top,)
    assert "no bound" in chart.caption
    traces = zoomable.figure(chart)["data"]
    (arrow,) = (trace for trace in traces if "triangle-up" in str(trace))
    assert arrow["y"] == [1.3, top]
    (dot,) = (trace for trace in traces if "error_y" in trace)
    assert dot["error_y"]["arrayminus"] == pytest.approx([0.4])
    assert arrow["legendgroup"] == dot["legendgroup"]
    both = replace(chart, dots=(replace(chart.dots[0], high=1.4),))
    assert len(picture.svg(chart)) > len(picture.svg(both))


def test_a_point_without_an_interval_is_said_to_have_none() -> None:
    chart = chart_of(Interval(1.3))
    assert chart.dots[0].edges_beyond(chart.y_range) == ()
    assert "has no interval" in chart.caption


def test_a_band_with_an_open_end_goes_to_the_edge() -> None:
    found = findings()
    (one,) = found.comparisons
    highs, lows = one.saving.highs.copy(), one.saving.lows.copy()
    highs[-5:] = np.nan
    lows[3] = highs[3] = np.nan
    saving = replace(one.saving, lows=lows, highs=highs)
    chart = saving_chart(
        Findings(found.baseline, found.candidate, (replace(one, saving=saving),)), STEPS
    )
    assert chart is not None
    assert chart.y_range is not None
    first, second = chart.bands
    assert (first.xs.size, second.xs.size) == (3, lows.size - 4)
    assert second.highs[-5:] == pytest.approx(chart.y_range[1])
    assert second.lows[-5:] == pytest.approx(lows[-5:])
    assert "no bound" in chart.caption


def test_the_difference_has_room_for_its_band() -> None:
    chart = difference_chart(findings())
    assert chart is not None
    assert chart.y_range is not None
    assert chart.y_range[0] < -0.12


ENDS = st.floats(-5, 5) | st.just(float("nan"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), ENDS, ENDS), min_size=1, max_size=6))
@example([(1 - 2**-53, float("nan"), 1.0)])  # Apart by rounding alone.
@example([(-5e-324, float("nan"), 0.0)])  # A tenth of it is 0.
def test_bands_hold_their_figures(rows: list[tuple[float, float, float]]) -> None:
    ys, lows, highs = (np.array(column) for column in zip(*rows, strict=True))
    lows, highs = np.fmin(lows, ys), np.fmax(highs, ys)
    lows[[np.isnan(row[1]) for row in rows]] = np.nan
    highs[[np.isnan(row[2]) for row in rows]] = np.nan
    figures = Figures("a", "#000000", np.arange(ys.size, dtype=float), ys, lows, highs)
    y_range = around(ys, [*lows, *highs], 1.0)
    assert y_range[0] < ys.min() <= ys.max() < y_range[1]
    bands = figures.bands(y_range)
    drawn = [int(x) for band in bands for x in band.xs]
    assert drawn == list(np.flatnonzero(~(np.isnan(lows) & np.isnan(highs))))
    for band in bands:
        there = band.xs.astype(int)
        assert (band.lows <= ys[there]).all()
        assert (ys[there] <= band.highs).all()
