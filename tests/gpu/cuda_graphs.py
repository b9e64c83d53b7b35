"""CUDA graphs over the switch: captured once, and training what a run without them trains."""

from collections.abc import Iterator

from tests.gpu.curves import in_windows, switches
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_all, watched_job, watched_steps
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags

_WITHIN = 0.01


def cuda_graphs(machine: Machine) -> Iterator[Figure | Note]:
    """Captures by step, and mean losses of ten steps against the run without graphs."""
    steps = machine.sized(60, 12)
    base = (
        *(*tiny_flags(machine, steps), *machine.te_flags),
        *("--tst-bag-size=4", "--tst-step-ratio=0.5"),
    )
    flags = {"without": base}
    for name in machine.sized(("local", "transformer_engine"), ()):
        flags[name] = (*base, f"--cuda-graph-impl={name}")
    if machine.dry_run:
        flags["again"] = base
        yield Note("left to a GPU: every graph; a run without any stood for them")
    jobs = {name: watched_job(machine.folder / name, own) for name, own in flags.items()}
    results = dict(zip(jobs, run_all(machine, list(jobs.values())), strict=True))
    without = results.pop("without")
    for name, result in results.items():
        captured = [step["captures"] for step in watched_steps(jobs[name])]
        at = [number for number, captures in enumerate(captured, start=1) if captures]
        if not machine.dry_run:
            yield Figure(f"{name}: graphs captured", sum(captured), "", 1, False)
        yield Figure(f"{name}: steps that captured some", len(at), "", 1)
        (switch,) = switches(result)
        late = sum(captured[switch - 1 :])
        yield Figure(f"{name}: captured from the switch on", late, "", 0)
        apart = max(in_windows(result, without).values())
        yield Figure(f"{name}: losses, furthest from the run without graphs", apart, "", _WITHIN)
