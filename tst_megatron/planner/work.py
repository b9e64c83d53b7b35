"""Floating-point operations of a step, by kind.

The one idea: a weight of a matrix product works twice on a position in the forward pass (a
multiplication and an addition) and four times in the backward pass, once for either gradient. What
has no weight is attention's two products of queries, keys and values, half of which the causal mask
leaves out. Superposition is not in here: a position is a position.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tst_megatron.planner.activations import Recomputation
from tst_megatron.planner.counts import Chunk, Layer, Stage
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.precision import Precision

_PER_WEIGHT = 6  # Forward, and backward for inputs and for weights, two each.
_FORWARD = 3  # A forward pass is a third of it.

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
        again: of these, what recomputation does once more, by kind.
    """

    by_kind: dict[str, int]
    again: dict[str, int]

    @property
    def total(self) -> int:
        """Without recomputation, which is no progress."""
        return sum(self.by_kind.values())

    def seconds_at_peak(self, gpu: Gpu, precision: Precision, with_recomputation: bool) -> float:
        """On one GPU, each product at the peak of its precision."""
        work = Counter(self.by_kind)
        if with_recomputation:
            work.update(self.again)
        return sum(
            operations / (gpu.fp8_flops if precision.fp8 and kind in _FP8_KINDS else gpu.bf16_flops)
            for kind, operations in work.items()
        )


def work_of(args: argparse.Namespace, stages: Sequence[Stage], samples: int) -> Work:
    """The work of pipeline stages, all of their ranks together, on some samples.

    Args:
        args: Megatron's validated arguments.
        stages: all of them, for the whole model; or one.
        samples: sequences of ``--seq-length`` positions.
    """
    recomputation = Recomputation.of(args)
    by_kind: Counter[str] = Counter()
    again: Counter[str] = Counter()
    for stage in stages:
        for chunk in stage.chunks:
            for place, layer in enumerate(chunk.layers):
                work = _of_layer(args, layer, samples)
                by_kind.update(work)
                for kind in _again(recomputation, chunk, place):
                    again[kind] += work.get(kind, 0) // _FORWARD
            head = sum(part.products for part in chunk.head)
            by_kind["head"] += _PER_WEIGHT * samples * args.seq_length * head
    return Work(dict(by_kind), dict(again))


def _of_layer(args: argparse.Namespace, layer: Layer, samples: int) -> dict[str, int]:
    positions = samples * args.seq_length
    work = {
        part.kind: _PER_WEIGHT * positions * part.products for part in layer.parts if part.products
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
