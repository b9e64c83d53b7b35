"""The 3B recipe as it is shipped, fifty steps a phase: memory and step time against the plan."""

import statistics
from collections.abc import Iterator

from tests.gpu.figures import CannotRunHereError, Figure, Note
from tests.gpu.jobs import run_all, watched_job, watched_steps
from tests.gpu.machine import Machine
from tests.gpu.resume import two_layers
from tst_megatron import recipes

_STEPS, _WARM = 100, 5
_WITHIN = 0.1
_LENGTH = (
    *(f"--train-iters={_STEPS}", "--tst-step-ratio=0.5", "--lr-warmup-iters=10"),
    *("--lr-wsd-decay-iters=10", f"--eval-interval={_STEPS}", "--eval-iters=1", "--log-interval=1"),
    # Megatron's own made-up text: the recipe's tokenizer is not at hand, and speed needs none.
    *("--mock-data", "--tokenizer-type=NullTokenizer", "--vocab-size=128000"),
)
# As in the launch scripts (examples/).
_ON_GPUS = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}


def recipe_3b(machine: Machine) -> Iterator[Figure | Note]:
    """Most memory of a GPU and the median step of either phase."""
    machine.prepare()
    if machine.dry_run:
        yield from _dry(machine)
        return
    kind = _kind()
    flags = recipes.expand_recipe(["--recipe", f"smollm3-3b-tst+8x{kind}", *_LENGTH])
    job = watched_job(machine.folder / "run", (*flags, *machine.fusion_flags), 8)
    job.environment.update(_ON_GPUS)
    run_all(machine, [job], share=1)
    seen = watched_steps(job)
    planned_bytes, planned_s = _planned(flags, kind)
    peak = max(step["peak_bytes"] for step in seen)
    yield Figure("most memory", peak / 1e9, "GB")
    yield Figure("from the planner's", abs(peak / planned_bytes - 1), "", _WITHIN)
    yield Figure("reserved by torch's allocator", seen[-1]["reserved_bytes"] / 1e9, "GB")
    for what, steps in (("in bags", seen[_WARM : _STEPS // 2]), ("after the switch", seen[55:])):
        seconds = statistics.median(step["ms"] for step in steps) / 1e3
        yield Figure(f"{what}: a step", seconds, "s")
        yield Figure(f"{what}: from the planner's", abs(seconds / planned_s - 1), "", _WITHIN)


def _kind() -> str:
    """The layout's name of this card.

    Raises:
        CannotRunHereError: the recipe has no layout for it.
    """
    import torch

    name = torch.cuda.get_device_name().lower()
    for kind, layout in (("h100", "h100"), ("h200", "h100"), ("b200", "b200")):
        if kind in name:
            return layout
    raise CannotRunHereError(f"the recipe has no layout of eight {name}")


def _planned(flags: list[str], kind: str) -> tuple[float, float]:
    """Bytes of the fullest GPU, and seconds of a step."""
    from tst_megatron.planner.hardware import GPUS
    from tst_megatron.planner.plan import make_plan

    plan = make_plan(flags, 8, GPUS[kind])
    return plan.worst.memory.total, plan.time.total


def _dry(machine: Machine) -> Iterator[Figure | Note]:
    planned_bytes, planned_s = _planned(
        recipes.expand_recipe(["--recipe", "smollm3-3b-tst+8xh100", *_LENGTH]), "h100"
    )
    yield Figure("the planner's memory of a GPU", planned_bytes / 1e9, "GB", 80)
    yield Figure("the planner's step", planned_s, "s")
    job = watched_job(machine.folder / "run", two_layers(machine))
    run_all(machine, [job])
    yield Figure("steps of the recipe, cut small", len(watched_steps(job)), "", 16, False)
    yield Note("left to GPUs: the recipe itself; its flags ran with a model that fits a CPU")
