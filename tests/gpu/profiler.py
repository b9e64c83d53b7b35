"""What a superposed step asks of the GPU, against the baseline's: by torch's profiler."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.gpu.figures import Figure, Note
from tests.gpu.machine import Machine

_STEPS = 3
# By the beginnings of the profiler's names; a CPU has operators in place of launches.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_COPIES_BACK = ("Memcpy DtoH",)
_COLLECTIVES = ("ncclDevKernel", "ncclKernel")
_ON_CPU = {
    "operators": ("aten::",),
    "waits of the host": ("aten::_local_scalar_dense",),
    "collectives": ("c10d::", "gloo:"),
}
_ON_GPU = {
    "launches": _LAUNCHES,
    "waits of the host": _WAITS,
    "copies to the host": _COPIES_BACK,
    "collectives": _COLLECTIVES,
}
# The loss and the embedding of bags have other kernels than Megatron's, and no more than that.
_MORE_LAUNCHES = 1.05


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


def _counted(machine: Machine, step: Any) -> dict[str, float]:
    """Events a step, by kind, after steps that compile and allocate."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    for _ in range(_STEPS):
        step()
    kinds = machine.sized(_ON_GPU, _ON_CPU)
    activities = [ProfilerActivity.CPU, *machine.sized([ProfilerActivity.CUDA], [])]
    with profile(activities=activities) as profiled:
        for _ in range(_STEPS):
            step()
        if not machine.dry_run:
            torch.cuda.synchronize()
    names = Counter(event.name for event in profiled.events())
    # The last synchronisation is ours.
    ours = Counter({"waits of the host": machine.sized(1, 0)})
    return {
        kind: (sum(n for name, n in names.items() if name.startswith(begin)) - ours[kind]) / _STEPS
        for kind, begin in kinds.items()
    }
