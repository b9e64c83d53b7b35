"""Training on a CPU where Transformer Engine is installed, as in an image for GPUs.

What trains is a process of its own: in this one, models of Transformer Engine's modules are built.
"""

import os
import subprocess
import sys
from math import log
from pathlib import Path

import pytest
from ledgers import bag_size
from trainer import REPOSITORY, TINY, Job, run

pytestmark = pytest.mark.usefixtures("transformer_engine")


def test_a_run_with_bags(corpus, tmp_path: Path) -> None:
    bags = ("--tst-bag-size=4", "--tst-step-ratio=0.5")
    result = run(Job(tmp_path, (*TINY, *corpus.flags, *bags)))
    assert [bag_size(line) for line in result.ledger.steps] == [4] * 5 + [1] * 5
    assert result.losses[-1] < result.losses[0] <= 1.1 * log(384)


def test_the_demo(corpus, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number, document in enumerate(corpus.documents):
        (text / f"{number}.txt").write_text(document)
    small = (
        *("--vocab-size=384", "--steps=40", "--tst-bag-size=2", "--tst-step-ratio=0.25"),
        *("--num-layers=1", "--hidden-size=32", "--ffn-hidden-size=64"),
        *("--num-attention-heads=2", "--seq-length=32", "--max-position-embeddings=32"),
        *("--eval-iters=2", "--eval-global-batch-size=8", "--eval-micro-batch-size=8"),
    )
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "tst_megatron", "demo"),
            *(f"--corpus={text}", f"--out={tmp_path / 'out'}", *small),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "report.json").exists()
