"""The tables of hashed n-grams, split over tensor-parallel ranks as Megatron's table of tokens is.

The one idea: a position's vector is the sum of a row a length, of all tables at once, and each rank
adds up the rows that it has before the tensor-parallel reduction. Rows begin at zero, so that the
model is at first the one without them, and one that no n-gram has had yet says nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.utils import make_tp_sharded_tensor_for_checkpoint
from torch import Tensor

from tst_megatron.methods.ngrams.context import with_context
from tst_megatron.methods.ngrams.ngram_hashing import NOTHING, rows_of


class NgramEmbedding(VocabParallelEmbedding):
    """Sums of the rows of the n-grams that end with a token.

    Args:
        orders: lengths of n-grams, in order.
        num_rows: of the table of a length.
        end: the token that ends a document, if there is one.
        packed_length: L where a micro-batch's samples come one after another as ``[1, b·L]``;
            None where they do not.
        like: the model's table of tokens.
        cp_group: of context parallelism.
    """

    # As in `SuperposedVocabParallelEmbedding`, for Megatron-FSDP.
    tensor_model_parallel = True
    partition_dim = 0

    def __init__(
        self,
        orders: Sequence[int],
        num_rows: int,
        end: int | None,
        packed_length: int | None,
        like: VocabParallelEmbedding,
        cp_group: dist.ProcessGroup,
    ) -> None:
        super().__init__(
            len(orders) * num_rows,
            like.embedding_dim,
            init_method=torch.nn.init.zeros_,
            reduce_scatter_embeddings=like.reduce_scatter_embeddings,
            config=like.config,
            tp_group=like.tp_group,
        )
        self.orders = tuple(orders)
        self.num_rows = num_rows
        self.end = end
        self.packed_length = packed_length
        self.cp_group = cp_group
        # As Megatron marks its tables, for decoupled learning rates and for Muon, which
        # orthogonalizes what is no table.
        self.weight.is_embedding_or_output_parameter = True

    def forward(self, input_: Tensor) -> Tensor:
        """Of every position the sum over lengths; of a bag the mean of that over its tokens.

        Collectives over the tensor-parallel group as Megatron's table of tokens has them, and one
        all-gather of a few ids under context parallelism (`with_context`).

        Args:
            input_: ``[b, L/cp]``, or bags ``[b, L/cp, s]``, int64, with negative ids in empty
                places.

        Returns:
            ``[b, L/cp, h]``, or ``[L/cp/tp, b, h]`` where the table of tokens scatters its own, in
            the table's dtype. Zero of a bag without a token.
        """
        rows = self.rows(input_)
        rows = rows.view(-1, rows.shape[-2] * rows.shape[-1])
        filled = None
        if input_.dim() == 3 and input_.shape[-1] > 1:
            filled = (input_ >= 0).view(-1, input_.shape[-1])
        output = self._sum_of_local_rows(rows, filled).view(*input_.shape[:2], -1)
        if self.reduce_scatter_embeddings:
            output = output.transpose(0, 1).contiguous()
            return reduce_scatter_to_sequence_parallel_region(output, group=self.tp_group)
        if self.tp_group.size() > 1:
            return reduce_from_tensor_model_parallel_region(output, group=self.tp_group)
        return output

    def rows(self, input_: Tensor) -> Tensor:
        """Rows of all lengths: ``[b, L/cp, s, orders]``, int64, s being 1 of ids ``[b, L/cp]``."""
        size = input_.shape[-1] if input_.dim() == 3 else 1
        tokens = input_.reshape(input_.shape[0], -1).clamp(min=NOTHING)
        length = self.packed_length
        if length is not None and tokens.shape[0] == 1 and tokens.shape[1] % (length * size) == 0:
            tokens = tokens.view(-1, length * size)
        chunks, before = with_context(tokens, self.orders[-1] - 1, self.cp_group)
        found = rows_of(
            chunks.flatten(0, 1), before.flatten(0, 1), self.orders, self.num_rows, self.end
        )
        found = found.view(*chunks.shape, len(self.orders)).transpose(0, 1)
        return found.reshape(*input_.shape[:2], size, len(self.orders))

    def _sum_of_local_rows(self, rows: Tensor, filled: Tensor | None) -> Tensor:
        """Sums, with rows of other ranks' shards counted as zeros.

        Args:
            rows: ``[n, s·orders]``, int64.
            filled: ``[n, s]``, bool: places of a bag that hold a token; None for single tokens.

        Returns:
            ``[n, h]``, in the table's dtype.
        """
        weights = None
        if filled is not None:
            share = filled / filled.sum(dim=-1, keepdim=True).clamp_(min=1)
            weights = share.repeat_interleave(len(self.orders), dim=-1)
        if self.tp_group.size() > 1:
            is_local = (rows >= self.vocab_start_index) & (rows < self.vocab_end_index)
            weights = is_local if weights is None else weights * is_local
            # A row of this shard for those of others, not the same for all of them: a GPU adds up
            # what was read of one row in a loop of one thread.
            rows = torch.where(
                is_local, rows - self.vocab_start_index, rows % self.num_embeddings_per_partition
            )
        if weights is not None:
            weights = weights.to(self.weight.dtype)
        return F.embedding_bag(rows, self.weight, mode="sum", per_sample_weights=weights)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Megatron's, but a table of another size is no table of this: rows are not padding."""
        key = f"{prefix}weight"
        return {
            key: make_tp_sharded_tensor_for_checkpoint(
                tensor=self.weight,
                key=key,
                prepend_offsets=sharded_offsets,
                tp_group=self.tp_group,
                dp_cp_group=(metadata or {})["dp_cp_group"],
            )
        }
