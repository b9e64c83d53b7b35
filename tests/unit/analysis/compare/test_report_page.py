"""The report's folder: a page that loads nothing and holds the figures of the JSON."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_findings import baseline, comparison, equal_loss, findings, superposed

from tst_megatron.analysis.compare.output.folder import charts_of, page_of, write_folder
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report import formats
from tst_megatron.report.page import html as html_of
from tst_megatron.statistics.interval import Interval

FILES = {
    "report.html",
    "report.json",
    "loss.png",
    "saving.png",
    "evaluations.csv",
    "comparisons.csv",
    "logged.png",
    "saving.csv",
    "steps.csv",
}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Text, attributes and unclosed elements of a page; what is in scripts apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.text).append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report whose figures are extrapolated."""
    out = tmp_path_factory.mktemp("new") / "out"
    write_folder(out, findings(extrapolated=True, reached=False))
    return out


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


def shown(found: Findings) -> Page:
    return Page(html_of(page_of(found, charts_of(found))))


def test_every_file_of_a_report(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == FILES
    for name in ("loss.png", "saving.png", "logged.png"):
        assert (report / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_page_loads_nothing(report: Path, page: Page) -> None:
    html = (report / "report.html").read_text()
    assert page.open == []
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\((?!#)|\bimport\(", html)
    tags = {tag for tag, _, _ in page.attributes}
    assert tags.isdisjoint({"link", "iframe", "object", "embed", "base"})
    for _, name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "srcset", "action"}:
            assert value is not None
            assert value.startswith("#")
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_page_shows_the_jsons_figures(report: Path, page: Page) -> None:
    text = page.words()
    found = json.loads((report / "report.json").read_text())
    assert found["headline"] in text
    for name in ("step_ratio", "flops_ratio", "wall_clock_ratio", "gpu_hours_ratio"):
        interval = Interval(**found["equal_loss"][name])
        assert formats.ratio(interval.value) in text
        assert formats.ratio_range(interval) in text
    assert formats.signed(found["equal_flops"]["loss_difference"]) in text
    assert formats.signed(found["equal_data"]["loss_difference"]) in text
    assert "no difference shown" in text
    for run in found["runs"]:
        assert run["name"] in text
        assert formats.loss(run["final_loss"]) in text


def test_every_chart_is_there_twice_with_words_for_who_does_not_see_it(page: Page) -> None:
    charts = json.loads(page.scripts[0])
    assert list(charts) == [
        "loss-gpu-hours",
        "loss-flops",
        "loss-data-tokens",
        "switch",
        "saving",
        "saving-gpu-hours",
        "difference",
        "grad-norm",
        "extra-load-balancing-loss",
    ]
    ids = {value for tag, name, value in page.attributes if tag == "figure" and name == "id"}
    assert ids == set(charts)
    labels = [value for tag, name, value in page.attributes if name == "aria-label"]
    assert len(labels) == 2 * len(charts)
    assert all(labels)


def test_extrapolated_stands_on_the_page_wherever_the_figure_does(page: Page) -> None:
    text = page.words()
    assert "whole runs, extrapolated" in text
    rows = re.findall(r"\d+\.\d\d× \d+\.\d\d to \d+\.\d\d (\w+)", text)
    assert rows
    assert set(rows) == {"extrapolated"}
    charts = json.loads(page.scripts[0])
    assert "extrapolated" in json.dumps(charts["saving"])
    assert "extrapolated" in json.dumps(charts["loss-flops"]["layout"]["annotations"])


def test_a_forced_report_says_why_it_would_be_refused() -> None:
    page = shown(replace(findings(), reasons=("The models differ.",)))
    assert "without --force it is refused: The models differ." in page.words()


def test_a_name_cannot_break_the_page() -> None:
    name = "</script><script>alert(1)</script>"
    ours, theirs = superposed(name), baseline()
    one = comparison(ours, theirs, equal_loss(Interval(1.5, 1.2, 1.8)))
    page = shown(Findings((theirs,), (ours,), (one,)))
    assert len(page.scripts) == 3
    assert name in page.words()


@pytest.mark.parametrize("present", [(), ("baseline",), ("candidate",)])
def test_a_side_that_is_missing_still_makes_a_page(present: tuple[str, ...]) -> None:
    found = Findings(
        (baseline(),) if "baseline" in present else (),
        (superposed(),) if "candidate" in present else (),
        (),
    )
    assert "There is no comparison yet" in shown(found).words()


def test_a_full_disk_leaves_the_old_report(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    before = {path.name: path.read_bytes() for path in report.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_folder(report, findings(Interval(1.1, 0.9, 1.3)))
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before
