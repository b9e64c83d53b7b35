"""Ctrl-C in the midst of training: one line, the exit code that shells give it, a whole ledger."""

import os
import subprocess
import sys
from pathlib import Path

from interrupting import interrupt_when
from trainer import TINY

from tst_megatron.runs.ledger import read_ledger

_LONG = ("--train-iters=100000", "--lr-wsd-decay-iters=10", "--log-interval=1", "--num-workers=1")


def test_ctrl_c_is_one_line_and_leaves_a_whole_ledger(corpus, tmp_path: Path) -> None:
    ledger, log = tmp_path / "ledger.jsonl", tmp_path / "log.txt"
    # As in a terminal: it reaches the workers that load data as well.
    with log.open("w") as output:
        running = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "tst_megatron", "pretrain"),
                *(*TINY, *corpus.flags, *_LONG, f"--ledger={ledger}"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if "MASTER_" not in name},
            text=True,
        )
    interrupt_when(
        lambda: ledger.exists() and '"step": 5,' in ledger.read_text(),
        running,
        whole_group=True,
    )
    said = log.read_text()
    assert "Traceback" not in said, said[-4000:]
    assert said.splitlines().count("tst-megatron: stopped by Ctrl-C") == 1
    assert ledger.read_text().endswith("\n")
    steps = [line["step"] for line in read_ledger(ledger).steps]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 5
