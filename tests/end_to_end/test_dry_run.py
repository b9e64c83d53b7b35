"""``pretrain --dry-run``: what a run would do, on a machine that is not the run's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainer import TINY

# Of 64 GPUs that are not there, in FP8, with Transformer Engine.
CLUSTER = (
    *("--recipe", "smollm3-3b-tst+64xh100+fp8-tensorwise", "--mock-data"),
    *("--tokenizer-type=NullTokenizer", "--vocab-size=128000"),
)


def dry(*words: str, **environment: str) -> tuple[int, list[str]]:
    """The code, and what our own lines say."""
    done = subprocess.run(
        [sys.executable, "-m", "tst_megatron", "pretrain", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, [line for line in lines if line.startswith("tst-megatron: ")]


def test_a_clusters_run_is_told_on_a_laptop(tmp_path: Path) -> None:
    save = tmp_path / "not" / "here"
    code, lines = dry("--dry-run", *CLUSTER, f"--save={save}", f"--tensorboard-dir={save}")
    assert code == 0, lines
    said = "\n".join(lines)
    assert "a dry run on 64 x h100: nothing is trained or written" in said
    assert "20,000 steps: 6,000 of bags of 6" in said
    assert "64 ranks: TP 1, PP 1, EP 1, CP 1, DP 64" in said
    assert "of text needed: mock data" in said
    assert "Fits: the fullest is rank 0" in said
    assert lines[-1].endswith("nothing that is asked before training would refuse the run")
    assert not save.parent.exists()


def test_the_text_and_the_layout_are_looked_at(corpus, tmp_path: Path) -> None:
    """As a launcher's rank has it: 2 data-parallel ranks of a micro-batch of 2 have the batch."""
    own = (*TINY, *corpus.flags, f"--save={tmp_path / 'saved'}", "--save-interval=5")
    code, lines = dry("--dry-run", *own, "--tst-bag-size=2", "--tst-step-ratio=0.4", WORLD_SIZE="2")
    assert code == 0, lines
    assert any("10 steps: 4 of bags of 2" in line for line in lines)
    assert any("tokens of text needed, " in line and "in 1 corpus" in line for line in lines)
    assert not (tmp_path / "saved").exists()
    assert dry("--dry-run", *own, WORLD_SIZE="2", RANK="1") == (0, [])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*CLUSTER, "--data-path=not-there"), "--mock-data"),
        (
            (*CLUSTER[:2], *CLUSTER[3:], "--data-path=not-there"),
            "the corpus not-there is missing",
        ),
        ((*CLUSTER, "--evaluate-at=end", "--evaluate-text=a.txt"), "reads ids alone"),
        (("--dry-run=64xh1000", *CLUSTER), "--dry-run 64xh1000 names no GPUs"),
        (("--dry-run=8xa100", *CLUSTER), "the a100 has no FP8"),
        ((*CLUSTER, "--tensor-model-parallel-size=3"), "does not divide by"),
        ((*CLUSTER, "--micro-batch-size=64", "--global-batch-size=4096"), "does not fit"),
        ((*CLUSTER, "--tst-bag-size=0"), "bag size 0 is below 1"),
        (
            ("--dry-run=2", "--recipe", "tiny", *CLUSTER[2:], "--train-iters=9"),
            "--global-batch-size 4 does not divide by --micro-batch-size 4 x 2 data-parallel ranks",
        ),
    ],
    ids=[
        *("mock data", "text", "questions", "GPUs", "FP8", "layout", "memory", "method", "batch"),
    ],
)
def test_what_would_refuse_it_is_told(words: tuple[str, ...], says: str) -> None:
    asked = words if words[0].startswith("--dry-run") else ("--dry-run", *words)
    code, lines = dry(*asked)
    assert code == 2, lines
    assert any(says in line for line in lines), lines
