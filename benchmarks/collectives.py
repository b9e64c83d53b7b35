"""The collectives of a superposed step against those of the baseline's step, entry by entry.

The one idea: every collective of torch passes torch's dispatcher, where a mode can write it down:
its kind, its group and its bytes, on every rank, in order. The broadcast of the batch over the
tensor-parallel group is written down apart: it carries the text, of which a bag has more.

``python -m benchmarks`` starts one small job a layout, which is this module under torchrun; the
tests record the whole matrix of layouts (tests/parallel).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import Bench, Row

_TP, _PP = "--tensor-model-parallel-size=2", "--pipeline-model-parallel-size=2"
_MOE = ("--num-experts=4", "--moe-router-topk=2", "--moe-ffn-hidden-size=128")

LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "data 2, distributed optimizer": (
        2,
        ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"),
    ),
    "tensor 2": (2, (_TP,)),
    "tensor 2, sequence parallel": (2, (_TP, "--sequence-parallel")),
    "pipeline 2": (2, (_PP,)),
    "context 2": (2, ("--context-parallel-size=2",)),
    "expert 2, allgather": (
        2,
        (*_MOE, "--expert-model-parallel-size=2", "--moe-token-dispatcher-type=allgather"),
    ),
    "tensor 2 x pipeline 2": (4, (_TP, _PP, "--sequence-parallel")),
}
"""Name -> ranks and Megatron's flags."""


@dataclass
class Recorder(TorchDispatchMode):
    """Writes down every collective of several ranks that is called while it is active.

    Attributes:
        step: ``[kind, ranks of the group, bytes]`` of every collective, in order.
        batch: those that bring the batch to the tensor-parallel ranks.
    """

    step: list[list[Any]] = field(default_factory=list)
    batch: list[list[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._in_batch = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Torch's hook: the call itself goes on as it is."""
        # In a group of one nothing crosses a wire; Megatron's loss calls its collectives even so.
        if func.namespace == "c10d" and len(ranks := _ranks(args)) > 1:
            entry = [func._schema.name, ranks, _bytes(args)]
            (self.batch if self._in_batch else self.step).append(entry)
        return func(*args, **(kwargs or {}))

    def in_batch(self, get_batch: Callable[..., Any]) -> Callable[..., Any]:
        """``get_batch``, whose collectives are the batch's."""

        @wraps(get_batch)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._in_batch = True
            try:
                return get_batch(*args, **kwargs)
            finally:
                self._in_batch = False

        return wrapped


def _ranks(args: tuple[Any, ...]) -> list[int]:
    """Ranks of the process group among the arguments of one of torch's c10d operators."""
    for arg in args:
        if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()):
            return dist.get_process_group_ranks(dist.ProcessGroup.unbox(arg))
    return []


def _bytes(args: Any) -> int:
    """Bytes of all tensors among the arguments."""
    if isinstance(args, torch.Tensor):
        return args.numel() * args.element_size()
    return sum(_bytes(arg) for arg in args) if isinstance(args, list | tuple) else 0


def rows(bench: Bench) -> Iterator[Row]:
    """Entries of a step that differ from the baseline's, a layout a row."""
    for name, (num_ranks, flags) in LAYOUTS.items():
        bench.say(f"collectives, {name}")
        with tempfile.TemporaryDirectory() as folder:
            ranks = _run(Path(folder), num_ranks, flags)
        different = sum(
            rank["superposed"]["step"][i : i + 1] != rank["ordinary"]["step"][i : i + 1]
            for rank in ranks
            for i in range(max(len(rank[side]["step"]) for side in ("superposed", "ordinary")))
        )
        total = sum(len(rank["ordinary"]["step"]) for rank in ranks)
        assert total, "a layout without a collective compares nothing"
        yield Row(
            f"collectives of a step, {name}",
            "the baseline's, entry by entry",
            "entries that differ",
            different,
            (different, different),
            0,
            True,
            {
                "entries": total,
                "bytes": sum(e[2] for rank in ranks for e in rank["ordinary"]["step"]),
                **{
                    f"batch_{side}_{what}": figure
                    for side in ("superposed", "ordinary")
                    for what, figure in (
                        ("entries", len(ranks[0][side]["batch"])),
                        ("bytes", sum(entry[2] for entry in ranks[0][side]["batch"])),
                    )
                },
            },
        )


def _run(folder: Path, num_ranks: int, flags: tuple[str, ...]) -> list[dict[str, Any]]:
    """What every rank of a job recorded."""
    alone = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={num_ranks}", "-m", "benchmarks.collectives"),
            *(str(folder), *flags),
        ],
        env={name: value for name, value in os.environ.items() if name not in alone},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the job of {flags} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num_ranks)]


def main(folder: Path, flags: list[str]) -> None:
    """One rank of a job: a superposed step and an ordinary one, recorded."""
    from tst_megatron.backends import prepare_backend

    machine_flags = prepare_backend()
    from benchmarks import step
    from tst_megatron.trainer.forward_step import ForwardStep

    small = (
        "--num-layers=2",
        "--hidden-size=128",
        "--ffn-hidden-size=256",
        "--global-batch-size=2",
    )
    step.start_megatron((*machine_flags,), (*small, *flags))
    steps = step.Steps()
    get_batch = ForwardStep.get_batch
    recorded: dict[str, dict[str, Any]] = {}
    for side, batch in (("superposed", step.bags()), ("ordinary", step.tokens())):
        recorder = Recorder()
        ForwardStep.get_batch = recorder.in_batch(get_batch)  # type: ignore[method-assign]  # put back by nobody: the job ends
        work = steps.prepare(getattr(steps, side), batch)()
        # A job's first step has one all-reduce of 4 bytes more than the others, whichever it is.
        work()
        with recorder:
            work()
        recorded[side] = {"step": recorder.step, "batch": recorder.batch}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(recorded))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
