"""What a run has that no line of its ledger has as it stands: its parents' costs, bits a byte."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tst_megatron.runs.ledger import Ledger, read_ledger
from tst_megatron.runs.run import RecordedRun, run_of_ledger

SPENT = {"flops": 1e9, "gpu_hours": 2.0, "data_tokens": 500}


def made(*, parents: Any = (), **validation: Any) -> RecordedRun:
    line = {
        "step": 10,
        **{"flops": 1e8, "gpu_hours": 0.5, "data_tokens": 100, "positions": 100},
        "wall_clock_s": 60.0,
        "next_token_loss": 3.0,
        "facts": {},
        **validation,
    }
    header = {"parents": list(parents), "methods": []}
    return run_of_ledger(Ledger(header, [line], [line], path=Path("run")), "run")


def test_what_parents_spent_counts() -> None:
    parents = [{"ledger": "small", "step": 7, **SPENT}, {"ledger": None, "step": 9, **SPENT}]
    run = made(parents=parents)
    for series in (run.curve, run.steps):
        assert (series.flops[0], series.gpu_hours[0]) == (2.1e9, 4.5)
        assert series.data_tokens[0] == 1100
        # Positions are the run's own, and how long parents took by the clock is in no ledger.
        assert series.positions[0] == 100
        assert math.isnan(series.wall_clock_s[0])
    assert run.notes == (
        "It started from step 7 of small, step 9 of a run without a ledger: what was spent there "
        "counts, and its wall-clock is not known.",
    )


def test_a_byte_model_counts_and_is_called_what_it_is() -> None:
    model = {"ledger": None, "step": 0, "flops": 3e9, "gpu_hours": 0.25, "data_tokens": 0}
    run = made(parents=[model | {"what": "a byte model"}])
    assert (run.curve.flops[0], run.curve.gpu_hours[0]) == (3.1e9, 0.75)
    assert run.curve.data_tokens[0] == 100
    # The run's own, which a model that was trained for its text does not take away.
    assert run.curve.wall_clock_s[0] == run.steps.wall_clock_s[0] == 60.0
    assert run.notes == (
        "Its text needs a byte model, which took 3e+09 FLOPs and 0.25 GPU hours to train: that "
        "counts, but not in the run's wall-clock, as how long it took is not known.",
    )


def test_hours_of_a_byte_model_that_are_not_known_are_told_so() -> None:
    model = {"ledger": None, "step": 0, "flops": 3e9, "gpu_hours": None, "data_tokens": 0}
    run = made(parents=[model | {"what": "a byte model"}])
    assert math.isnan(run.curve.gpu_hours[0])
    assert "3e+09 FLOPs and unknown GPU hours" in run.notes[0]
    of_a_run = made(parents=[model | {"what": "a byte model"}, {"ledger": "a", "step": 1, **SPENT}])
    assert math.isnan(of_a_run.curve.wall_clock_s[0])


def test_every_start_tells_of_the_byte_model_and_it_counts_once(tmp_path: Path) -> None:
    model = {"ledger": None, "step": 0, **SPENT, "data_tokens": 0, "what": "a byte model"}
    header = {"kind": "header", "schema_version": 3, "run_id": "r", "parents": [model]}
    lines: list[dict[str, Any]] = [
        {**header, "step": 0},
        {"kind": "validation", "step": 5, "flops": 5e7, "next_token_loss": 4.0},
        {**header, "step": 5},
        {"kind": "validation", "step": 10, "flops": 1e8, "next_token_loss": 3.0},
    ]
    (tmp_path / "ledger.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = run_of_ledger(read_ledger(tmp_path / "ledger.jsonl"), "run")
    assert run.curve.flops.tolist() == [1.05e9, 1.1e9]
    assert len(run.notes) == 1


def test_what_a_parent_does_not_tell_is_not_known_of_the_run() -> None:
    run = made(parents=[{"ledger": None, "step": 1, **SPENT, "gpu_hours": None}])
    assert math.isnan(run.curve.gpu_hours[0])
    assert run.curve.flops[0] == 1.1e9


def test_without_parents_nothing_is_added() -> None:
    run = made()
    assert (run.curve.wall_clock_s[0], run.curve.flops[0], run.notes) == (60.0, 1e8, ())


def test_a_loss_in_bits_a_byte() -> None:
    """A token of 4 bytes at 3 nats."""
    run = made(tokens=128, bytes=512)
    assert run.curve.bits_a_byte == pytest.approx([3.0 / 4 / math.log(2)])
    assert run.curve.losses == [3.0]


@pytest.mark.parametrize("told", [{}, {"tokens": 128, "bytes": None}, {"tokens": 0, "bytes": 0}])
def test_without_the_bytes_of_the_text_they_are_not_known(told: Any) -> None:
    assert np.isnan(made(**told).curve.bits_a_byte).all()
