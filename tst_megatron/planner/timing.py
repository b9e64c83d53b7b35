"""How long a step will take: a prediction, from peaks, bandwidths and the schedule.

The one idea: work at a share of the peak, waiting for what no computation hides, the pipeline's
bubble. Nothing of it has been compared with a GPU. It is for comparing layouts; hours are better
taken from a utilisation that was measured.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from tst_megatron.planner.counts import Stage
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.pipeline import bubble, num_microbatches
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.traffic import Collective
from tst_megatron.planner.work import SCORES, Work, work_of

_BACKWARD = 2 / 3  # Of the products' time, without recomputation.


@dataclass(frozen=True)
class StepTime:
    """A step's seconds, by what they go to.

    Attributes:
        products: matrix products of the slowest stage, recomputation included.
        communication: of the slowest stage, that nothing hides.
        bubble: of the pipeline.
    """

    products: float
    communication: float
    bubble: float

    @property
    def total(self) -> float:
        """The step."""
        return self.products + self.communication + self.bubble


def step_time(
    args: argparse.Namespace,
    gpu: Gpu,
    precision: Precision,
    stages: Sequence[Stage],
    collectives: Sequence[Sequence[Collective]],
    efficiency: float,
) -> StepTime:
    """The predicted time of a step.

    Args:
        args: Megatron's validated arguments.
        gpu: peaks and bandwidths.
        precision: which products are FP8.
        stages: what was built.
        collectives: of every stage.
        efficiency: share of the peak that the products reach.
    """
    slowest = StepTime(0.0, 0.0, 0.0)
    for stage, of_stage in zip(stages, collectives, strict=True):
        work = work_of(args, [stage], args.global_batch_size)
        ranks = len(stage.ranks)
        products = work.seconds_at_peak(gpu, precision, True) / efficiency / ranks
        once, each = _exposed(args, gpu, work, products, of_stage, efficiency * ranks)
        time = StepTime(products, once + each, bubble(args) * (products + each))
        slowest = max(slowest, time, key=lambda one: one.total)
    return slowest


def _exposed(
    args: argparse.Namespace,
    gpu: Gpu,
    work: Work,
    products: float,
    collectives: Sequence[Collective],
    speed: float,
) -> tuple[float, float]:
    """Seconds that a stage waits once a step, and for its micro-batches together."""
    one = products / num_microbatches(args)
    # What may hide behind what: the last micro-batch's backward pass, the first one's forward pass,
    # attention while keys go round, or all products.
    hides = {
        "backward": one * _BACKWARD,
        "forward": one * (1 - _BACKWARD),
        "attention": work.by_kind.get(SCORES, 0) / gpu.bf16_flops / speed,
        "products": products,
    }
    waits = {True: 0.0, False: 0.0}
    for behind in ("", *hides):
        for is_once in waits:
            seconds = sum(
                collective.seconds(gpu)
                for collective in collectives
                if collective.behind == behind and (collective.group.name in _ONCE) == is_once
            )
            waits[is_once] += max(0.0, seconds - hides.get(behind, 0.0))
    return waits[True], waits[False]


_ONCE = ("data", "expert data")
