"""A run's status from the end of its ledger."""

import json
from pathlib import Path
from typing import Any

import pytest

from tst_megatron.experiments import bars
from tst_megatron.experiments.bars import Status, status_of
from tst_megatron.runs.stages import ORDINARY, Stage


def step(number: int, bag_size: int = 1) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": number,
        "wall_clock_s": 2.0 * number,
        "positions": 1000 * number,
        "data_tokens": 1000 * number * bag_size,
        "stage": int(bag_size == 1),
        "facts": {"bag_size": bag_size},
        "loss": 5.0 - number / 1000,
        "loss_name": "lm loss",
    }


def header(number: int) -> dict[str, Any]:
    stages = [
        Stage("bags of 4", 8, facts={"bag_size": 4}),
        Stage(ORDINARY, 8, facts={"bag_size": 1}),
    ]
    method = {"name": "some", "stages": [stage.as_json() for stage in stages], "facts": {}}
    return {"kind": "header", "step": number, "schema_version": 3, "methods": [method]}


def written(path: Path, lines: list[dict[str, Any]], rest: str = "") -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + rest)
    return path


def test_rates_are_of_the_latest_steps(tmp_path: Path) -> None:
    lines = [header(0), *(step(number) for number in range(10, 510, 10))]
    assert status_of(written(tmp_path / "ledger.jsonl", lines), 1000) == Status(
        step=500,
        stage="single tokens",
        loss=4.5,
        loss_name="lm loss",
        positions_per_s=500.0,
        data_tokens_per_s=500.0,
        left_s=1000.0,
    )


def test_a_run_that_has_logged_nothing_starts(tmp_path: Path) -> None:
    assert status_of(tmp_path / "none", 10) == Status()
    assert status_of(written(tmp_path / "ledger.jsonl", [header(0)]), 10) == Status()


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", [header(0), step(10)], '{"kind": "step", "st')
    assert status_of(path, 100).step == 10


def test_replayed_steps_replace_those_that_were_lost(tmp_path: Path) -> None:
    lines = [header(0), *(step(number) for number in (10, 20, 30)), header(10)]
    assert status_of(written(tmp_path / "ledger.jsonl", lines), 100).step == 10
    lines.append(step(20, bag_size=4))
    status = status_of(written(tmp_path / "ledger.jsonl", lines), 100)
    assert (status.step, status.stage) == (20, "bags of 4")


def test_only_the_end_of_a_long_ledger_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is before the tail is not looked at: here it is no ledger at all."""
    monkeypatch.setattr(bars, "_TAIL_BYTES", 1000)
    path = tmp_path / "ledger.jsonl"
    written(path, [step(10), step(20)])
    path.write_text("no line of a ledger\n" * 1000 + path.read_text())
    assert status_of(path, 100).step == 20
