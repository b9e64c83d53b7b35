"""The layouts of a run on a number of GPUs: which fit, the fastest first, and why others do not.

The one idea: layers of a kind are alike, and do not change with the pipeline; so one of each is
built for every way of splitting weights (tensor and expert parallel sizes), and they are dealt out
to the stages of every layout in turn. Every layout goes through Megatron's validation.
"""

import argparse
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import check_flags
from tst_megatron.planner.counts import (
    Chunk,
    KindCount,
    PipelineStage,
    count_stages,
    with_added,
)
from tst_megatron.planner.course import Course
from tst_megatron.planner.flags import parse, validated
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.memory import Memory, MemoryOfRun
from tst_megatron.planner.plan import Assumptions
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.traffic import Traffic
from tst_megatron.planner.work import StepTime, step_time

_MICRO_BATCHES = (1, 2, 4, 8)
_CONTEXT = (1, 2, 4, 8)
_LONG = 10**9  # Steps.
_RECOMPUTATIONS = ("none", "selective", "full")


@dataclass(frozen=True)
class Layout:
    """What is tried.

    Attributes:
        tensor: parallel size; likewise the others.
        recomputation: ``none``, ``selective`` or ``full``.
    """

    tensor: int
    pipeline: int
    context: int
    expert: int
    micro_batch_size: int = 1
    recomputation: str = "none"

    def __str__(self) -> str:
        sizes = {
            "TP": self.tensor,
            "PP": self.pipeline,
            "CP": self.context,
            "EP": self.expert,
        }
        return " ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "data only"


@dataclass(frozen=True)
class Tried:
    """A layout, with the micro-batch size and the recomputation that suit it best.

    Attributes:
        layout: as tried.
        memory: of the fullest GPU; None where Megatron refuses the layout.
        time: of a step, likewise.
        reason: why it cannot be used, or empty.
    """

    layout: Layout
    memory: Memory | None
    time: StepTime | None
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether the run can be started so."""
        return not self.reason


@dataclass(frozen=True)
class Swept:
    """All layouts that divide, those that fit first, the fastest of them first."""

    gpu: Gpu
    num_gpus: int
    assumptions: Assumptions
    tried: tuple[Tried, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON's types; the keys are documented in docs/planner.md."""
        return {
            "gpu": asdict(self.gpu) | {"count": self.num_gpus},
            "assumptions": asdict(self.assumptions),
            "layouts": [
                {
                    **asdict(one.layout),
                    "fits": one.fits,
                    "reason": one.reason or None,
                    "memory_bytes": one.memory and asdict(one.memory) | {"total": one.memory.total},
                    "step_seconds": one.time and one.time.total,
                }
                for one in self.tried
            ],
        }


def sweep(flags: Sequence[str], num_gpus: int, gpu: Gpu, assumptions: Assumptions) -> Swept:
    """Try every layout; those that fit come first, by predicted step time.

    Args:
        flags: the run's command line, without ``--recipe``; its layout is not looked at.
        num_gpus: the world size.
        gpu: which GPU, in which node.
        assumptions: what a plan takes on trust.

    Raises:
        UserError: the model cannot be counted at all, or nothing divides.
    """
    return Swept(
        gpu, num_gpus, assumptions, tuple(_Sweep(parse(flags), num_gpus, gpu, assumptions).run())
    )


