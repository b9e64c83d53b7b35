"""A page of nothing but values: what is there is on it, and nothing else."""

import json
import re

import numpy as np

from tst_megatron.report.chart import Chart, Line
from tst_megatron.report.page import Page, Section, html
from tst_megatron.report.table import Table

XS = np.arange(3.0)
CHART = Chart("a-chart", "A chart", "It rises.", "Read it so.", "x", "y", (
    Line("a line", XS, XS, "#0072b2"),
))  # fmt: skip
TABLE = Table("A table", ("run", "loss"), (("one", "1.5"),), note="* the lowest")


def test_sections_stand_in_their_order_with_all_that_they_hold() -> None:
    sections = (
        Section(charts=(CHART,), note="Drag to zoom."),
        Section("Figures", tables=(TABLE,)),
        Section("Notes", sentences=("One < two.", "Three.")),
    )
    page = html(Page("A title", "It fell.", "one against two", ("Beware.",), sections))
    wanted = (
        *("<h1>A title</h1>", "one against two", "Beware.", "It fell.", 'id="a-chart"', "<svg"),
        *("Read it so.", "Drag to zoom.", "<h2>Figures</h2>", "A table", "* the lowest"),
        *("<h2>Notes</h2>", "One &lt; two.", "Three."),
    )
    places = [page.index(words) for words in wanted]
    assert places == sorted(places)
    data = re.search(r'id="charts">(.*?)</script>', page)
    assert data is not None
    assert json.loads(data.group(1))["a-chart"]["data"][0]["y"] == [0, 1, 2]


def test_a_page_without_charts_carries_no_scripts() -> None:
    page = html(Page("A title", "Nothing yet.", sections=(Section("Figures", tables=(TABLE,)),)))
    assert "<script" not in page
    assert "<figure" not in page
    assert 'soft">' not in page.replace('<p class="soft">* the lowest', "")
