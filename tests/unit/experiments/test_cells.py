"""Runs that fail, break off or go on elsewhere, and what becomes of the others."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from stand_in import stand_in_for_torchrun

from tst_megatron.errors import UserError
from tst_megatron.experiments import launch
from tst_megatron.experiments.cells import Cell, Places, ledger_of, stop, train_cells

STEPS = 10
# Stands in for torchrun: what it does is in its --lr, and it leaves what a run does.
RUN = """#!/usr/bin/env bash
for word; do case $word in --lr=*) does=${word#*=};; --save=*) saves=${word#*=};; esac; done
folder=${saves%/checkpoints}
echo '{"kind": "header", "step": 0, "schema_version": 1}' > "$folder/ledger.jsonl"
[ $does = refuse ] && { echo "tst-megatron: error: the flag is wrong"; exit 1; }
echo '{"kind": "step", "step": 1, "bag_size": 1, "loss_name": "lm loss", "loss": 3.0, \
"wall_clock_s": 1.0, "positions": 8, "data_tokens": 8}' >> "$folder/ledger.jsonl"
[ $does = diverge ] && { echo "Unexpected result nan: found NaN in local forward loss"; exit 1; }
[ $does = crash ] && exit 7
echo '{"kind": "validation", "step": 10, "next_token_loss": 3.0}' >> "$folder/ledger.jsonl"
mkdir -p "$saves" && echo 10 > "$saves/latest_checkpointed_iteration.txt"
[ $does = break-at-the-end ] && exit 9
exit 0
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in_for_torchrun(tmp_path / "python", RUN, monkeypatch)
    return tmp_path / "cells"


def cells_that(*what: str) -> list[Cell]:
    return [Cell(f"{number}-{does}", (f"--lr={does}",), STEPS) for number, does in enumerate(what)]


def train(root: Path, *what: str, goes_on: bool = True) -> tuple[list[str], dict[str, str]]:
    done: list[str] = []
    failed: dict[str, str] = {}

    def note(cell: Cell, reason: str) -> None:
        failed[cell.name] = reason

    assert train_cells(
        root,
        cells_that(*what),
        Places(1),
        Console(quiet=True),
        lambda cell: done.append(cell.name),
        when_failed=note if goes_on else None,
    )
    return done, failed


def test_the_others_go_on_without_one_that_failed(root: Path) -> None:
    done, failed = train(root, "diverge", "work", "crash", "work")
    assert done == ["1-work", "3-work"]
    assert set(failed) == {"0-diverge", "2-crash"}
    assert "it diverged" in failed["0-diverge"]
    assert "it ended with code 7" in failed["2-crash"]
    # The same call tries what failed again, and nothing else.
    assert train(root, "diverge", "work", "crash", "work") == ([], failed)


def test_what_one_came_to_may_call_for_others(root: Path) -> None:
    first, second, third = cells_that("work", "work", "crash")
    failed: list[str] = []

    def replan() -> list[Cell]:
        # A failed one is offered again and again, and is not tried twice.
        return [third, second] if ledger_of(root, first).exists() else [first]

    assert train_cells(
        root,
        [first],
        Places(1),
        Console(quiet=True),
        when_failed=lambda cell, reason: failed.append(cell.name),
        replan=replan,
    )
    assert failed == [third.name]
    assert ledger_of(root, second).exists()


def test_all_end_where_one_has_not_made_a_step(root: Path) -> None:
    with pytest.raises(UserError, match="the 0-refuse run failed: the flag is wrong"):
        train(root, "refuse", "work")
    assert not (root / "1-work").exists()


def test_all_end_at_the_first_failure_where_nobody_takes_it(root: Path) -> None:
    with pytest.raises(UserError, match="the 0-crash run failed: it ended with code 7"):
        train(root, "crash", "work", goes_on=False)


def test_a_run_that_breaks_after_its_last_checkpoint_is_done(root: Path) -> None:
    assert train(root, "break-at-the-end") == (["0-break-at-the-end"], {})


def test_an_error_of_an_earlier_start_is_not_that_of_this_one(root: Path) -> None:
    log = root / "0-crash" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("tst-megatron: error: the corpus is missing\nfound NaN in local forward loss\n")
    _, failed = train(root, "crash")
    assert failed == {"0-crash": f"it ended with code 7: see the end of {log}"}


def test_a_finished_run_with_a_broken_ledger_is_not_trained_again(root: Path) -> None:
    train(root, "work")
    ledger = ledger_of(root, cells_that("work")[0])
    ledger.write_text(ledger.read_text().replace('"step": 1,', '"step": one,'))
    with pytest.raises(UserError, match=r"ledger\.jsonl, line 2"):
        train(root, "work")


@pytest.fixture
def other_trainer(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose sweep was killed: it goes on alone."""
    log = root / "0-work" / "log.txt"
    log.parent.mkdir(parents=True)
    with log.open("ab") as output:
        launch._lock(output, log)
        trainer = subprocess.Popen(["sleep", "600"], stdout=output)
    yield trainer
    trainer.kill()
    trainer.wait()


def test_two_trainers_are_never_in_one_folder(
    root: Path, other_trainer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_LOCK_TIMEOUT_S", 0.3)
    with pytest.raises(UserError, match=r"a run is still going on in .*0-work: wait"):
        train(root, "work")
    other_trainer.kill()
    assert train(root, "work")[0] == ["0-work"]


class StubbornProcess:
    """It saves for a long time."""

    ended_at_once = False

    def ask_to_stop(self) -> None:
        pass

    def end(self, timeout_s: float = 60.0) -> None:
        if timeout_s:
            raise KeyboardInterrupt
        self.ended_at_once = True


def test_a_second_ctrl_c_leaves_no_run_behind() -> None:
    runs = [StubbornProcess(), StubbornProcess()]
    stop(runs)  # type: ignore[arg-type]  # Of a Process, all that is called.
    assert all(run.ended_at_once for run in runs)
