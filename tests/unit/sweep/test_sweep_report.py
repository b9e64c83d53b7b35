"""The report of a sweep: its files, its figures, and a grid that is not finished."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from surfaces import SEARCH, made, paper

from tst_megatron.experiments.search import Halving, rungs_of
from tst_megatron.experiments.text import TextRead
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.sweep.outcomes_csv import read_csv
from tst_megatron.sweep.report import Found, print_report, write_report


def report_of(out: Path, found: Found) -> dict:
    report = write_report(out, found)
    on_disk = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert on_disk == report
    page = (out / "report.html").read_text()
    assert report["headline"] in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)", page)
    return report


def test_the_papers_table(tmp_path: Path) -> None:
    results = tuple(paper())
    report = report_of(tmp_path, Found(SEARCH, "paper", 20_000, results, len(results)))
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    (png,) = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert base64.b64decode(png) == (tmp_path / "sweep.png").read_bytes()
    assert read_csv(tmp_path / "cells.csv", [SEARCH])[1] == list(results)
    optimum = report["recommendation"]["optimum"]
    assert optimum["bag_size"]["low"] <= 7 <= optimum["bag_size"]["high"]
    assert 0.2 <= optimum["step_ratio"]["value"] <= 0.3
    best = [cell for cell in report["cells"] if cell["is_best"]]
    assert [(c["bag_size"], c["step_ratio"], c["loss"]) for c in best] == [(7, 0.3, 3.1392)]
    assert not report["partial"]

    console = Console(width=120)
    with console.capture() as captured:
        print_report(SEARCH, report, console)
    said = captured.get()
    assert "*3.1392" in said
    assert "~3.1423" in said
    assert report["headline"] in said.replace("\n", " ")


def test_a_grid_that_is_not_finished(tmp_path: Path) -> None:
    results = (Outcome(BASELINE, 1, 3.2), Outcome(Pair(4, 0.3), 1, 3.1))
    text = {c: TextRead(1000, 1.5, True) for c in (BASELINE, Pair(4, 0.3), Pair(8, 0.3))}
    found = Found(SEARCH, "r", 100, results, 3, ("s8-r0.3-seed1",), text, None, 10.0, 9.5)
    report = report_of(tmp_path, found)
    assert report["partial"]
    notes = " ".join(report["notes"])
    assert "This report is partial: 2 of 3 runs are done." in notes
    assert "9.5 of 10 hours" in notes
    assert "s8-r0.3-seed1" in notes
    assert "s = 4, r = 0.3 (1.50 times)" in notes
    assert [cell["loss"] for cell in report["cells"]] == [3.2, 3.1, None]


@pytest.mark.parametrize("results", [(), (Outcome(BASELINE, 1, 3.2),)])
def test_nothing_superposed_yet(tmp_path: Path, results: tuple[Outcome, ...]) -> None:
    report = report_of(tmp_path, Found(SEARCH, "r", 100, results, 5))
    assert "nothing to choose from yet" in report["headline"]
    assert not (tmp_path / "sweep.png").exists()


def test_a_run_that_diverged_is_named(tmp_path: Path) -> None:
    results = (*made(), Outcome(Pair(32, 0.5), 1, float("nan")))
    report = report_of(tmp_path, Found(SEARCH, "r", 100, results, len(results)))
    assert any("s = 32, r = 0.5 with seed 1" in note for note in report["notes"])
    assert report["cells"][-1]["loss"] is None


def test_a_cell_with_one_seed_that_diverged_is_named_and_not_chosen(tmp_path: Path) -> None:
    luck, bad = Pair(8, 0.3), float("nan")
    results = tuple(
        replace(r, loss=bad if r.seed == 2 else 2.0) if r.choice == luck else r
        for r in made(seeds=3, noise=0.003)
    )
    report = report_of(tmp_path, Found(SEARCH, "r", 100, results, len(results)))
    (cell,) = (c for c in report["cells"] if (c["bag_size"], c["step_ratio"]) == (8, 0.3))
    assert cell["loss"] is None
    assert not cell["is_best"]
    assert any("s = 8, r = 0.3 with seed 2. Pairs with" in note for note in report["notes"])


def test_all_pairs_diverged(tmp_path: Path) -> None:
    results = (Outcome(BASELINE, 1, 3.2), Outcome(Pair(4, 0.3), 1, float("nan")))
    report = report_of(tmp_path, Found(SEARCH, "r", 100, results, 2))
    assert "every pair has a run that diverged" in report["headline"]


def test_an_open_interval_is_drawn_and_said(tmp_path: Path) -> None:
    results = tuple(made(best=(20.0, 0.27), sizes=(2, 4, 8), seeds=3, noise=0.002))
    report = report_of(tmp_path, Found(SEARCH, "r", 100, results, len(results)))
    interval = report["recommendation"]["optimum"]["bag_size"]
    assert interval["low"] == pytest.approx(8.0)
    assert interval["high"] is None
    assert "s = 8 (8 or more)" in report["headline"]
    # Of a larger grid, the rest of which was not run whole.
    text = {
        Pair(s, r): TextRead(1000, 1.0, False) for s in (1, 2, 4, 8, 16) for r in (0.1, 0.3, 0.5)
    }
    report = report_of(tmp_path, Found(SEARCH, "r", 100, results, len(results), text=text))
    assert any("so run more of the grid whole" in note for note in report["notes"])


def test_halving_has_its_regret_and_its_figure(tmp_path: Path) -> None:
    losses = {r.choice: r.loss for r in paper() if r.choice.step_ratio == 0.3}
    rungs = rungs_of(len(losses), 20_000)
    ranked = sorted(losses, key=lambda config: losses[config])
    kept = [losses, *({c: losses[c] for c in ranked[1 : 1 + n]} for n in (4, 2, 1))]
    best = (ranked[0], losses[ranked[0]])
    halving = Halving(rungs, tuple(kept), 1, 7 * 20_000, best)
    results = tuple(paper())
    found = Found(SEARCH, "r", 20_000, results, 29, halving=halving)
    report = report_of(tmp_path, found)
    assert report["halving"]["chosen"] == {"bag_size": 6, "step_ratio": 0.3}
    assert report["halving"]["regret"] == pytest.approx(0.0031)
    assert report["halving"]["cost_share"] == pytest.approx((7 / 8 + 4 / 4 + 2 / 2 + 1) / 7)
    assert (tmp_path / "halving.png").read_bytes().startswith(b"\x89PNG")
    assert any("a regret of 0.0031 nats" in note for note in report["notes"])
