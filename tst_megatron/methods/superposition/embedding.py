"""Megatron's vocabulary-parallel embedding, which also reads bags.

The one idea: each rank averages the rows of its own vocabulary shard over the bag *before* the
tensor-parallel reduction, so ``[b, L, h]`` crosses the wire whatever the bag size.
"""

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor

from tst_megatron.methods.superposition.bags import EMPTY


class SuperposedVocabParallelEmbedding(VocabParallelEmbedding):
    """``VocabParallelEmbedding`` whose input may be bags ``[b, L, s]`` as well as ids ``[b, L]``.

    Parameters, initialisation, sharding and state dict are the parent's, and so is every value for
    ids ``[b, L]`` and for bags of one.

    Attributes:
        has_empty_places: whether bags may have `EMPTY` places, which are left out of the mean.
            Not found out from the bags: that would wait for the GPU.
    """

    has_empty_places = False

    # Megatron-FSDP knows how a module is split by its class's name. Of one whose name it does not
    # know it asks these two (_detect_parallelism_type in
    # megatron/core/distributed/fsdp/mcore_fsdp_adapter.py): over the ranks, along the vocabulary.
    tensor_model_parallel = True
    partition_dim = 0

    def forward(self, input_: Tensor) -> Tensor:
        """Mean embedding of every bag (arXiv 2605.06546, Section 3), or the parent's look-up.

        The rows of a bag are summed in float32 and cast to the table's dtype. With a bfloat16 table
        that is not the last rounding everywhere: torch's CPU kernel also rounds at the division,
        as does every rank of a split table, whose reduction then adds in bfloat16. So does every
        table where bags may have `EMPTY` places. The embedding of a bag without a token is zero.

        Collectives over the tensor-parallel group, as in the parent: all-reduce of ``[b, L, h]``,
        or reduce-scatter to ``[L/tp, b, h]`` under sequence parallelism, in the table's dtype.

        Args:
            input_: ``[b, L]`` or ``[b, L, s]``, int64; bags of one have no `EMPTY` place.

        Returns:
            ``[b, L, h]``, or ``[L/tp, b, h]`` under sequence parallelism, in the table's dtype.

        Raises:
            RuntimeError: the table is sharded beyond tensor parallelism.
        """
        if input_.dim() == 2:
            return super().forward(input_)
        if input_.shape[-1] == 1:
            # The same values either way, but the gradient of a token that stands several times in
            # a batch is summed in another order by another kernel.
            return super().forward(input_.squeeze(-1))
        if self.gtp_remat_size > 1:
            raise RuntimeError(
                "bags cannot be read from a table that is sharded once more by "
                "--tensor-parallel-num-weight-shards: leave the flag out"
            )
        output = self._mean_of_local_rows(input_)
        if self.reduce_scatter_embeddings:
            # [b, L, h] -> [L, b, h], the layout that sequence parallelism scatters.
            output = output.transpose(0, 1).contiguous()
            return reduce_scatter_to_sequence_parallel_region(output, group=self.tp_group)
        if self.tp_group.size() > 1:
            return reduce_from_tensor_model_parallel_region(output, group=self.tp_group)
        return output

    def _mean_of_local_rows(self, bags: Tensor) -> Tensor:
        """Mean over each bag, with rows of other ranks' shards counted as zeros: ``[b, L, h]``."""
        bag_size = bags.shape[-1]
        flat = bags.reshape(-1, bag_size)
        if self.tp_group.size() == 1 and not self.has_empty_places:
            mean = F.embedding_bag(flat, self.weight, mode="mean")
        else:
            # `EMPTY` is below the first id of every shard.
            is_local = (flat >= self.vocab_start_index) & (flat < self.vocab_end_index)
            local = torch.where(
                is_local, flat - self.vocab_start_index, _rows_in_turn(flat, self.weight.shape[0])
            )
            total = F.embedding_bag(
                local, self.weight, mode="sum", per_sample_weights=is_local.to(self.weight.dtype)
            )
            if self.has_empty_places:
                filled = (flat != EMPTY).sum(dim=-1, keepdim=True)
                mean = total / filled.clamp_(min=1).to(total.dtype)
            else:
                mean = total / bag_size
        return mean.view(*bags.shape[:-1], -1)


def _rows_in_turn(places: Tensor, num_rows: int) -> Tensor:
    """Rows for places whose token is not of this shard, one after the other, by the place alone.

    On a GPU the backward pass adds up all that was read of one row, ten by ten, and then the sums
    in a loop of a single thread (``sum_and_scatter`` in torch's
    aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu). Were it row 0 for all of them, that loop
    would be as long as a batch; and by its id a frequent token would still be read from one row.
    What is read has the weight 0.

    Args:
        places: ``[n, s]``; their values do not matter.
        num_rows: of the shard, V/tp.

    Returns:
        ``[n, s]``, int64: no row more than ⌈n·s / num_rows⌉ times.
    """
    in_turn = torch.arange(places.numel(), device=places.device).remainder_(num_rows)
    return in_turn.view_as(places)
