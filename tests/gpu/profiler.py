"""What a superposed step asks of the GPU, against the baseline's: by torch's profiler."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer import Job

from tests.gpu.figures import CannotRunHereError, Figure, Note
from tests.gpu.jobs import run_all
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags

_STEPS = 3
# By the beginnings of the profiler's names; a CPU has operators in place of launches.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_COPIES_BACK = ("Memcpy DtoH",)
# NCCL's kernels; on a CPU what torch calls of gloo's.
_COLLECTIVES = (("ncclDevKernel", "ncclKernel"), ("c10d::",))
_ON_CPU = {
    "operators": ("aten::",),
    "waits of the host": ("aten::_local_scalar_dense",),
}
_ON_GPU = {
    "launches": _LAUNCHES,
    "waits of the host": _WAITS,
    "copies to the host": _COPIES_BACK,
}
# The loss and the embedding of bags have other kernels than Megatron's, and no more than that.
_MORE_LAUNCHES = 1.05
_LAYOUTS = {
    "tensor parallelism": ("--tensor-model-parallel-size=2", "--sequence-parallel"),
    "data parallelism": (
        *("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"),
    ),
}


def profiler(machine: Machine) -> Iterator[Figure | Note]:
    """Numbers a step, and how many more a superposed one has."""
    machine_flags = machine.prepare()
    from benchmarks.__main__ import be_the_only_process
    from benchmarks.measure import Bench
    from benchmarks.step import Steps, bags, flags_of, start_megatron, tokens

    be_the_only_process()
    bench = Bench(print, machine.device, quick=machine.dry_run)
    start_megatron(machine_flags, flags_of(bench))
    steps = Steps()
    superposed = _counted(machine, steps.prepare(steps.superposed, bags())())
    ordinary = _counted(machine, steps.prepare(steps.ordinary, tokens())())
    for kind in superposed:
        yield Figure(f"{kind} of the baseline's step", ordinary[kind])
        yield Figure(
            f"{kind} of a superposed step", superposed[kind], "", _bound(kind, ordinary[kind])
        )


def _bound(kind: str, of_baseline: float) -> float | None:
    if kind == "launches":
        return of_baseline * _MORE_LAUNCHES
    return None if kind == "operators" else of_baseline


def _counted(machine: Machine, step: Callable[[], Any]) -> dict[str, float]:
    """Events a step, by kind, after steps that compile and allocate."""

    def some_steps() -> None:
        for _ in range(_STEPS):
            step()

    some_steps()
    names = profiled(some_steps, on_gpu=not machine.dry_run)
    kinds = machine.sized(_ON_GPU, _ON_CPU)
    return {kind: _number(names, begin) / _STEPS for kind, begin in kinds.items()}


def profiled(work: Callable[[], object], on_gpu: bool) -> dict[str, int]:
    """How often the profiler has each name while something is done.

    Without what it has of nothing at all: it waits for the GPU itself as it begins and ends
    (torch/autograd/profiler.py, ``profile.__exit__``).
    """
    return dict(_names(work, on_gpu) - _names(lambda: None, on_gpu))


def _names(work: Callable[[], object], on_gpu: bool) -> Counter[str]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    if on_gpu:
        torch.cuda.synchronize()  # What is still to run is not of this work.
    with profile(activities=activities) as seen:
        work()
    return Counter(event.name for event in seen.events())


def _number(names: Mapping[str, int], begin: tuple[str, ...]) -> int:
    return sum(number for name, number in names.items() if name.startswith(begin))


def collectives(machine: Machine) -> Iterator[Figure | Note]:
    """Of a superposed step on two ranks, on each of them, against one after the switch."""
    if not machine.dry_run and machine.gpus < 2:
        raise CannotRunHereError(f"needs 2 GPUs, and --gpus is {machine.gpus}")
    steps = 12
    # Not those after a validation, around which Megatron gathers parameters at other moments.
    superposed, ordinary = (4, 5), (10, 11)
    numbers = ",".join(map(str, (*superposed, *ordinary)))
    jobs = {}
    for name, own in _LAYOUTS.items():
        out = machine.folder / name.replace(" ", "-")
        flags = (
            *(*tiny_flags(machine, steps), "--micro-batch-size=2", *machine.te_flags, *own),
            *("--tst-bag-size=4", "--tst-step-ratio=0.5"),
        )
        program = ("-m", "tests.gpu.profiled_pretrain", str(out), numbers)
        queues = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
        jobs[name] = Job(out, flags, 2, program, queues)
    run_all(machine, list(jobs.values()))
    for name, job in jobs.items():
        for rank in range(2):
            seen = json.loads((job.out / f"profiled-{rank}.json").read_text())
            baselines, most = (
                [_number(seen[str(step)], machine.sized(*_COLLECTIVES)) for step in of_stage]
                for of_stage in (ordinary, superposed)
            )
            of = f"{name}, rank {rank}: collectives"
            yield Figure(f"{of} of the baseline's step", min(baselines), "", 1, False)
            yield Figure(f"{of} of a superposed step", max(most), "", min(baselines))
