"""Floating-point operations of a step by kind, and how long they are predicted to take.

The one idea: a weight of a matrix product works twice on a position in the forward pass (a
multiplication and an addition) and four times in the backward pass, once for either gradient. What
has no weight is attention's two products of queries, keys and values, half of which the causal mask
leaves out.

A step takes its work at a share of the peak, waiting for what no computation hides, and the
pipeline's bubble. Nothing of that has been compared with a GPU. It is for comparing layouts; hours
are better taken from a utilisation that was measured.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tst_megatron.methods.terms import Terms
from tst_megatron.planner.activations import Recomputation
from tst_megatron.planner.counts import Chunk, Layer, PipelineStage
from tst_megatron.planner.course import Course
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.pipeline import bubble, num_microbatches
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.traffic import Collective
from tst_megatron.runs.stages import Stage

_BACKWARD = 2 / 3  # Of the products' time, without recomputation.
_PER_WEIGHT = 6  # Forward, and backward for inputs and for weights, two each.
_FORWARD = 3  # A forward pass is a third of it.

_ONCE = ("data", "expert data")  # Groups whose collectives come once a step.

SCORES = "attention_scores"
_FP8_KINDS = ("attention", "dense_mlp", "experts", "shared_experts")
# What --recompute-modules computes again.
_MODULES = {
    "core_attn": (SCORES,),
    "mlp": ("dense_mlp",),
    "moe": ("router", "experts", "shared_experts"),
    "shared_experts": ("shared_experts",),
}


@dataclass(frozen=True)
class Work:
    """Operations by kind; attention's scores apart from its projections.

    Attributes:
        by_kind: kind → operations.
        again: of these, what recomputation or a method does once more, by kind.
    """

    by_kind: dict[str, int]
    again: dict[str, int]

    @property
    def total(self) -> int:
        """Without recomputation, which is no progress."""
        return sum(self.by_kind.values())

    def __add__(self, other: "Work") -> "Work":
        """Both."""
        return Work(_sum(self.by_kind, other.by_kind), _sum(self.again, other.again))

    def seconds_at_peak(self, gpu: Gpu, precision: Precision, with_recomputation: bool) -> float:
        """On one GPU, each product at the peak of its precision."""
        work = Counter(self.by_kind)
        if with_recomputation:
            work.update(self.again)
        return sum(
            operations / (gpu.fp8_flops if precision.fp8 and kind in _FP8_KINDS else gpu.bf16_flops)
            for kind, operations in work.items()
        )


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {kind: one.get(kind, 0) + other.get(kind, 0) for kind in {**one, **other}}


def work_of(
    args: argparse.Namespace,
    pipeline: Sequence[PipelineStage],
    samples: int,
    stage: Stage,
    terms: Terms,
) -> Work:
    """The work of pipeline stages, all of their ranks together, on some samples.

    Args:
        args: Megatron's validated arguments.
        pipeline: all of them, for the whole model; or one.
        samples: sequences of ``--seq-length`` positions.
        stage: of the run that the samples are in.
        terms: of the run's methods.
    """
    recomputation = Recomputation.of(args)
    by_kind: Counter[str] = Counter()
    again: Counter[str] = Counter()
    for chunk in (chunk for one in pipeline for chunk in one.chunks):
        for place, (number, layer) in enumerate(chunk.numbered_layers):
            work = terms.layer_work(args, stage, number, _of_layer(args, layer, samples))
            by_kind.update(work)
            for kind in _again(recomputation, chunk, place):
                again[kind] += work.get(kind, 0) // _FORWARD
        head = sum(one.products for one in chunk.head)
        by_kind["head"] += _PER_WEIGHT * samples * args.seq_length * head
    return Work(dict(by_kind), dict(terms.work_again(args, stage, by_kind, again)))


def work_of_run(
    args: argparse.Namespace, pipeline: Sequence[PipelineStage], course: Course
) -> Work:
    """The work of a whole run, stage by stage."""
    work = Work({}, {})
    for stage in course.stages:
        work += work_of(args, pipeline, stage.samples, stage, course.terms)
    return work


def _of_layer(args: argparse.Namespace, layer: Layer, samples: int) -> dict[str, int]:
    positions = samples * args.seq_length
    work = {
        one.kind: _PER_WEIGHT * positions * one.products for one in layer.counts if one.products
    }
    if layer.experts is not None:
        work["experts"] = work["experts"] * layer.experts.top_k // layer.experts.num
    if layer.attention is not None:
        queries = layer.attention.queries * args.tensor_model_parallel_size
        # Two products of [L, L, queries], half of them under the mask.
        work[SCORES] = _PER_WEIGHT * samples * args.seq_length**2 * queries
    return work


def _again(recomputation: Recomputation, chunk: Chunk, place: int) -> tuple[str, ...]:
    if recomputation.granularity == "full":
        is_kept = recomputation.method == "block" and place >= recomputation.num_layers
        return () if is_kept else (SCORES, *_FP8_KINDS, "router")
    return tuple({kind for name in recomputation.modules for kind in _MODULES.get(name, ())})


@dataclass(frozen=True)
class StepTime:
    """A step's seconds, by what they go to.

    Attributes:
        products: matrix products of the slowest stage, those done again included.
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
    pipeline: Sequence[PipelineStage],
    course: Course,
    collectives: Sequence[Sequence[Collective]],
    efficiency: float,
) -> StepTime:
    """The predicted time of a step in the heaviest stage of a run: its slowest pipeline stage's.

    Args:
        args: Megatron's validated arguments.
        gpu: peaks and bandwidths.
        precision: which products are FP8.
        pipeline: what was built, or the stages of it that are to be looked at.
        course: of the run.
        collectives: of each of these pipeline stages.
        efficiency: share of the peak that the products reach.
    """
    slowest = StepTime(0.0, 0.0, 0.0)
    for stage, of_stage in zip(pipeline, collectives, strict=True):
        work = work_of(args, [stage], args.global_batch_size, course.heaviest, course.terms)
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
