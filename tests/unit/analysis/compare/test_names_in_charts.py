"""A run may be called anything: a picture shows its name as it is."""

from html import escape

import pytest
from made_findings import baseline, comparison, equal_loss, superposed

from tst_megatron.analysis.compare.amounts import FLOPS
from tst_megatron.analysis.compare.charts.loss import loss_chart
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report import picture, zoomable
from tst_megatron.report.chart import Chart
from tst_megatron.statistics.interval import Interval


def chart_of(name: str) -> Chart:
    ours, theirs = superposed(name), baseline()
    one = comparison(ours, theirs, equal_loss(Interval(1.5, 1.2, 1.8)))
    chart = loss_chart(Findings((theirs,), (ours,), (one,)), FLOPS)
    assert chart is not None
    return chart


@pytest.mark.parametrize("name", ["_old", r"$\frac$", "$lr$ and $wd$", r"a\$b", "<b>bold</b> & co"])
def test_a_name_stands_in_the_picture_as_it_is(name: str) -> None:
    assert f">{escape(name, quote=False)}: " in picture.svg(chart_of(name))


def test_a_png_takes_any_name() -> None:
    assert picture.png([chart_of(r"$\frac$")], columns=1).startswith(b"\x89PNG")


def test_a_name_has_no_tags_for_plotly() -> None:
    traces = zoomable.figure(chart_of('<a href="x">y</a> & co'))["data"]
    names = {trace["name"].replace("<br>", " ") for trace in traces if trace.get("showlegend")}
    assert any(name.startswith('&lt;a href="x"&gt;y&lt;/a&gt; &amp; co: ') for name in names)
