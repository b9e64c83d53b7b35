"""A report as one page that loads nothing: sentences, charts to zoom, tables.

The one idea: every chart is on the page twice, as a picture and as data. Where the reader's browser
unpacks plotly.js, which is in the page too, the data takes the picture's place; without JavaScript
and on paper the pictures stay.
"""

import json
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tst_megatron.report import picture, zoomable
from tst_megatron.report.chart import Chart
from tst_megatron.report.table import Table

_PACKAGE = "tst_megatron.report"


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of its fields.

    Attributes:
        title: above it; empty for none.
        charts: the first is the widest.
        note: how to read the charts.
        tables: below them.
        sentences: as a list.
    """

    title: str = ""
    charts: tuple[Chart, ...] = ()
    note: str = ""
    tables: tuple[Table, ...] = ()
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: of it.
        headline: the result, in a sentence or two.
        about: what the result is of; empty where there is nothing to say.
        warnings: what has to be read before any figure.
        sections: the rest.
    """

    title: str
    headline: str
    about: str = ""
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()


def html(page: Page) -> str:
    """The page's text."""
    environment = Environment(
        loader=PackageLoader(_PACKAGE, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = [chart for section in page.sections for chart in section.charts]
    data = json.dumps({one.name: zoomable.figure(one) for one in charts}, allow_nan=False)
    return environment.get_template("page.html.j2").render(
        page=page,
        has_charts=bool(charts),
        picture_of=lambda chart: Markup(picture.svg(chart)),
        height_of=zoomable.height,
        charts_json=_in_script(data),
        plotly_js=Markup(zoomable.plotly_js()) if charts else "",
        page_js=Markup((files(_PACKAGE) / "page.js").read_text()),
    )


def _in_script(text: str) -> Markup:
    """JSON inside a ``<script>``, which nothing in it can end."""
    return Markup(text.replace("<", "\\u003c"))
