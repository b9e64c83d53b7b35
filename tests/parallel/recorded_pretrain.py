"""Our trainer, with the collectives of every step written down.

``torchrun recorded_pretrain.py OUT FLAGS…`` leaves ``rank-N.json`` in the folder OUT.
"""

import json
import os
import sys
from functools import wraps
from pathlib import Path

from tst_megatron.backends import prepare_backend

prepare_backend()

from benchmarks.collectives import Recorder
from tst_megatron.trainer import hooks, pretrain
from tst_megatron.trainer.forward_step import ForwardStep

get_batch = ForwardStep.get_batch
train_step = hooks._ORIGINALS["train_step"]
steps: list[dict[str, list]] = []


@wraps(train_step)
def recorded(*args, **kwargs):
    recorder = Recorder()
    ForwardStep.get_batch = recorder.in_batch(get_batch)
    with recorder:
        result = train_step(*args, **kwargs)
    steps.append({"step": recorder.step, "batch": recorder.batch})
    return result


if __name__ == "__main__":
    out, flags = Path(sys.argv[1]), sys.argv[2:]
    hooks._ORIGINALS["train_step"] = recorded
    pretrain.main(flags)
    (out / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(steps))
