"""Our trainer, with every step looked at: ``-m tests.gpu.watched_pretrain OUT FLAGS…``.

It leaves ``watched-RANK.json`` in the folder OUT: of every step the milliseconds between two events
of the GPU around it (of the clock, on a CPU), the CUDA graphs that were captured in it or since the
step before, and the most memory that was in use. Events are read when the run has ended: no step
waits for one.
"""

import json
import os
import sys
import time
from functools import wraps
from pathlib import Path
from typing import Any

from tst_megatron.backends import prepare_backend

prepare_backend()

import torch

from tst_megatron.trainer import hooks, pretrain

train_step = hooks._ORIGINALS["train_step"]
on_gpu = torch.cuda.is_available() and os.environ.get("TST_MEGATRON_DEVICE") != "cpu"
steps: list[dict[str, Any]] = []
captures = 0
"""Since the last step."""


def moment() -> Any:
    """An event of the GPU, or the clock."""
    if not on_gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def milliseconds(start: Any, end: Any) -> float:
    """Between two moments."""
    return float(start.elapsed_time(end) if on_gpu else (end - start) * 1e3)


def count_captures() -> None:
    """Count the beginnings of CUDA graphs' captures from here on."""
    begin = torch.cuda.CUDAGraph.capture_begin

    @wraps(begin)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global captures
        captures += 1
        return begin(*args, **kwargs)

    torch.cuda.CUDAGraph.capture_begin = counted


@wraps(train_step)
def watched(*args: Any, **kwargs: Any) -> Any:
    """Megatron's step, between two moments."""
    global captures
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = moment()
    result = train_step(*args, **kwargs)
    steps.append(
        {
            "moments": (start, moment()),
            "captures": captures,
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        }
    )
    captures = 0
    return result


def main(out: Path, flags: list[str]) -> None:
    """Train, and write what was seen."""
    if on_gpu:
        count_captures()
    hooks._ORIGINALS["train_step"] = watched
    pretrain.main(flags)
    if on_gpu:
        torch.cuda.synchronize()
    lines = [
        {"ms": milliseconds(*step.pop("moments")), **step, "reserved_bytes": _reserved()}
        for step in steps
    ]
    (out / f"watched-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(lines))


def _reserved() -> int | None:
    return torch.cuda.max_memory_reserved() if on_gpu else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
