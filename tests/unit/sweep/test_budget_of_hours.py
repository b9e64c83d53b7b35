"""Which cells a budget pays for, from ledgers of those that have run."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.sweep import training
from tst_megatron.sweep.training import Machine, cost_of, train_within
from tst_megatron.training.cells import Cell

CELLS = [Cell(name, (), 100) for name in "abcdefgh"]
START_HOURS, HOURS = 0.1, 1.0


def write_run(root: Path, cell: Cell, steps: int | None = None) -> None:
    """A run as the trainer leaves it: 0.1 hours of start-up, and an hour of 100 steps."""
    folder = root / cell.name
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    reached = cell.num_steps if steps is None else steps
    lines = [{"kind": "header", "step": 0, "schema_version": 1, "world_size": 2}]
    for step in (1, reached):
        clock = 3600 * (START_HOURS + HOURS * step / 100) / 2
        fields = {"step": step, "wall_clock_s": clock, "positions": 1, "data_tokens": 1, "flops": 1}
        lines.append({"kind": "step", **fields, "bag_size": 1, "loss": 3.0})
    if reached == cell.num_steps:
        lines.append({"kind": "validation", **fields, "next_token_loss": 3.0})
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(reached))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the cells of each round; they are trained at once, by a trainer that writes."""
    rounds: list[list[str]] = []

    def train(root: Path, cells: Sequence[Cell], *others: object, **named: object) -> bool:
        rounds.append([cell.name for cell in cells])
        for cell in cells:
            write_run(root, cell)
        return True

    monkeypatch.setattr(training, "train_cells", train)
    return rounds


def within(root: Path, hours: float | None, cells: Sequence[Cell] = CELLS) -> training.Trained:
    return train_within(root, cells, Machine(1, 1, False), Console(quiet=True), hours)


def test_a_run_costs_its_start_and_its_steps(tmp_path: Path) -> None:
    write_run(tmp_path, CELLS[0])
    cost = cost_of(tmp_path, CELLS[0])
    assert cost.start_hours == pytest.approx(START_HOURS)
    assert cost.hours(200) == pytest.approx(START_HOURS + 2 * HOURS)


def test_without_a_budget_all_are_run(tmp_path: Path, batches) -> None:
    trained = within(tmp_path, None)
    assert batches == [list("abcdefgh")]
    assert (trained.finished, trained.left_out) == (True, ())
    assert trained.spent_hours == pytest.approx(8 * 1.1)


def test_the_first_is_measured_and_the_rest_are_as_many_as_fit(tmp_path: Path, batches) -> None:
    trained = within(tmp_path, 4.5)
    assert batches == [["a"], ["b", "c", "d"]]
    assert [cell.name for cell in trained.left_out] == list("efgh")
    assert trained.spent_hours == pytest.approx(4.4)
    # The same call goes on from there, and so does one with more hours.
    assert within(tmp_path, 4.5).left_out == trained.left_out
    assert within(tmp_path, 100).left_out == ()
    assert batches[2:] == [list("efgh")]


def test_a_budget_for_less_than_one_runs_one(tmp_path: Path, batches) -> None:
    trained = within(tmp_path, 0.01)
    assert batches == [["a"]]
    assert len(trained.left_out) == 7


def test_a_run_that_is_half_done_costs_its_other_half(tmp_path: Path, batches) -> None:
    write_run(tmp_path, CELLS[0])
    write_run(tmp_path, CELLS[1], steps=50)
    # 1.1 and 0.6 are spent; 0.5 finishes b, and there is no other whole run in what is left.
    assert [c.name for c in within(tmp_path, 2.3).left_out] == list("cdefgh")
    assert batches == [["b"]]


def test_what_was_cut_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train_cells", lambda *others, **named: False)
    assert within(tmp_path, None) == training.Trained(False, 0.0)


def test_runs_that_end_early_are_not_started_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(root: Path, cells: Sequence[Cell], *others: object, **named: object) -> bool:
        for cell in cells:
            write_run(root, cell, steps=cell.num_steps // 2)
        return True

    monkeypatch.setattr(training, "train_cells", train)
    with pytest.raises(UserError, match="the run a ended before its last step"):
        within(tmp_path, None)
