import io
import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ledgers import write_ledger
from rich.console import Console

from tst_megatron.comparison.report import render_text, table_rows, write_report
from tst_megatron.training.ledger import Ledger

RUN_KEYS = {
    "steps",
    "positions",
    "data_tokens",
    "flops",
    "wall_clock_s",
    "final_validation_loss",
    "phases",
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Text, attributes and unclosed elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def baseline(tmp_path: Path) -> Ledger:
    return write_ledger(tmp_path / "b", {20: 5.0, 40: 4.5, 60: 4.0, 80: 3.5, 100: 3.0})


@pytest.fixture
def tst(tmp_path: Path) -> Ledger:
    losses = {20: 6.0, 40: 5.5, 60: 3.5, 80: 3.25, 100: 2.75}
    return write_ledger(tmp_path / "t", losses, stages=[(4, 120)], seconds_a_step=3.0)


def strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def cells(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {label: (ours, theirs) for label, ours, theirs in table_rows(report)}


def test_the_figures_of_two_whole_runs(tmp_path: Path, baseline: Ledger, tst: Ledger):
    report = write_report(tmp_path / "out", baseline, tst, ["A note."])
    assert report == strict(tmp_path / "out" / "report.json")
    assert report["baseline"].keys() == report["tst"].keys() == RUN_KEYS
    assert report["tst"]["phases"] == [
        {"stage": 0, "bag_size": 4, "first_step": 1, "last_step": 30},
        {"stage": 1, "bag_size": 1, "first_step": 31, "last_step": 100},
    ]
    assert report["equal_flops"] == {"loss_difference": -0.25}
    # The TST run passes 3.0 halfway between steps 80 and 100, at 3 s a step.
    assert report["equal_loss"] == {
        "loss": 3.0,
        "step_ratio": 100 / 90,
        "wall_clock_ratio": 200 / 270,
        "reached": False,
    }
    assert "A note." in report["notes"]
    assert any("start-up, evaluation and checkpoints" in note for note in report["notes"])
    assert report["partial"] is False


def test_three_files_and_nothing_else(tmp_path: Path, baseline: Ledger, tst: Ledger):
    out = tmp_path / "new" / "out"
    for _ in range(2):
        write_report(out, baseline, tst)
        names = {path.name for path in out.iterdir()}
        assert names == {"report.json", "report.html", "loss.png"}
    assert (out / "loss.png").read_bytes().startswith(PNG_SIGNATURE)


def test_a_full_disk_leaves_the_old_report(
    tmp_path: Path, baseline: Ledger, tst: Ledger, monkeypatch: pytest.MonkeyPatch
):
    def full(_: int) -> None:
        raise OSError("no space left on device")

    out = tmp_path / "out"
    write_report(out, baseline, tst)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_report(out, baseline, None)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_page_holds_the_figures_and_loads_nothing(
    tmp_path: Path, baseline: Ledger, tst: Ledger
):
    report = write_report(tmp_path, baseline, tst, ["<script>alert(1)</script>"])
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    text = " ".join(" ".join(page.text).split())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not any(address in html for address in ("http:", "https:", "url(//"))
    tags = {tag for tag, _, _ in page.attributes}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed"})
    for _, name, value in page.attributes:
        if name in {"src", "href", "xlink:href"}:
            assert value is not None
            assert value.startswith(("#", "data:"))
    assert html.count("<svg ") == html.count("</svg>") == 3
    assert report["headline"] in text
    for row in table_rows(report):
        assert all(cell in text for cell in row)
    assert "bags of 4 in steps 1 to 30" in text
    assert "seed 1234" in text


def test_an_embedded_chart_finds_what_it_refers_to(tmp_path: Path, baseline: Ledger, tst: Ledger):
    write_report(tmp_path, baseline, tst)
    page = Page((tmp_path / "report.html").read_text())
    references = {value[1:] for _, name, value in page.attributes if name == "href" and value}
    assert references
    assert references <= set(page.ids)


def test_the_headline_of_a_win(tmp_path: Path, baseline: Ledger, tst: Ledger):
    assert write_report(tmp_path, baseline, tst)["headline"] == (
        "At equal FLOPs the TST run ended 0.250 nats lower than the baseline and reached the "
        "baseline's final loss after 90 steps and 4 min 30 s, against the baseline's 100 steps "
        "and 3 min 20 s."
    )


def test_the_headline_of_a_loss(tmp_path: Path, baseline: Ledger, tst: Ledger):
    report = write_report(tmp_path, tst, baseline)
    assert report["headline"] == (
        "At equal FLOPs the TST run ended 0.250 nats higher than the baseline: "
        "no saving at this scale."
    )
    assert report["equal_loss"]["reached"] is True
    assert cells(report)["Steps to the baseline's final loss (2.750)"] == ("100", "not reached")
    assert cells(report)["Steps to the TST run's final loss (3.000)"] == ("90", "100")


def test_the_headline_of_a_draw(tmp_path: Path, baseline: Ledger):
    report = write_report(tmp_path, baseline, baseline)
    assert "at the same held-out loss" in report["headline"]
    assert cells(report)["Loss difference at equal FLOPs (nats)"] == ("", "0.000")


def test_a_run_cut_short_is_compared_where_it_ended(tmp_path: Path, baseline: Ledger):
    cut = write_ledger(tmp_path / "c", {20: 6.0, 50: 4.0}, stages=[(4, 120)], last_step=57)
    report = write_report(tmp_path / "out", baseline, cut)
    assert report["partial"] is True
    assert report["equal_flops"]["loss_difference"] == pytest.approx(-0.25)
    assert report["headline"].startswith("At the largest FLOPs count")
    notes = " ".join(report["notes"])
    assert "partial" in notes
    assert "ended at step 57 of 100" in notes
    assert "5e+10 FLOPs" in notes
    assert "of step 50" in notes
    assert "This report is partial" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("present", [(), ("baseline",), ("tst",)])
def test_missing_runs_still_make_a_report(
    tmp_path: Path, baseline: Ledger, tst: Ledger, present: tuple[str, ...]
):
    runs = {"baseline": baseline, "tst": tst}
    out = tmp_path / "out"
    report = write_report(out, *(runs[name] if name in present else None for name in runs))
    assert strict(out / "report.json") == report
    assert {name for name in runs if report[name] is not None} == set(present)
    assert report["partial"] is True
    assert report["equal_flops"] == {"loss_difference": None}
    assert report["equal_loss"] == {
        "loss": None,
        "step_ratio": None,
        "wall_clock_ratio": None,
        "reached": False,
    }
    assert "There is no comparison yet" in report["headline"]
    assert (out / "loss.png").read_bytes().startswith(PNG_SIGNATURE)
    assert Page((out / "report.html").read_text()).open == []


@pytest.mark.parametrize("last_step", [0, 7, 20])
def test_a_run_without_validations(tmp_path: Path, baseline: Ledger, last_step: int):
    started = write_ledger(tmp_path / "s", {}, stages=[(4, 40)], last_step=last_step)
    report = write_report(tmp_path / "out", baseline, started)
    assert report["tst"]["steps"] == last_step
    assert report["tst"]["final_validation_loss"] is None
    assert "The TST run has no validation." in report["notes"][0]
    assert cells(report)["Steps to the baseline's final loss (3.000)"] == ("100", "–")


def test_a_loss_that_is_not_a_number_is_null(tmp_path: Path, baseline: Ledger):
    broken = write_ledger(tmp_path / "n", {50: 4.0, 100: None})
    report = write_report(tmp_path / "out", baseline, broken)
    assert strict(tmp_path / "out" / "report.json")["tst"]["final_validation_loss"] is None
    assert report["equal_flops"]["loss_difference"] is None
    assert "not a number" in report["notes"][0]


def test_numbers_that_json_cannot_hold_are_null(tmp_path: Path, baseline: Ledger):
    baseline.steps[-1]["flops"] = baseline.validations[-1]["flops"] = math.nan
    write_report(tmp_path / "out", baseline, None)
    assert strict(tmp_path / "out" / "report.json")["baseline"]["flops"] is None


def test_settings_that_confound_the_comparison_are_named(tmp_path: Path):
    one = write_ledger(tmp_path / "a", {100: 3.0}, flags={"lr": 1e-3})
    two = write_ledger(tmp_path / "b", {100: 3.0}, stages=[(4, 120)], flags={"lr": 2e-3})
    report = write_report(tmp_path / "out", one, two)
    assert "The runs differ in more than superposition: lr." in report["notes"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "bags (size × samples)" in html
    assert "0.002" in html
    assert str(tmp_path / "a") not in html


def test_superposition_alone_is_no_confounder(tmp_path: Path, baseline: Ledger, tst: Ledger):
    notes = write_report(tmp_path / "out", baseline, tst)["notes"]
    assert not any("differ" in note for note in notes)


def test_the_terminal_shows_every_row(tmp_path: Path, baseline: Ledger, tst: Ledger):
    report = write_report(tmp_path, baseline, tst, ["[red]not markup[/red]"])
    console = Console(file=io.StringIO(), width=140)
    console.print(render_text(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # It is the StringIO above.
    assert "[red]not markup[/red]" in text
    for row in table_rows(report):
        assert all(cell in text for cell in row)
