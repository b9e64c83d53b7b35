"""Cells on a machine with GPUs: each of the runs at a time sees GPUs of its own."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from stand_in import stand_in_for_torchrun

from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell, Places, places_here, train_cells

# Stands in for torchrun: it says what it was started with, and ends well.
SAYS = """#!/usr/bin/env bash
echo "gpus=$CUDA_VISIBLE_DEVICES device=${TST_MEGATRON_DEVICE:-default}"
printf '%s\\n' "$@"
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in_for_torchrun(tmp_path / "python", SAYS, monkeypatch)
    monkeypatch.delenv("TST_MEGATRON_DEVICE", raising=False)
    return tmp_path / "cells"


def logs(root: Path, jobs: int, nproc: int, on_gpus: bool) -> list[str]:
    cells = [Cell(name, ("--lr=1",), 10) for name in "abcd"]
    assert train_cells(root, cells, Places(jobs, nproc, on_gpus), Console(quiet=True))
    return [(root / cell.name / "log.txt").read_text() for cell in cells]


def test_every_run_at_a_time_has_gpus_of_its_own(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = logs(started, jobs=2, nproc=4, on_gpus=True)
    assert [text.splitlines()[0] for text in said[:2]] == [
        "gpus=0,1,2,3 device=default",
        "gpus=4,5,6,7 device=default",
    ]
    assert {text.splitlines()[0] for text in said[2:]} <= {t.splitlines()[0] for t in said[:2]}
    assert all("--nproc-per-node=4" in text and "--lr=1" in text for text in said)


def test_gpus_are_those_that_the_user_left_visible(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    said = logs(started, jobs=2, nproc=1, on_gpus=True)
    assert [text.splitlines()[0] for text in said[:2]] == [
        "gpus=4 device=default",
        "gpus=6 device=default",
    ]


def test_on_a_cpu_a_run_may_have_several_processes(started: Path) -> None:
    said = logs(started, jobs=4, nproc=2, on_gpus=False)
    assert all("device=cpu" in text and "--nproc-per-node=2" in text for text in said)


def test_jobs_have_their_share_of_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    assert places_here(2, None) == Places(2, 1)
    monkeypatch.delenv(DEVICE_VARIABLE)
    assert places_here(2, None) == Places(2, 4, on_gpus=True)
    assert places_here(3, 2).gpus(2) == range(4, 6)
    with pytest.raises(UserError, match="need 10 GPUs, and there are 8"):
        places_here(5, 2)
