"""Our trainer, of which one rank is killed once.

``-m tests.gpu.failing_pretrain RANK STEP FILE FLAGS…``. The file is made as it is killed, so
that what takes its place lives on.
"""

import os
import signal
import sys
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from tst_megatron.backends import prepare_backend

prepare_backend()

from tst_megatron.trainer import hooks, pretrain


def fail(rank: int, step: int, mark: Path) -> None:
    """Kill this process as its rank begins a step, unless that has been done."""
    train_step = hooks._ORIGINALS["train_step"]

    @wraps(train_step)
    def failing(*args: Any, **kwargs: Any) -> Any:
        iteration = signature(train_step).bind(*args, **kwargs).arguments["iteration"]
        if os.environ["RANK"] == str(rank) and iteration == step and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(*args, **kwargs)

    hooks._ORIGINALS["train_step"] = failing


if __name__ == "__main__":
    fail(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    pretrain.main(sys.argv[4:])
