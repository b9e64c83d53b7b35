"""What ledgers of schemas 1 and 2 read as; the study's, which are of schema 2, among them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tst_megatron.runs.ledger import Ledger, read_ledger
from tst_megatron.runs.run import run_of_ledger

STUDY = Path(__file__).parents[3] / "docs" / "studies" / "equal-loss" / "ledgers"
FLAGS = {"train_iters": 100, "global_batch_size": 4, "tst_superposition": {}, "tst_bag_size": 4}
SAVED = {"stages": [[4, 100]], "superpose": "both", "bag_weights": "uniform"}


def read(folder: Path, *lines: dict[str, Any]) -> Ledger:
    path = folder / "ledger.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return read_ledger(path)


def header(**fields: Any) -> dict[str, Any]:
    return {"kind": "header", "schema_version": 2, "step": 0, "flags": FLAGS} | fields


def test_a_methods_words_are_put_under_its_name(tmp_path: Path) -> None:
    ledger = read(
        tmp_path,
        header(superposition=SAVED),
        {"kind": "step", "step": 20, "stage": 0, "bag_size": 4},
        {
            **{"kind": "validation", "step": 20, "next_token_loss": 5.0, "switch_step": 24},
            **{"bag_loss": 6.0, "bag_loss_stderr": 0.5},
        },
        {"kind": "step", "step": 30, "stage": 1, "bag_size": 1},
        {"kind": "validation", "step": 30, "next_token_loss": 4.0},
    )
    assert "superposition" not in ledger.header
    (method,) = ledger.header["methods"]
    assert (method["name"], method["facts"]) == ("superposition", SAVED)
    bags, ordinary = method["stages"]
    assert bags == {
        "name": "bags of 4",
        "samples": 100,
        "tokens_a_position": 4,
        "loss": "bag loss",
        "method": "superposition",
        "facts": {"bag_size": 4},
    }
    assert (ordinary["name"], ordinary["samples"]) == ("single tokens", 300)
    assert (ordinary["method"], ordinary["facts"]) == ("", {"bag_size": 1})
    assert [line["facts"] for line in ledger.steps] == [{"bag_size": 4}, {"bag_size": 1}]
    first, last = ledger.validations
    assert (first["losses"], first["stderrs"]) == ({"bag loss": 6.0}, {"bag loss": 0.5})
    assert (first["facts"], last["facts"]) == ({"switch_step": 24}, {})
    assert "losses" not in last
    assert not {"bag_size", "bag_loss", "switch_step"} & (first.keys() | ledger.steps[0].keys())


def test_an_ordinary_run_has_no_methods(tmp_path: Path) -> None:
    step = {"kind": "step", "step": 10, "bag_size": 1}
    ledger = read(tmp_path, header(superposition=None), step)
    assert ledger.header["methods"] == []
    assert ledger.steps[0]["facts"] == {}


def test_what_is_not_told_stays_untold(tmp_path: Path) -> None:
    ledger = read(tmp_path, header(), {"kind": "step", "step": 10})
    assert "methods" not in ledger.header
    assert ledger.steps[0]["facts"] is None


def test_output_superposition_reads_a_token_a_position(tmp_path: Path) -> None:
    ledger = read(tmp_path, header(superposition=SAVED | {"superpose": "output"}))
    assert ledger.header["methods"][0]["stages"][0]["tokens_a_position"] == 1


def test_flags_have_the_names_of_now(tmp_path: Path) -> None:
    old = {"tst_fixed_validation": True, "tst_ledger": "l", "tst_bag_size": 4, "lr": 1.0}
    assert read(tmp_path, header(flags=old)).header["flags"] == {
        "fixed_validation": True,
        "ledger": "l",
        "tst_bag_size": 4,
        "lr": 1.0,
    }


def test_a_run_begun_by_an_older_version_goes_on_in_schema_3(tmp_path: Path) -> None:
    """Lines are of the schema of the header before them."""
    stages = read(tmp_path, header(superposition=SAVED)).header["methods"][0]["stages"]
    method = {"name": "superposition", "stages": stages, "facts": SAVED}
    ledger = read(
        tmp_path,
        header(run_id="a", superposition=SAVED),
        {"kind": "step", "step": 10, "stage": 0, "bag_size": 4, "wall_clock_s": 1.0},
        header(run_id="a", schema_version=3, step=10, methods=[method]),
        {
            **{"kind": "step", "step": 20, "stage": 0, "facts": {"bag_size": 4}},
            "wall_clock_s": 2.0,
        },
        {"kind": "step", "step": 30, "stage": 1, "facts": {"bag_size": 1}, "wall_clock_s": 3.0},
    )
    assert [line["facts"]["bag_size"] for line in ledger.steps] == [4, 4, 1]
    assert [span.last_step for span in run_of_ledger(ledger, "run").stages] == [25, 30]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("baseline-seed1", [("single tokens", 14000)]),
        ("s8-then-s2-seed1", [("bags of 8", 2100), ("bags of 2", 4200), ("single tokens", 14000)]),
    ],
)
def test_the_committed_study_reads(name: str, stages: list[tuple[str, int]]) -> None:
    run = run_of_ledger(read_ledger(STUDY / f"{name}.jsonl.gz"), name)
    assert [(span.stage.name, span.last_step) for span in run.stages] == stages
    assert run.facts.methods is not None
    assert run.num_steps == 14000
