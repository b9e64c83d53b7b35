"""What a GPU holds while it trains, by kind.

The one idea: the numbers that a rank was built with, times the bytes that the precision flags give
them, divided among the ranks that Megatron's distributed optimizer divides them among; and the
activations at the moment of the step when there are most of them.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from tst_megatron.planner.activations import FULL, NONE, Activations, Recomputation
from tst_megatron.planner.counts import Layer, Stage
from tst_megatron.planner.pipeline import most_held, most_in_flight
from tst_megatron.planner.precision import Precision

SELECTIVE = Recomputation("selective", modules=("core_attn",))

_FP8_KINDS = ("attention", "dense_mlp", "experts", "shared_experts")
# Of a position in an ordinary batch: tokens, labels and positions in int64, the loss mask in
# float32. A superposed batch has its text once more, as it came, and bags on both sides.
_BATCH, _BATCH_WITHOUT_BAGS, _ID = 28, 12, 8
# Blocks of the superposed loss in float32, of which a pass makes two (superposition/loss.py).
_LOSS_BLOCKS = 2 * 2**23 * 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: with the FP8 copies of them that Transformer Engine keeps.
        gradients: Megatron's buffer of them.
        optimizer: this rank's share of its states.
        activations: of the micro-batches in flight, and what is recomputed.
        logits: and what the loss makes of them; on the last stage.
        batch: the micro-batches themselves, at their largest.
        transient: the gradients that travel through one layer.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    batch: int
    transient: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


class MemoryOfRun:
    """Memory of every stage of one run.

    Args:
        args: Megatron's validated arguments.
        precision: bytes of numbers.
        stages: what was built.
        bag_sizes: of the run's stages, 1 where it is ordinary.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        precision: Precision,
        stages: Sequence[Stage],
        bag_sizes: Sequence[int],
    ) -> None:
        self._args = args
        self._precision = precision
        self._stages = stages
        self._bag_sizes = bag_sizes
        self._activations = Activations(args, precision)
        self._fp8_layers = _fp8_layers(args, stages) if precision.fp8 else set()
        expert_ranks = (
            args.expert_tensor_parallel_size
            * args.expert_model_parallel_size
            * args.pipeline_model_parallel_size
        )
        self.data_ranks = args.data_parallel_size * args.context_parallel_size
        self.expert_data_ranks = args.world_size // expert_ranks

    def of_stage(self, stage: int) -> Memory:
        """Memory of a GPU of a stage, as the run's flags have it."""
        built = self._stages[stage]
        experts, dense = built.expert_parameters, built.parameters - built.expert_parameters
        return Memory(
            weights=round(self._weights(stage)),
            gradients=built.parameters * self._precision.gradient,
            optimizer=self._optimizer(dense, self.data_ranks)
            + self._optimizer(experts, self.expert_data_ranks),
            activations=self.activations(stage, Recomputation.of(self._args)),
            logits=self._logits(stage),
            batch=self._batch(stage),
            transient=self._transient(stage),
        )

    def activations(self, stage: int, recomputation: Recomputation) -> int:
        """Activations of a stage under some recomputation."""
        held = [self._activations.held(c, recomputation) for c in self._stages[stage].chunks]
        return most_held(self._args, stage, held)

    def activations_by_recomputation(self, stage: int) -> dict[str, int]:
        """Activations of a stage without, with selective, and with full recomputation."""
        kinds = {"none": NONE, "selective": SELECTIVE, "full": FULL}
        return {name: self.activations(stage, kind) for name, kind in kinds.items()}

    def fp8_parameters(self, stage: int) -> int:
        """Weights of a stage's rank that are multiplied in FP8."""
        return sum(
            part.local_products
            for place, layer in _layers(self._args, self._stages)
            if place.stage == stage and place.index in self._fp8_layers
            for part in layer.parts
            if part.kind in _FP8_KINDS
        )

    def _weights(self, stage: int) -> float:
        precision, built = self._precision, self._stages[stage]
        fp8 = self.fp8_parameters(stage)
        others = built.parameters - (fp8 if precision.keeps_fp8_weights_only else 0)
        return others * precision.compute + fp8 * precision.fp8_copies

    def _optimizer(self, parameters: int, ranks: int) -> int:
        share = ranks if self._args.use_distributed_optimizer else 1
        return -(-parameters // share) * self._precision.optimizer

    def _logits(self, stage: int) -> int:
        if not self._stages[stage].chunks[-1].head:
            return 0
        args, compute = self._args, self._precision.compute
        numbers = self._activations.positions * args.padded_vocab_size
        numbers //= args.tensor_model_parallel_size
        return max(
            # Ours: the gradient takes the logits' place.
            numbers * compute + min(_LOSS_BLOCKS, numbers * 4)
            if bag_size > 1
            else numbers * self._stock_logits
            for bag_size in self._bag_sizes
        )

    @property
    def _stock_logits(self) -> int:
        """Bytes a logit: Megatron's loss makes a float32 copy, which turns into the gradient."""
        compute = self._precision.compute
        fused = (
            self._args.cross_entropy_loss_fusion and self._args.cross_entropy_fusion_impl == "te"
        )
        return compute if fused or compute == 4 else compute + 4

    def _batch(self, stage: int) -> int:
        if stage not in (0, len(self._stages) - 1):
            return 0
        args, n = self._args, self._activations.positions
        whole = n * args.context_parallel_size
        largest = max(self._bag_sizes)
        if largest == 1:
            return n * _BATCH * most_in_flight(args, stage)
        one = whole * largest * _ID + n * (2 * largest * _ID + _BATCH_WITHOUT_BAGS)
        return one * most_in_flight(args, stage)

    def _transient(self, stage: int) -> int:
        """The gradient of the widest tensor of a layer, and of what it was made from."""
        layers = {layer for chunk in self._stages[stage].chunks for layer in chunk.layers}
        sizes = (
            sum(sorted(one.num_bytes for one in self._activations.saved_by_layer(layer))[-2:])
            for layer in layers
        )
        return max(sizes, default=0)


@dataclass(frozen=True)
class _Place:
    """Where a layer stands: its pipeline stage, and its number in the whole model from 0."""

    stage: int
    index: int


def _layers(args: argparse.Namespace, stages: Sequence[Stage]) -> Iterator[tuple[_Place, Layer]]:
    index = 0
    for chunk in range(args.virtual_pipeline_model_parallel_size or 1):
        for number, stage in enumerate(stages):
            for layer in stage.chunks[chunk].layers:
                yield _Place(number, index), layer
                index += 1


def _fp8_layers(args: argparse.Namespace, stages: Sequence[Stage]) -> set[int]:
    """Numbers of the layers whose products are FP8."""
    total = sum(1 for _ in _layers(args, stages))
    first, last = 0, total
    if args.first_last_layers_bf16:
        first, last = args.num_layers_at_start_in_bf16, total - args.num_layers_at_end_in_bf16
    return set(range(first, last))
