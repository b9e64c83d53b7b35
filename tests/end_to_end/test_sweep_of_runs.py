"""``tst-megatron sweep`` as a user calls it, two cells of a tiny model: cut off, called again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from interrupting import interrupt_when
from surfaces import SEARCH

from tst_megatron.runs.ledger import LedgerError, read_ledger
from tst_megatron.sweep.outcomes_csv import read_csv

STEPS = 400
SMALL = (
    *("--recipe", "tiny", "--bag-sizes", "4", "--step-ratios", "0.25"),
    *("--split=900,100,0", "--train-iters", f"{STEPS}", "--lr-wsd-decay-iters", "40"),
    *("--num-layers", "1", "--hidden-size", "32", "--ffn-hidden-size", "64"),
    *("--num-attention-heads", "2", "--seq-length", "32", "--max-position-embeddings", "32"),
    *("--eval-iters", "2", "--eval-global-batch-size", "8", "--eval-micro-batch-size", "8"),
)
BASELINE, SUPERPOSED = "baseline-seed1234", "s4-r0.25-seed1234"
ENVIRONMENT = os.environ | {"TERM": "dumb", "COLUMNS": "120"}


def start(out: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-W", "ignore", "-m", "tst_megatron", "sweep", "--out", str(out), *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def sweep(out: Path, *flags: str) -> tuple[int, str]:
    running = start(out, *flags)
    said, _ = running.communicate(timeout=400)
    return running.returncode, said


def steps_of(out: Path, cell: str) -> int:
    try:
        return read_ledger(out / "cells" / cell / "ledger.jsonl").steps[-1]["step"]
    except (LedgerError, IndexError):
        return 0


def test_a_sweep_that_is_cut_off_and_called_again(corpus, tmp_path: Path) -> None:
    out, flags = tmp_path / "sweep", (*SMALL, *corpus.flags)
    running = start(out, *flags)
    interrupt_when(lambda: steps_of(out, BASELINE) >= 30, running)
    assert json.loads((out / "report.json").read_text())["partial"]
    cut = steps_of(out, BASELINE)
    assert 30 <= cut < STEPS
    assert not (out / "cells" / SUPERPOSED).exists()

    code, said = sweep(out, *flags, "--jobs", "2")
    assert code == 0, said
    report = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert not report["partial"]
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    ledgers = {
        cell: read_ledger(out / "cells" / cell / "ledger.jsonl") for cell in (BASELINE, SUPERPOSED)
    }
    assert all(ledger.steps[-1]["step"] == STEPS for ledger in ledgers.values())
    assert ledgers[BASELINE].header["step"] >= cut - 10, "it started from the beginning"
    _, outcomes = read_csv(out / "cells.csv", [SEARCH])
    results = {outcome.choice.bag_size: outcome for outcome in outcomes}
    positions = STEPS * 4 * 32
    assert results[1].data_tokens == positions
    # A quarter of the steps reads four times the text.
    assert results[4].data_tokens == positions * 7 // 4
    gain = results[1].loss - results[4].loss
    assert report["recommendation"]["gain"]["value"] == pytest.approx(gain)
    assert report["headline"] in " ".join(said.split())

    code, said = sweep(out, *flags, "--lr", "1e-3")
    assert code == 2, said
    assert "holds a sweep with lr 0.0005, and this one has 1e-3" in said
    code, said = sweep(tmp_path / "slip", *flags, "--lr-warmup-iter", "3")
    assert code == 2, said
    assert "did you mean lr-warmup-iters?" in said
    assert not (tmp_path / "slip").exists()
