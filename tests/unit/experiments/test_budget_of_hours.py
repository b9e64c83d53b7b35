"""Which cells a budget pays for, from ledgers of those that have run."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.experiments import budget
from tst_megatron.experiments.budget import Trained, cost_of, train_within
from tst_megatron.experiments.cells import Cell, Places, is_done, ledger_of
from tst_megatron.runs.ledger import read_ledger

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
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells in the order of their starts, by a trainer that writes; "|" is the end of
    those that run at once."""
    names: list[str] = []

    def train(
        root: Path,
        cells: Sequence[Cell],
        places: Places,
        *others: object,
        may_start,
        **named: object,
    ) -> bool:
        waiting = [cell for cell in cells if not is_done(root, cell)]
        while waiting:
            running: list[Cell] = []
            while waiting and len(running) < places.jobs and may_start(waiting[0], running):
                running.append(waiting.pop(0))
            if not running:
                break
            names.extend(cell.name for cell in running)
            names.append("|")
            for cell in running:
                write_run(root, cell)
        return True

    monkeypatch.setattr(budget, "train_cells", train)
    return names


def within(root: Path, hours: float | None, jobs: int = 1) -> Trained:
    return train_within(root, CELLS, Places(jobs), Console(quiet=True), hours)


def test_a_run_costs_its_start_and_its_steps(tmp_path: Path) -> None:
    write_run(tmp_path, CELLS[0])
    cost = cost_of(read_ledger(ledger_of(tmp_path, CELLS[0])))
    assert cost.start_hours == pytest.approx(START_HOURS)
    assert cost.hours(200) == pytest.approx(START_HOURS + 2 * HOURS)


def test_without_a_budget_all_are_run(tmp_path: Path, started) -> None:
    trained = within(tmp_path, None)
    assert "".join(started) == "a|b|c|d|e|f|g|h|"
    assert (trained.finished, trained.left_out) == (True, ())
    assert trained.spent_hours == pytest.approx(8 * 1.1)


def test_the_first_is_measured_and_the_rest_are_as_many_as_fit(tmp_path: Path, started) -> None:
    trained = within(tmp_path, 4.5, jobs=2)
    assert "".join(started) == "a|bc|d|"
    assert [cell.name for cell in trained.left_out] == list("efgh")
    assert trained.spent_hours == pytest.approx(4.4)
    # The same call goes on from there, and so does one with more hours.
    assert within(tmp_path, 4.5).left_out == trained.left_out
    assert within(tmp_path, 100).left_out == ()
    assert "".join(started) == "a|bc|d|e|f|g|h|"


def test_what_turns_out_dearer_is_known_before_the_next_start(
    tmp_path: Path, started, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, CELLS[0])
    monkeypatch.setattr(sys.modules[__name__], "HOURS", 3.0)
    # 1.1 is spent and b, which looked the same, takes 3.1: with 7 hours c is the last.
    assert [cell.name for cell in within(tmp_path, 7.5).left_out] == list("defgh")
    assert "".join(started) == "b|c|"


def test_runs_of_another_grid_have_cost_their_hours_too(tmp_path: Path, started) -> None:
    write_run(tmp_path, Cell("other", (), 100))
    trained = within(tmp_path, 2.3)
    assert "".join(started) == "a|"
    assert trained.spent_hours == pytest.approx(2.2)


def test_a_ledger_that_cannot_be_read_is_not_free(tmp_path: Path, started) -> None:
    write_run(tmp_path, CELLS[0])
    write_run(tmp_path, CELLS[1])
    ledger = ledger_of(tmp_path, CELLS[1])
    ledger.write_text("none\n" + ledger.read_text())
    with pytest.raises(UserError, match=r"b/ledger\.jsonl, line 1"):
        within(tmp_path, 4.5)


def test_a_budget_for_less_than_one_runs_one(tmp_path: Path, started) -> None:
    trained = within(tmp_path, 0.01)
    assert "".join(started) == "a|"
    assert len(trained.left_out) == 7


def test_a_run_that_is_half_done_costs_its_other_half(tmp_path: Path, started) -> None:
    write_run(tmp_path, CELLS[0])
    write_run(tmp_path, CELLS[1], steps=50)
    # 1.1 and 0.6 are spent; 0.5 finishes b, and there is no other whole run in what is left.
    assert [c.name for c in within(tmp_path, 2.3).left_out] == list("cdefgh")
    assert "".join(started) == "b|"


def test_what_was_cut_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "train_cells", lambda *others, **named: False)
    assert within(tmp_path, None) == Trained(False, 0.0)


def test_runs_that_end_early_are_not_started_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(
        root: Path, cells: Sequence[Cell], *others: object, may_start, **named: object
    ) -> bool:
        for cell in cells:
            assert may_start(cell, ())
            write_run(root, cell, steps=cell.num_steps // 2)
        return True

    monkeypatch.setattr(budget, "train_cells", train)
    with pytest.raises(UserError, match="the run a ended before its last step"):
        within(tmp_path, None)
