"""Causal attention for a CPU, also over positions that context parallelism has split.

The one idea: Megatron's local attention writes out the scores ``[b·n, L, L]`` and knows no context
parallelism; torch's ``scaled_dot_product_attention`` never writes them and takes any mask. Under
context parallelism every rank gathers all keys and values and attends from its own queries: the
plainest way that is exact, and what the layouts are tested with, not a fast one.
"""

import copy
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor


class ScaledDotProductAttention(DotProductAttention):
    """``DotProductAttention`` through torch's fused kernel, where that computes the same thing."""

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        # The parent refuses context parallelism, which is all it would do with the setting.
        whole = copy.copy(config)
        whole.context_parallel_size = 1
        super().__init__(whole, *args, **kwargs)
        self.config = config

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attention over ``[L/cp, b, n/tp, d]`` queries: ``[L/cp, b, n·d/tp]``.

        Packed documents ``[L, n/tp, d]`` attend to themselves: ``[L, 1, n·d/tp]``. A mask from
        the data loader, a window, a softmax offset or a bias go the parent's way.

        Raises:
            RuntimeError: the parent would be needed, or documents are packed, and context
                parallelism is on.
        """
        mask_type = self.attn_mask_type if attn_mask_type is None else attn_mask_type
        plain = (
            mask_type == AttnMaskType.causal
            and attention_mask is None
            and attention_bias is None
            and self.softmax_offset is None
            and self.scale_mask_softmax.window_size is None
            and not self.config.apply_query_key_layer_scaling
        )
        split = self.config.context_parallel_size > 1
        if not plain or (split and packed_seq_params is not None):
            if split:
                raise RuntimeError(
                    "context parallelism on a CPU needs plain causal attention: leave masks, "
                    "windows, softmax offsets and packed documents out"
                )
            return super().forward(
                query, key, value, attention_mask, attn_mask_type, attention_bias, packed_seq_params
            )
        mask = None
        if packed_seq_params is not None:
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
            mask = causal_mask_of_documents(packed_seq_params.cu_seqlens_q, query.shape[0])
        elif split:
            mask = causal_mask(query.shape[0], self.pg_collection.cp, query.device)
            key, value = (
                gather_from_sequence_parallel_region(x, group=self.pg_collection.cp)
                for x in (key, value)
            )
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        attend = partial(
            F.scaled_dot_product_attention,
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        if self.training and self.attention_dropout.p > 0.0:
            with tensor_parallel.get_cuda_rng_tracker().fork():
                context = attend(dropout_p=self.attention_dropout.p)
        else:
            context = attend()
        return context.permute(2, 0, 1, 3).flatten(start_dim=2)


def causal_mask(local_length: int, group: dist.ProcessGroup, device: torch.device) -> Tensor:
    """Which keys, gathered in rank order, every query of this rank may see.

    Megatron deals the sequence out in 2·cp chunks, rank r getting chunk r and chunk 2·cp − 1 − r
    (``get_batch_on_this_cp_rank`` in megatron/core/utils.py).

    Returns:
        ``[L/cp, L]``, bool, True where attention is allowed.
    """
    chunk = local_length // 2
    positions = torch.arange(2 * group.size() * chunk, device=device).view(2 * group.size(), chunk)
    of_rank = torch.cat((positions[: group.size()], positions.flip(0)[: group.size()]), dim=1)
    return of_rank.flatten().unsqueeze(0) <= of_rank[group.rank()].unsqueeze(1)


def causal_mask_of_documents(cu_seqlens: Tensor, length: int) -> Tensor:
    """Which keys every query of packed documents may see: the earlier ones of its own.

    Args:
        cu_seqlens: where the documents begin, and the end of the last, int32.
        length: L, positions of all together.

    Returns:
        ``[L, L]``, bool, True where attention is allowed.
    """
    positions = torch.arange(length, device=cu_seqlens.device)
    document = torch.bucketize(positions, cu_seqlens[1:], right=True)
    is_own = document.unsqueeze(0) == document.unsqueeze(1)
    return is_own & (positions.unsqueeze(0) <= positions.unsqueeze(1))