class _Sweep:
    def __init__(
        self,
        parsed: argparse.Namespace,
        num_gpus: int,
        gpu: Gpu,
        assumptions: Assumptions,
    ) -> None:
        if parsed.hybrid_layer_pattern is not None:
            raise UserError(
                "--sweep cannot deal out --hybrid-layer-pattern, which says itself where stages "
                "end: plan its layouts one by one"
            )
        if not parsed.global_batch_size:
            raise UserError("--sweep deals out a batch of one size: add --global-batch-size")
        parsed = _of_some_length(parsed)
        self._parsed = parsed
        self._num_gpus = num_gpus
        self._gpu = gpu
        self._assumptions = assumptions
        self._course = Course.of(parsed)
        self._whole: dict[tuple[int, int], Chunk] = {}

    def run(self) -> list[Tried]:
        tried = [self._best_of(layout) for layout in self._layouts()]
        if not tried:
            raise UserError(
                f"no layout divides --gpus {self._num_gpus} and --global-batch-size "
                f"{self._parsed.global_batch_size}: change one of them"
            )
        if all(one.memory is None for one in tried):
            raise UserError(tried[0].reason)
        return sorted(tried, key=_rank)

    def _layouts(self) -> Iterator[Layout]:
        """Those that divide; others are not worth a line."""
        parsed, gpus = self._parsed, self._num_gpus
        heads = parsed.num_attention_heads
        groups = parsed.num_query_groups if parsed.group_query_attention else heads
        for tensor in _divisors(heads):
            if tensor > self._gpu.gpus_per_node or (groups % tensor and tensor % groups):
                continue
            for pipeline in _divisors(parsed.num_layers):
                for context in _CONTEXT:
                    if gpus % (tensor * pipeline * context) or parsed.seq_length % (2 * context):
                        continue
                    data = gpus // (tensor * pipeline * context)
                    if parsed.global_batch_size % data:
                        continue
                    for expert in _divisors(parsed.num_experts or 1):
                        if gpus % (expert * pipeline) == 0:
                            yield Layout(tensor, pipeline, context, expert)

    def _best_of(self, layout: Layout) -> Tried:
        try:
            flags = self._with_layout(layout)
            # What methods and text refuse of this layout; of the flags' own it was asked before.
            check_flags(flags)
            args = validated(flags, self._num_gpus, self._gpu)
            pipeline = with_added(args, self._deal_out(args), self._course.terms)
        except UserError as error:
            return Tried(layout, None, None, str(error))
        fitting, others = [], []
        for size in _MICRO_BATCHES:
            if args.global_batch_size % (size * args.data_parallel_size):
                continue
            for recomputation in _RECOMPUTATIONS:
                one = dataclasses.replace(
                    layout, micro_batch_size=size, recomputation=recomputation
                )
                tried = self._try(one, args, pipeline)
                if not tried.reason:
                    # Recomputing more takes longer.
                    fitting.append(tried)
                    break
                others.append(tried)
        # Equal times: larger matrix products keep a GPU busier than this model knows.
        return min(
            fitting or others,
            key=(lambda one: (_seconds(one), -one.layout.micro_batch_size)) if fitting else _bytes,
        )

    def _try(
        self,
        layout: Layout,
        validated_args: argparse.Namespace,
        pipeline: tuple[PipelineStage, ...],
    ) -> Tried:
        args, course = copy.copy(validated_args), self._course
        args.micro_batch_size = layout.micro_batch_size
        vars(args).update(_recomputation(layout.recomputation, bool(args.num_experts)))
        precision = Precision.of(args, self._gpu)
        memory = MemoryOfRun(args, precision, pipeline, course)
        traffic = Traffic(args, self._gpu, precision, pipeline, memory, course.terms)
        # Those between the second and the last are as the second, and hold less.
        places = sorted({0, min(1, len(pipeline) - 1), len(pipeline) - 1})
        fullest = max((memory.of_stage(place) for place in places), key=lambda one: one.total)
        time = step_time(
            args,
            self._gpu,
            precision,
            [pipeline[place] for place in places],
            course,
            [traffic.of_stage(place, course.heaviest) for place in places],
            self._assumptions.efficiency,
        )
        return Tried(layout, fullest, time, self._why_not(fullest))

    def _why_not(self, memory: Memory) -> str:
        available = self._gpu.memory * (1 - self._assumptions.reserve)
        if memory.total <= available:
            return ""
        kinds = asdict(memory)
        largest = max(kinds, key=kinds.__getitem__)
        return (
            f"{memory.total / 1e9:.1f} GB of {available / 1e9:.1f} at the least, "
            f"{kinds[largest] / 1e9:.1f} GB of them {largest}"
        )

    def _with_layout(self, layout: Layout) -> argparse.Namespace:
        args = copy.copy(self._parsed)
        args.tensor_model_parallel_size = layout.tensor
        args.pipeline_model_parallel_size = layout.pipeline
        args.context_parallel_size = layout.context
        args.expert_model_parallel_size = layout.expert
        args.expert_tensor_parallel_size = 1
        args.sequence_parallel = layout.tensor > 1
        args.micro_batch_size = 1
        for name in _OF_A_LAYOUT:
            setattr(args, name, None)
        if layout.tensor == 1:
            args.tp_comm_overlap = False
        return args

    def _deal_out(self, args: argparse.Namespace) -> tuple[PipelineStage, ...]:
        """The pipeline stages of a layout, of the layers that were counted without a pipeline."""
        whole = self._count(args)
        pipeline = args.pipeline_model_parallel_size
        layers, ranks = len(whole.layers) // pipeline, args.world_size // pipeline
        return tuple(
            PipelineStage(
                range(stage * ranks, (stage + 1) * ranks),
                (
                    Chunk(
                        whole.layers[stage * layers : (stage + 1) * layers],
                        whole.embedding if stage == 0 else (),
                        _head(whole, pipeline) if stage == pipeline - 1 else (),
                        stage * layers,
                    ),
                ),
            )
            for stage in range(pipeline)
        )

    def _count(self, args: argparse.Namespace) -> Chunk:
        """All layers, of models of one: layers of a kind are alike."""
        key = args.tensor_model_parallel_size, args.expert_model_parallel_size
        if key not in self._whole:
            pattern = _kinds(args)
            alone = {kind: self._count_one(*key, kind) for kind in set(pattern)}
            first = alone[pattern[0]]
            layers = tuple(alone[kind].layers[0] for kind in pattern)
            self._whole[key] = Chunk(layers, first.embedding, first.head)
        return self._whole[key]

    def _count_one(self, tensor: int, expert: int, has_experts: int) -> Chunk:
        args = self._with_layout(Layout(tensor, 1, 1, expert))
        args.num_layers = 1
        if args.num_experts:
            args.moe_layer_freq = [has_experts]
        ranks = max(tensor, expert)
        args.global_batch_size = ranks
        ((chunk,),) = (stage.chunks for stage in count_stages(validated(args, ranks, self._gpu)))
        return chunk


