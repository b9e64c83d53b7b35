"""Multi-hot cross-entropy of hidden states whose logits are never whole.

The one idea: the loss wants three numbers of a row of logits, and its gradient is multiplied on at
once; so logits are made in blocks, read, and dropped, and the backward pass makes them again. That
costs one more of the output layer's products, three in all turning into four.

Blocks are cut so that no sum of the weight's size is kept between them. In the forward pass they
are rows: three numbers of a whole row are final. In the backward pass they are ids of the
vocabulary, all rows at once: the weight's gradient of an id is one product, rounded once, as where
the logits are whole. What is summed over those blocks is the hidden states' gradient, in float32.
Rows there would add the weight's gradient up, ``[V/tp, h]``, block by block: twice its bytes in
float32, or a rounding a block.

What stands at the targets is gathered from the logits. With Σ_j w_j · W[y_j], the bag embedding of
the output table, it would be h · that, but rounded otherwise than the logits that it is subtracted
from, and ``mce-alt`` needs each target's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import layers
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor
from torch.autograd.function import once_differentiable

from tst_megatron.methods.superposition.logit_passes import (
    Implementation,
    Numbers,
    Passes,
    passes_of,
)
from tst_megatron.methods.superposition.loss import (
    Objective,
    checked_targets,
    score,
    targets_in_shard,
    tensor_parallel_group,
)

# Ids of a block of the backward pass are a multiple of this: tiles of a GPU's matrix products, and
# rows that begin at 16 bytes.
_TILE = 128


def chunked_multi_hot_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    tp_group: dist.ProcessGroup | None = None,
    objective: Objective | str = "mce",
    *,
    chunk_size: int,
    implementation: Implementation | str | None = None,
    fused_all_reduce: bool = False,
    sequence_parallel: bool = False,
    gradient_accumulation_fusion: bool = False,
) -> Tensor:
    """`multi_hot_cross_entropy` of the logits ``hidden @ weight.T``, which are never whole.

    The logits are in the hidden states' dtype, as an output layer gives them, and so is their
    gradient. Of a block's logits nothing outlives the block.

    Collectives over ``tp_group``: the loss's, over all rows at once, as `multi_hot_cross_entropy`
    has them; and around it those of Megatron's ``ColumnParallelLinear``: all-reduce of the hidden
    states' gradient ``[L, b, h]``, or under sequence parallelism all-gather of the hidden states
    forward and backward, and reduce-scatter of the gradient, in the hidden states' dtype. Nothing
    hides them here: the gradient is not whole before the last block.

    Args:
        hidden: ``[L, b, h]``, or ``[L/tp, b, h]`` under sequence parallelism, any floating dtype.
        weight: ``[V/tp, h]``, in the same dtype; this rank's shard of the output table. Without
            ``requires_grad`` it gets no gradient.
        targets, weights, tp_group, objective, implementation, fused_all_reduce: as of
            `multi_hot_cross_entropy`.
        chunk_size: rows of logits ``[V/tp]`` that may be there at once, from 1. A block of the
            backward pass has as many logits, and those of up to 127 ids more.
        sequence_parallel: whether the hidden states are split along the sequence.
        gradient_accumulation_fusion: add the weight's gradient to ``weight.main_grad`` by the
            kernel that Megatron uses for it (Apex's ``fused_weight_gradient_mlp_cuda``).

    Returns:
        ``[L, b]``, float32.

    Raises:
        ValueError: as `multi_hot_cross_entropy`, or the chunk size is below 1.
        RuntimeError: the implementation that is named cannot run here.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk size {chunk_size} is no number of rows: use 1 or more")
    how = _How(
        tensor_parallel_group() if tp_group is None else tp_group,
        objective,
        chunk_size,
        passes_of(implementation, hidden.device),
        fused_all_reduce,
        sequence_parallel,
        gradient_accumulation_fusion,
    )
    shape = [hidden.shape[0] * (how.num_ranks if sequence_parallel else 1), *hidden.shape[1:]]
    targets = checked_targets(targets, "hidden states", shape, weights, objective)
    if weights is not None and weights.shape == targets.shape:
        weights = weights.flatten(0, -2)
    loss = _ChunkedMultiHotCrossEntropy.apply(hidden, weight, targets.flatten(0, -2), weights, how)
    return cast(Tensor, loss).view(targets.shape[:-1])


def slices(total: int, size: int) -> Iterator[slice]:
    """Of ``total`` things, ``size`` at a time."""
    for first in range(0, total, size):
        yield slice(first, min(first + size, total))


def whole_rows(
    hidden: Tensor, tp_group: dist.ProcessGroup | None, sequence_parallel: bool
) -> Tensor:
    """``[n, h]``: this rank's hidden states, or under sequence parallelism those of all ranks."""
    if sequence_parallel and tp_group is not None:
        hidden = gather_from_sequence_parallel_region(hidden, group=tp_group)
    return hidden.reshape(-1, hidden.shape[-1]).contiguous()


@dataclass(frozen=True)
class _How:
    """What of a call is no tensor, as `chunked_multi_hot_cross_entropy` has it."""

    tp_group: dist.ProcessGroup | None
    objective: str
    chunk_size: int
    passes: Passes
    fused_all_reduce: bool
    sequence_parallel: bool
    gradient_accumulation_fusion: bool

    @property
    def num_ranks(self) -> int:
        return 1 if self.tp_group is None else self.tp_group.size()


class _ChunkedMultiHotCrossEntropy(torch.autograd.Function):
    """Blocks of rows forward, blocks of ids backward; see `chunked_multi_hot_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        how: _How,
    ) -> Tensor:
        partition_vocab_size = weight.shape[0]
        local_targets = targets_in_shard(targets, partition_vocab_size, how.tp_group)
        rows = whole_rows(hidden, how.tp_group, how.sequence_parallel)
        # No name holds a block while the next one is made.
        parts = [
            how.passes.read(rows[here] @ weight.t(), local_targets[here])
            for here in slices(rows.shape[0], how.chunk_size)
        ]
        scored = score(
            Numbers(*(torch.cat(part) for part in zip(*parts, strict=True))),
            targets,
            weights,
            partition_vocab_size,
            how.tp_group,
            how.objective,
            how.fused_all_reduce,
        )
        ctx.how = how
        # As Megatron, not among the saved tensors: it changes before the backward pass.
        ctx.main_grad = getattr(weight, "main_grad", None)
        of_rows = scored.maximum, scored.sum_exp, scored.shares, scored.total
        ctx.save_for_backward(hidden, weight, local_targets, *of_rows)
        return scored.loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch's
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, local_targets, maximum, sum_exp, shares, total = ctx.saved_tensors
        how, pull = ctx.how, grad_outputs[0] * total
        rows = whole_rows(hidden, how.tp_group, how.sequence_parallel)
        of_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        of_weight = None
        if ctx.needs_input_grad[1]:
            fused = how.gradient_accumulation_fusion
            of_weight = ctx.main_grad if fused else torch.empty_like(weight)
        for here in slices(
            weight.shape[0], _ids_of_block(rows.shape[0], weight.shape[0], how.chunk_size)
        ):
            logits = rows @ weight[here].t()
            # To the rows, a part of the vocabulary is what a rank's shard is.
            how.passes.write(logits, local_targets - here.start, maximum, sum_exp, shares, pull)
            of_rows += logits @ weight[here]
            if of_weight is not None:
                _add_product(of_weight[here], logits, rows, how)
            del logits
        if of_weight is not None and how.gradient_accumulation_fusion:
            of_weight = _stand_in(weight, ctx.main_grad, hidden.dtype)
        return _of_this_rank(of_rows.to(hidden.dtype), hidden, how), of_weight, None, None, None


def _ids_of_block(num_rows: int, num_ids: int, chunk_size: int) -> int:
    """Of which all rows have about as many logits as ``chunk_size`` rows have of all ids."""
    num_blocks = -(-num_rows // chunk_size)
    return -(-num_ids // (num_blocks * _TILE)) * _TILE


def _of_this_rank(of_rows: Tensor, hidden: Tensor, how: _How) -> Tensor:
    """The gradient ``[n, h]``, of which a rank has its shard's part, as that of its ``hidden``."""
    if how.num_ranks == 1:
        return of_rows.view_as(hidden)
    if how.sequence_parallel:
        of_rows = of_rows.view(-1, *hidden.shape[1:])
        return reduce_scatter_to_sequence_parallel_region(of_rows, group=how.tp_group)
    return reduce_from_tensor_model_parallel_region(of_rows.view_as(hidden), group=how.tp_group)


def _add_product(into: Tensor, gradient: Tensor, rows: Tensor, how: _How) -> None:
    """``gradientᵀ @ rows`` of a block, ``[ids, h]``: written, or added to ``main_grad``.

    Args:
        into: the block's rows of the weight's gradient, or of ``main_grad``.
        gradient: of the block's logits, ``[n, ids]``.
        rows: hidden states ``[n, h]``.
        how: of the call.
    """
    if not how.gradient_accumulation_fusion:
        torch.mm(gradient.t(), rows, out=into)
    elif into.dtype == torch.float32:
        layers.fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(rows, gradient, into)
    else:
        layers.fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp16(rows, gradient, into)


def _stand_in(weight: Tensor, main_grad: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What autograd is given for a gradient that is in ``main_grad`` already.

    As Megatron's ``LinearWithGradAccumulationAndAsyncCommunication``
    (megatron/core/tensor_parallel/layers.py): hooks of the parameter run, and are told not to add
    it; zeros where something else adds to it first, as the embedding does to a tied table.
    """
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    zero = getattr(weight, "zero_out_wgrad", False)
    if layers.HAVE_TE:
        # One for all layers.
        return cast(Tensor, layers.get_dummy_wgrad(list(main_grad.shape), dtype, zero=zero))
    make = torch.zeros if zero else torch.empty
    return make(main_grad.shape, dtype=dtype, device=main_grad.device)
