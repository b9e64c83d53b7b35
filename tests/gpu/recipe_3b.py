"""The 3B recipe as it is shipped, fifty steps a phase: memory and step time against the plan.

A step is held against the one at the plan's utilisation (``--mfu``), which is of whole steps. The
predicted step is of products and collectives alone, and is told beside it.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from tests.gpu.figures import CannotRunHereError, Figure, Note
from tests.gpu.jobs import other_losses, run_all, watched_job, watched_steps
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
    (result,) = run_all(machine, [job], share=1)
    yield other_losses("the recipe", result)
    seen = watched_steps(job)
    planned = _planned(flags, kind)
    peak = max(step["peak_bytes"] for step in seen)
    yield Figure("most memory", peak / 1e9, "GB")
    yield Figure("from the planner's", abs(peak / planned.memory - 1), "", _WITHIN)
    yield Figure("reserved by torch's allocator", seen[-1]["reserved_bytes"] / 1e9, "GB")
    yield from planned.steps()
    for what, steps in (("in bags", seen[_WARM : _STEPS // 2]), ("after the switch", seen[55:])):
        seconds = statistics.median(step["ms"] for step in steps) / 1e3
        yield Figure(f"{what}: a step", seconds, "s")
        off = abs(seconds / planned.step_at_mfu - 1)
        yield Figure(f"{what}: from the planner's at its utilisation", off, "", _WITHIN)


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


@dataclass(frozen=True)
class Planned:
    """What the plan says of the run.

    Attributes:
        memory: bytes of the fullest GPU.
        mfu: of whole steps, as the plan assumes it.
        step_at_mfu: seconds of a step at it.
        step_of_products: seconds of the predicted one, in which nothing else costs anything.
    """

    memory: float
    mfu: float
    step_at_mfu: float
    step_of_products: float

    def steps(self) -> Iterator[Figure]:
        """Both."""
        at = f"the planner's step at a utilisation of {self.mfu:.0%}"
        yield Figure(at, self.step_at_mfu, "s")
        what = "the planner's step of products and collectives alone"
        yield Figure(what, self.step_of_products, "s")


def _planned(flags: list[str], kind: str) -> Planned:
    from tst_megatron.planner.hardware import GPUS
    from tst_megatron.planner.plan import make_plan

    plan = make_plan(flags, 8, GPUS[kind])
    mfu, predicted = plan.assumptions.mfu, plan.time.total
    return Planned(plan.worst.memory.total, mfu, predicted * plan.predicted_mfu / mfu, predicted)


def _dry(machine: Machine) -> Iterator[Figure | Note]:
    planned = _planned(
        recipes.expand_recipe(["--recipe", "smollm3-3b-tst+8xh100", *_LENGTH]), "h100"
    )
    yield Figure("the planner's memory of a GPU", planned.memory / 1e9, "GB", 80)
    yield from planned.steps()
    job = watched_job(machine.folder / "run", two_layers(machine))
    run_all(machine, [job])
    yield Figure("steps of the recipe, cut small", len(watched_steps(job)), "", 16, False)
    yield Note("left to GPUs: the recipe itself; its flags ran with a model that fits a CPU")
