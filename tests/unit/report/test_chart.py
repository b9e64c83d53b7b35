import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.report import picture, zoomable
from tst_megatron.report.chart import MOST_POINTS, Chart, Line, Rule, thin


@given(st.integers(1, 9000), st.data())
def test_thinning_keeps_the_spikes(size: int, data: st.DataObject) -> None:
    spike = data.draw(st.integers(0, size - 1))
    ys = np.sin(np.arange(size, dtype=float))
    ys[spike] = 50.0
    xs, kept = thin(np.arange(size, dtype=float), ys)
    assert xs.size <= MOST_POINTS
    assert xs[np.argmax(kept)] == spike
    assert (np.diff(xs) > 0).all()
    assert (kept == ys[xs.astype(int)]).all()


def test_a_short_series_is_left_as_it_is() -> None:
    xs = np.arange(10.0)
    ys = np.where(xs == 3, np.nan, xs)
    assert thin(xs, ys)[1] is ys


def with_rules(*rules: Rule, name: str = "a") -> Chart:
    ends = np.array([1.0, 100.0])
    line = Line(name, ends, ends, "#000000")
    return Chart("c", "C", "C.", "", "x", "y", (line,), rules=rules, x_range=(0.0, 100.0))


def test_rules_texts_stand_in_rows_where_one_would_cover_another() -> None:
    crowded = [Rule(10.0 * n, "x", f"{n} layers → {n + 1} layers") for n in range(10)]
    chart = with_rules(*crowded)
    # 19 letters are a quarter of the axes' width, and ten lines are a tenth of it apart.
    assert chart.rows == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    few = with_rules(*crowded[::4])
    assert few.rows == [0, 0, 0]
    heights = [zoomable.height(one) for one in (few, chart)]
    assert heights[1] > heights[0]
    margins = [zoomable.figure(one)["layout"]["margin"]["t"] for one in (few, chart)]
    assert margins[1] > margins[0]


def test_other_texts_are_in_no_row() -> None:
    top = Rule(50.0, "x", "on top")
    others = Rule(51.0, "x", "at foot", at_foot=True), Rule(51.0, "x", "along", along=True)
    assert with_rules(top, *others, Rule(50.0, "y", "level"), Rule(50.0, "x", "")).rows == [0] * 5


def test_a_long_name_takes_lines_of_the_legend_and_not_of_the_chart_beside() -> None:
    words = "2 layers for 10 %, " * 9
    long, short = (picture.svg(with_rules(name=name)) for name in (words, "a"))
    assert words not in long
    # A line may end inside of "10 %".
    assert long.count("layers") == 9
    boxes = [one.split('viewBox="0 0 ')[1].split('"')[0].split() for one in (long, short)]
    assert boxes[0][0] == boxes[1][0]
    assert float(boxes[0][1]) > float(boxes[1][1])
