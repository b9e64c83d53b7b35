"""Where FLOPs are not known, as of W&B exports, the difference at equal steps is given instead."""

import csv
import io
import json
from html import unescape
from pathlib import Path

import pytest
from ledgers import write_ledger

from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.output.as_csv import comparisons_csv
from tst_megatron.analysis.compare.output.as_json import json_text
from tst_megatron.analysis.compare.output.as_text import print_findings
from tst_megatron.analysis.compare.output.folder import charts_of, page_of
from tst_megatron.analysis.compare.result import Findings, Prices
from tst_megatron.errors import UserError
from tst_megatron.report.page import html
from tst_megatron.report.terminal import console

GAIN = 0.12


def loss(step: float) -> float:
    return float(2 + 5 * (step + 20) ** -0.35)


def export(path: Path, last: int, gain: float = 0.0) -> Path:
    rows = "".join(f"{step},{loss(step) - gain}\n" for step in range(50, last + 1, 50))
    path.write_text(f"Step,lm loss validation\n{rows}")
    return path


def compared(folder: Path, last: int = 2000, candidate: int = 2000) -> Findings:
    sides = export(folder / "base.csv", last), export(folder / "tst.csv", candidate, GAIN)
    return compare_paths(*([side] for side in sides), 0.95, False, Prices())


def test_every_output_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(tmp_path)
    figures = json.loads(json_text(found))
    assert figures["equal_flops"]["loss_difference"] is None
    assert figures["equal_steps"]["loss_difference"] == pytest.approx(-GAIN)
    assert (figures["equal_steps"]["steps"], figures["equal_steps"]["at_end"]) == (2000, True)
    (row,) = (
        row
        for row in csv.DictReader(io.StringIO(comparisons_csv(found)))
        if row["section"] == "equal_steps"
    )
    assert float(row["value"]) == pytest.approx(-GAIN)
    assert (row["figure"], row["where"]) == ("loss_difference", "2000.0 steps")
    sentence = "At equal steps (FLOPs are not known) the candidate's held-out loss is lower (−0.120"
    assert sentence in figures["headline"]
    page = unescape(html(page_of(found, charts_of(found))))
    print_findings(console(80), found)
    for text in (page, " ".join(capsys.readouterr().out.split())):
        assert sentence in text
        assert "Equal steps" in text
        assert "Equal FLOPs" not in text


def test_of_two_lengths_it_is_at_the_shorter(tmp_path: Path) -> None:
    (one,) = compared(tmp_path, candidate=1000).comparisons
    assert one.equal_steps is not None
    assert (one.equal_steps.steps, one.equal_steps.at_end) == (1000, False)
    assert one.equal_steps.loss_difference.value == pytest.approx(-GAIN, abs=1e-3)
    assert any("At equal steps the baseline is at step 1,000 of 2,000" in n for n in one.notes)


def test_where_flops_are_known_they_say_it(tmp_path: Path) -> None:
    for name, gain in (("base", 0.0), ("tst", GAIN)):
        losses = {step: loss(step) - gain for step in range(5, 101, 5)}
        write_ledger(tmp_path / f"{name}.jsonl", dict(losses))
    sides = ([tmp_path / f"{name}.jsonl"] for name in ("base", "tst"))
    found = compare_paths(*sides, 0.95, False, Prices())
    assert found.comparisons[0].equal_steps is None
    assert json.loads(json_text(found))["equal_steps"] is None


def test_a_loss_column_for_ledgers_alone_is_refused(tmp_path: Path) -> None:
    write_ledger(tmp_path / "base.jsonl", {50: 4.0, 100: 3.0})
    with pytest.raises(UserError, match="--loss-column val_loss is for W&B exports and"):
        compare_paths(
            [tmp_path / "base.jsonl"],
            [tmp_path / "base.jsonl"],
            0.95,
            False,
            Prices(),
            ["val_loss"],
        )
