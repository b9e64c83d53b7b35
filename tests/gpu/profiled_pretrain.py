"""Our trainer, of which some steps run under torch's profiler.

``-m tests.gpu.profiled_pretrain OUT STEP,STEP… FLAGS…``. It leaves ``profiled-RANK.json`` in the
folder OUT: of every one of these steps how often the profiler has each name.
"""

import json
import os
import sys
from collections.abc import Set
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from tst_megatron.backends import prepare_backend

prepare_backend()

import torch

from tests.gpu.profiler import profiled
from tst_megatron.trainer import hooks, pretrain


def profile_steps(numbers: Set[int]) -> dict[int, dict[str, int]]:
    """Profile Megatron's steps of these numbers, from 1; what is seen comes into the result."""
    train_step = hooks._ORIGINALS["train_step"]
    seen: dict[int, dict[str, int]] = {}

    @wraps(train_step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        number = signature(train_step).bind(*args, **kwargs).arguments["iteration"] + 1
        if number not in numbers:
            return train_step(*args, **kwargs)
        results: list[Any] = []
        on_gpu = torch.cuda.is_available() and os.environ.get("TST_MEGATRON_DEVICE") != "cpu"
        seen[number] = profiled(lambda: results.append(train_step(*args, **kwargs)), on_gpu)
        return results[0]

    hooks._ORIGINALS["train_step"] = watched
    return seen


def main(out: Path, numbers: Set[int], flags: list[str]) -> None:
    """Train, and write what was seen."""
    seen = profile_steps(numbers)
    pretrain.main(flags)
    (out / f"profiled-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), {int(number) for number in sys.argv[2].split(",")}, sys.argv[3:])
