"""Runs that start from a checkpoint of another one: trained once, and before them."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from stand_in import stand_in_for_torchrun

from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell, Places, Start, train_cells, with_starts

STEPS, CUT = 10, 4
# Stands in for torchrun: it saves steps 4 and 10 unless its --lr says otherwise.
RUN = """#!/usr/bin/env bash
for word; do case $word in --lr=*) does=${word#*=};; --save=*) saves=${word#*=};; esac; done
folder=${saves%/checkpoints}
printf '%s\\n' "$@" > "$folder/words.txt"
echo "$(basename "$folder")" >> "$(dirname "$folder")/order.txt"
echo '{"kind": "header", "step": 0, "schema_version": 1}' > "$folder/ledger.jsonl"
echo '{"kind": "step", "step": 1, "bag_size": 1, "loss_name": "lm loss", "loss": 3.0, \
"wall_clock_s": 1.0, "positions": 8, "data_tokens": 8}' >> "$folder/ledger.jsonl"
[ $does = crash ] && exit 7
mkdir -p "$saves/iter_0000004" && echo -n 4 > "$saves/latest_checkpointed_iteration.txt"
[ $does = crash-later ] && exit 7
echo '{"kind": "validation", "step": 10, "next_token_loss": 3.0}' >> "$folder/ledger.jsonl"
mkdir -p "$saves/iter_0000010" && echo -n 10 > "$saves/latest_checkpointed_iteration.txt"
exit 0
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in_for_torchrun(tmp_path / "python", RUN, monkeypatch)
    return tmp_path / "cells"


def a_cell(name: str, does: str = "work", start: Start | None = None) -> Cell:
    return Cell(name, (f"--lr={does}",), STEPS, start)


def train(root: Path, *cells: Cell, jobs: int = 1) -> tuple[list[str], dict[str, str]]:
    done: list[str] = []
    failed: dict[str, str] = {}
    assert train_cells(
        root,
        cells,
        Places(jobs),
        Console(quiet=True),
        lambda cell: done.append(cell.name),
        when_failed=lambda cell, reason: failed.update({cell.name: reason}),
    )
    return done, failed


def words_of(root: Path, cell: Cell) -> list[str]:
    return (root / cell.name / "words.txt").read_text().splitlines()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_others_start_from_is_trained_first_and_once(root: Path, jobs: int) -> None:
    small = a_cell("small")
    one, other = (a_cell(name, start=Start(small, CUT)) for name in ("one", "other"))
    done, failed = train(root, one, a_cell("alone"), other, small, jobs=jobs)
    assert not failed
    assert sorted(done) == ["alone", "one", "other", "small"]
    order = (root / "order.txt").read_text().split()
    assert order.count("small") == 1
    # A second place is not idle for as long as the first one is needed.
    first = ["small"] if jobs == 1 else ["alone", "small"]
    assert sorted(order[:jobs]) == first
    given = words_of(root, one)
    checkpoints = root / "small" / "checkpoints"
    assert given[-3:] == [f"--load={checkpoints}", f"--ckpt-step={CUT}", "--load-once"]
    assert f"--save={root / 'one' / 'checkpoints'}" in given
    assert not any(word.startswith("--ckpt-step") for word in words_of(root, small))


def test_another_flag_may_name_the_checkpoint(root: Path) -> None:
    dense = a_cell("dense")
    experts = a_cell("experts", start=Start(dense, CUT, "upcycle-from"))
    train(root, experts)
    (loaded,) = (word for word in words_of(root, experts) if word.startswith("--load="))
    assert loaded == f"--load={root / 'experts' / 'checkpoints'}"
    assert words_of(root, experts)[-2:] == [
        f"--upcycle-from={root / 'dense' / 'checkpoints'}",
        f"--ckpt-step={CUT}",
    ]


def test_one_whose_start_never_comes_is_told_of_and_the_others_go_on(root: Path) -> None:
    small = a_cell("small", "crash")
    grown = a_cell("grown", start=Start(small, CUT))
    again = a_cell("again", start=Start(grown, CUT))
    done, failed = train(root, again, grown, a_cell("alone"))
    assert done == ["alone"]
    assert set(failed) == {"small", "grown", "again"}
    assert failed["grown"] == "it starts from a step that small did not come to"


def test_a_checkpoint_on_the_way_is_enough(root: Path) -> None:
    """Whatever became of the run later."""
    small = a_cell("small", "crash-later")
    early, late = (a_cell(f"at{step}", start=Start(small, step)) for step in (CUT, STEPS))
    done, failed = train(root, early, late)
    assert done == ["at4"]
    assert set(failed) == {"small", "at10"}
    # Nor is it trained again for one that has what it needs.
    assert with_starts(root, [a_cell("other", start=Start(small, CUT))])[0].name == "other"


def test_a_run_is_trained_again_where_its_folder_is_gone(root: Path) -> None:
    small = a_cell("small")
    one, other = (a_cell(name, start=Start(small, CUT)) for name in ("one", "other"))
    train(root, one)
    shutil.rmtree(root / "small")
    # One that is done, or has begun, needs it no more.
    assert train(root, one) == ([], {})
    assert train(root, other) == (["small", "other"], {})


def test_a_checkpoint_that_was_deleted_is_asked_for_in_a_sentence(root: Path) -> None:
    small = a_cell("small")
    train(root, small)
    shutil.rmtree(root / "small" / "checkpoints" / "iter_0000004")
    with pytest.raises(UserError, match="grown starts from step 4 of small, which is done and has"):
        train(root, a_cell("grown", start=Start(small, CUT)))
