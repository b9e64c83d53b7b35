"""A checkpoint is as large as its plan says."""

from pathlib import Path

import pytest
from trainer import TINY, Job, run_all

from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.plan import make_plan

_WIDE = ("--hidden-size=256", "--ffn-hidden-size=1024", "--train-iters=4", "--eval-iters=0")
_PRECISIONS = {"fp32": (), "bf16": ("--bf16", "--use-distributed-optimizer")}


def test_bytes_on_disk(corpus, tmp_path: Path) -> None:
    flags = {name: (*TINY, *_WIDE, *more) for name, more in _PRECISIONS.items()}
    folders = {name: tmp_path / name / "checkpoints" for name in flags}
    run_all(
        [
            Job(
                tmp_path / name,
                (*flags[name], *corpus.flags, f"--save={folder}", "--save-interval=4"),
            )
            for name, folder in folders.items()
        ]
    )
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        plan = make_plan((*flags[name], *corpus.flags), 1, GPUS["h100"])
        # The rest is names, shapes and Megatron's arguments.
        assert plan.checkpoint_bytes == pytest.approx(size, rel=0.01)
        assert plan.checkpoint_bytes < size