def _of_some_length(parsed: argparse.Namespace) -> argparse.Namespace:
    """A sweep needs no length; a run long enough for any stage has all that were asked for."""
    if parsed.train_iters or parsed.train_samples:
        return parsed
    return argparse.Namespace(**{**vars(parsed), "train_iters": _LONG})


def _kinds(args: argparse.Namespace) -> list[int]:
    """1 for every layer with experts (megatron/core/models/gpt/gpt_layer_specs.py)."""
    if not args.num_experts:
        return [0] * args.num_layers
    if isinstance(args.moe_layer_freq, int):
        return [int(i % args.moe_layer_freq == 0) for i in range(args.num_layers)]
    return list(args.moe_layer_freq)


def _head(whole: Chunk, pipeline: int) -> tuple[KindCount, ...]:
    """The head on a stage of its own: it holds a copy of the table that it is tied to."""
    if pipeline == 1:
        return whole.head
    return tuple(
        dataclasses.replace(one, local=one.local_products) if one.kind == "head" else one
        for one in whole.head
    )


_OF_A_LAYOUT = (
    "virtual_pipeline_model_parallel_size",
    "num_layers_per_virtual_pipeline_stage",
    "num_virtual_stages_per_pipeline_rank",
    "decoder_first_pipeline_num_layers",
    "decoder_last_pipeline_num_layers",
    "pipeline_model_parallel_layout",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
)


def _recomputation(name: str, has_experts: bool) -> dict[str, Any]:
    """Megatron's arguments of a kind of recomputation."""
    if name == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    if name == "selective":
        modules = ["moe_act", "layernorm"] if has_experts else ["mlp"]
        return {"recompute_granularity": "selective", "recompute_modules": modules}
    return {"recompute_granularity": None}


def _rank(tried: Tried) -> tuple[float, ...]:
    """What fits by its time, and the least split of equals; then the rest by memory."""
    layout = tried.layout
    splits = layout.tensor * layout.pipeline * layout.context * layout.expert
    if tried.memory is None or tried.time is None:
        return (2, splits)
    if tried.reason:
        return (1, tried.memory.total)
    return (0, round(tried.time.total, 6), splits)


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def _bytes(tried: Tried) -> int:
    assert tried.memory is not None
    return tried.memory.total


def _seconds(tried: Tried) -> float:
    assert tried.time is not None
    return tried.time.total
