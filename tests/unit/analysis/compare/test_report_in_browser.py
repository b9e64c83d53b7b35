"""The report in a real browser without a network: charts are drawn, and nothing is asked for."""

import os
import re
import shutil
import subprocess
from html import unescape

import pytest
from made_findings import findings

from tst_megatron.analysis.compare.output.as_json import as_json
from tst_megatron.analysis.compare.output.folder import charts_of, page_of
from tst_megatron.report import formats
from tst_megatron.report.page import html

ASKED_FOR = "http://asked.invalid/picture.png"
# Put on the page: what it asks for is told in an attribute, and one picture proves that it is.
WATCH = f"""<img src="{ASKED_FOR}"><script>setInterval(() => {{
  const names = performance.getEntriesByType("resource").map((entry) => entry.name);
  document.body.dataset.askedFor = names.join(" ");
}}, 100)</script>"""
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is on PATH, and CHROMIUM is not set"
)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's document after its scripts have run."""
    folder = tmp_path_factory.mktemp("browser")
    found = findings(extrapolated=True, reached=False)
    document = html(page_of(found, charts_of(found))).replace("<body>", f"<body>{WATCH}")
    (folder / "report.html").write_text(document)
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900",
            # No name resolves.
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=60000", "--dump-dom", (folder / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=400, check=True,
    )  # fmt: skip
    return done.stdout


def test_every_chart_is_drawn(document: str) -> None:
    assert 'data-charts="drawn"' in document
    charts = charts_of(findings(extrapolated=True))
    for chart in charts:
        figure = document.split(f'<figure id="{chart.name}"', 1)[1].split("</figure>", 1)[0]
        assert 'class="is-zoomable"' in figure.split(">", 1)[0]
        zoomable, picture = figure.split('<div class="picture">')
        # One path a line of data, as SVG.
        assert zoomable.count('class="js-line"') >= len(chart.lines)
        assert "<svg" in picture


def test_the_figures_are_on_the_page_and_in_the_charts(document: str) -> None:
    found = as_json(findings(extrapolated=True, reached=False))
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", document)).split())
    assert found["headline"] in text
    hours = formats.ratio(found["equal_loss"]["gpu_hours_ratio"]["value"])
    drawn = document.split('<figure id="loss-gpu-hours"', 1)[1].split("</figure>", 1)[0]
    svg = unescape(re.sub(r"<[^>]*>", " ", drawn.split('<div class="picture">')[0]))
    assert f"{hours} fewer GPU hours" in svg
    assert "extrapolated" in svg


def test_nothing_is_asked_of_a_network(document: str) -> None:
    (asked_for,) = re.findall(r'data-asked-for="([^"]*)"', document)
    assert asked_for.split() == [ASKED_FOR]
