"""What a GPU holds while it trains, by kind.

The one idea: the numbers that a rank was built with, times the bytes that the precision flags give
them, divided among the ranks that Megatron's distributed optimizer divides them among; and the
activations at the moment of the step when there are most of them. What the stages of the run differ
in counts at its largest.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

from tst_megatron.methods.terms import Kept
from tst_megatron.planner.activations import FULL, NONE, Activations, Held, Recomputation
from tst_megatron.planner.counts import Chunk, PipelineStage
from tst_megatron.planner.course import Course
from tst_megatron.planner.pipeline import most_held, most_in_flight
from tst_megatron.planner.precision import Precision
from tst_megatron.runs.stages import Stage
from tst_megatron.stock.table_gradient import head_gradient_bytes, table_gradient_bytes

SELECTIVE = Recomputation("selective", modules=("core_attn",))

_FP8_KINDS = ("attention", "dense_mlp", "experts", "shared_experts")
# Bytes of a position in an ordinary batch: tokens, labels and positions in int64, the loss mask in
# float32.
BATCH_POSITION = 28


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: with the FP8 copies of them that Transformer Engine keeps.
        gradients: Megatron's buffer of them.
        optimizer: this rank's share of its states.
        activations: of the micro-batches in flight, and what is recomputed.
        logits: and what the loss makes of them, or the gradients of the output layer with theirs,
            if that is more; on the last stage.
        batch: the micro-batches themselves, at their largest.
        transient: the gradients that travel through one layer; or what the embedding's table
            takes for its own, less what is gone by then, if that is more.
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
        pipeline: what was built.
        course: of the run.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        precision: Precision,
        pipeline: Sequence[PipelineStage],
        course: Course,
    ) -> None:
        self._args = args
        self._precision = precision
        self._pipeline = pipeline
        self._stages, self._terms = course.stages, course.terms
        self._activations = Activations(args, precision)
        self._fp8_layers = _fp8_layers(args, pipeline) if precision.fp8 else range(0)
        expert_ranks = (
            args.expert_tensor_parallel_size
            * args.expert_model_parallel_size
            * args.pipeline_model_parallel_size
        )
        self.data_ranks = args.data_parallel_size * args.context_parallel_size
        self.expert_data_ranks = args.world_size // expert_ranks

    def of_stage(self, stage: int) -> Memory:
        """Memory of a GPU of a stage, as the run's flags have it."""
        built = self._pipeline[stage]
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
        return max(self._held(stage, recomputation, of_run) for of_run in self._stages)

    def _held(self, stage: int, recomputation: Recomputation, of_run: Stage) -> int:
        chunks = self._pipeline[stage].chunks
        held = [self._chunk_held(chunk, recomputation, of_run) for chunk in chunks]
        return most_held(self._args, stage, held)

    def _chunk_held(self, chunk: Chunk, recomputation: Recomputation, of_run: Stage) -> Held:
        def keeps(layer: int) -> Kept:
            return self._terms.layer_keeps(self._args, of_run, layer, Kept())

        return self._activations.held(chunk, recomputation, keeps)

    def activations_by_recomputation(self, stage: int) -> dict[str, int]:
        """Activations of a stage without, with selective, and with full recomputation."""
        kinds = {"none": NONE, "selective": SELECTIVE, "full": FULL}
        return {name: self.activations(stage, kind) for name, kind in kinds.items()}

    def fp8_parameters(self, stage: int) -> int:
        """Weights of a stage's rank that are multiplied in FP8."""
        return sum(
            one.local_products
            for chunk in self._pipeline[stage].chunks
            for number, layer in chunk.numbered_layers
            if number in self._fp8_layers
            for one in layer.counts
            if one.kind in _FP8_KINDS
        )

    def _weights(self, stage: int) -> float:
        precision, built = self._precision, self._pipeline[stage]
        fp8 = self.fp8_parameters(stage)
        others = built.parameters - (fp8 if precision.keeps_fp8_weights_only else 0)
        return others * precision.compute + fp8 * precision.fp8_copies

    def _optimizer(self, parameters: int, ranks: int) -> int:
        share = ranks if self._args.use_distributed_optimizer else 1
        return -(-parameters // share) * self._precision.optimizer

    def _logits(self, stage: int) -> int:
        if not self._pipeline[stage].chunks[-1].head:
            return 0
        numbers = self._activations.positions * self._args.padded_vocab_size
        numbers //= self._args.tensor_model_parallel_size
        # The loss, and then the output layer's products with the gradient that it left.
        ordinary = max(
            numbers * self._stock_logits,
            numbers * self._precision.compute + head_gradient_bytes(self._args),
        )
        return max(
            self._terms.logits_bytes(self._args, one, numbers, ordinary) for one in self._stages
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
        if stage not in (0, len(self._pipeline) - 1):
            return 0
        ordinary = self._activations.positions * BATCH_POSITION
        largest = max(self._terms.batch_bytes(self._args, one, ordinary) for one in self._stages)
        return largest * most_in_flight(self._args, stage)

    def _transient(self, stage: int) -> int:
        """The gradient of the widest tensor of a layer, and of what it was made from.

        Or that of the embedding's table, if that makes for a fuller moment.
        """
        chunks = self._pipeline[stage].chunks
        sizes = [
            sum(sorted(one.num_bytes for one in self._activations.saved_by_layer(layer))[-2:])
            for layer in {layer for chunk in chunks for layer in chunk.layers}
        ]
        return max(*sizes, self._table_gradient(stage), 0)

    def _table_gradient(self, stage: int) -> int:
        """What the gradient of the embedding's table takes beyond what is gone by then.

        It comes last in a micro-batch's backward pass: its logits are gone, and all that the layers
        of this chunk kept of it.
        """
        with_table = [chunk for chunk in self._pipeline[stage].chunks if chunk.embedding]
        if not with_table:
            return 0
        ordinary = table_gradient_bytes(self._args, 1)
        beyond = []
        for one in self._stages:
            kept = self._chunk_held(with_table[0], Recomputation.of(self._args), one)
            takes = self._terms.embedding_bytes(self._args, one, ordinary)
            beyond.append(takes - kept.per_microbatch - kept.at_once)
        return max(beyond) - self._logits(stage)


def _fp8_layers(args: argparse.Namespace, pipeline: Sequence[PipelineStage]) -> range:
    """Numbers of the layers whose products are FP8."""
    total = sum(len(chunk.layers) for stage in pipeline for chunk in stage.chunks)
    if not args.first_last_layers_bf16:
        return range(total)
    return range(args.num_layers_at_start_in_bf16, total - args.num_layers_at_end_in_bf16)
