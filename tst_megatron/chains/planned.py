"""What every link of a chain needs, and what all of them come to: the planner's counts.

The one idea: a link's plan is that of a whole run of its model, of which it is so many samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tst_megatron.chains.chain import Chain, Link
from tst_megatron.corpora.blend import expand_blend
from tst_megatron.methods.registry import methods
from tst_megatron.planner.hardware import GPUS, Gpu
from tst_megatron.recipes import expand_recipe
from tst_megatron.recipes.keys import read_words
from tst_megatron.stock.megatron_flags import NotKnownError

if TYPE_CHECKING:
    from tst_megatron.planner.plan import RunPlan, StepPlan

_HOUR = 3600.0


@dataclass(frozen=True)
class LinkPlan:
    """A link's part of the plan of a run of its model.

    Attributes:
        link: which.
        plan: of the whole run.
        data_tokens: that the link reads.
        flops: of it.
        gpu_hours: of it, at the assumed utilisation.
    """

    link: Link
    plan: "RunPlan"
    data_tokens: int
    flops: float
    gpu_hours: float

    def as_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            "name": self.link.name,
            "start": self.link.file.start,
            "first_step": self.link.first + 1,
            "last_step": self.link.last,
            "steps": self.link.steps,
            "parameters": self.plan.parameters.total,
            "memory_bytes": self.plan.worst.memory.total,
            "fits": self.plan.fits,
            "data_tokens": self.data_tokens,
            "flops": self.flops,
            "gpu_hours": self.gpu_hours,
            "hours": self.gpu_hours / self.plan.num_gpus,
            "plan": self.plan.as_json(),
        }


def plan_links(chain: Chain, num_gpus: int, gpu: Gpu, mfu: float) -> tuple[LinkPlan, ...]:
    """The plan of every link.

    Args:
        chain: with its steps.
        num_gpus: of every link.
        gpu: which GPU, in which node.
        mfu: share of the peak that a whole step reaches, for the hours.

    Raises:
        UserError: a link's flags do not divide, or ask for what is not counted.
    """
    return tuple(_plan(link, num_gpus, gpu, mfu) for link in chain.links)


def sums(plans: Sequence[LinkPlan]) -> dict[str, float]:
    """Of all links."""
    return {
        "steps": sum(one.link.steps for one in plans),
        "data_tokens": sum(one.data_tokens for one in plans),
        "flops": sum(one.flops for one in plans),
        "gpu_hours": sum(one.gpu_hours for one in plans),
        "hours": sum(one.gpu_hours / one.plan.num_gpus for one in plans),
    }


def flops_of_samples(words: Sequence[str]) -> Callable[[int], float]:
    """Floating-point operations of the first samples of a run of a link's model.

    Args:
        words: the link's command line after ``pretrain``.

    Raises:
        UserError: as `plan_links`.
    """
    flags = _of_model(words)
    # What is counted does not depend on the GPU, nor on how many there are.
    plan = _made(flags, _fewest_gpus(flags), next(iter(GPUS.values())))
    return lambda samples: sum(part * _flops(step) for step, part in _parts(plan, 0, samples))


def _made(flags: Sequence[str], num_gpus: int, gpu: Gpu, **trusted: float) -> "RunPlan":
    # Before Megatron, which looks for a GPU as it is imported; also where there is one.
    from tst_megatron.trainer.cpu import gpu_packages
    from tst_megatron.trainer.cpu import patches as cpu

    gpu_packages.hide()
    cpu.install()
    from tst_megatron.planner.plan import Assumptions, make_plan

    return make_plan(flags, num_gpus, gpu, Assumptions(**trusted))


def _plan(link: Link, num_gpus: int, gpu: Gpu, mfu: float) -> LinkPlan:
    plan = _made(_of_model(link.words), num_gpus, gpu, mfu=mfu)
    parts = _parts(plan, *link.samples)
    at_peak = sum(
        part / _samples(step) * step.work.seconds_at_peak(gpu, plan.precision, False)
        for step, part in parts
    )
    return LinkPlan(
        link,
        plan,
        sum(round(part * step.data_tokens / _samples(step)) for step, part in parts),
        sum(part * _flops(step) for step, part in parts),
        at_peak / _HOUR / mfu,
    )


def _of_model(words: Sequence[str]) -> list[str]:
    """A link's flags but those that make its model from another one's: a plan opens no folder."""
    left_out = tuple(m.flag_prefix for m in methods() if m.starts_from_another)
    kept: list[str] = []
    keeps = True
    for word in expand_blend(expand_recipe([*words])):
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0]
            keeps = not any(f"{name}-".startswith(f"{prefix}-") for prefix in left_out)
        if keeps:
            kept.append(word)
    return kept


def _fewest_gpus(flags: Sequence[str]) -> int:
    try:
        args = read_words(flags)
        dense: int = args.tensor_model_parallel_size * (args.context_parallel_size or 1)
        experts: int = (args.expert_model_parallel_size or 1) * (
            args.expert_tensor_parallel_size or args.tensor_model_parallel_size
            if args.num_experts
            else 1
        )
        return int(args.pipeline_model_parallel_size * math.lcm(dense, experts))
    except NotKnownError:
        return 1


def _samples(step: "StepPlan") -> float:
    """Of a step, whose work is counted."""
    return step.stage.samples * step.positions / step.stage_positions


def _flops(step: "StepPlan") -> float:
    """Of one sample."""
    return step.work.total / _samples(step)


def _parts(plan: "RunPlan", first: int, last: int) -> list[tuple["StepPlan", int]]:
    """The samples from one to another by the stages that they are in; the last one goes on."""
    parts, start = [], 0
    for number, step in enumerate(plan.steps):
        end = start + step.stage.samples
        if number == len(plan.steps) - 1:
            end = max(end, last)
        inside = min(end, last) - max(start, first)
        if inside > 0:
            parts.append((step, inside))
        start += step.stage.samples
    return parts
