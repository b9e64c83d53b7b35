"""From the data iterator to the tensors one micro-batch trains on.

The steps a micro-batch takes, ordinary or superposed:

1. tensor-parallel rank 0 takes it from its iterator and copies it to the device;
2. it is broadcast over the tensor-parallel group;
3. targets are formed (a superposed sample travels as bags ``[b, L + 1, s]``, once);
4. every context-parallel rank keeps its positions.

Ordinary micro-batches go through Megatron's own functions (megatron.core.utils), step by step as in
its ``pretrain_gpt.py``.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import mpu, parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.multi_token_prediction import mtp_on_this_rank
from megatron.core.utils import (
    flatten_batch_for_packed_sequences,
    get_batch_on_this_cp_rank,
    get_batch_on_this_tp_rank,
)
from megatron.training.arguments import core_transformer_config_from_args
from megatron.training.training import update_seqlen_stats_from_cu_seqlens
from megatron.training.utils import is_first_or_last_pipeline_stage
from torch import Tensor

from tst_megatron.data.phased_dataset import BAGS
from tst_megatron.superposition.bags import EMPTY, look_ahead
from tst_megatron.training.arguments import Superposition

_STOCK_KEYS = (
    "attention_mask",
    "cu_seqlens",
    "cu_seqlens_padded",
    "hybrid_cp_group",
    "labels",
    "local_cp_size",
    "loss_mask",
    "max_seqlen",
    "position_ids",
    "tokens",
)


@dataclass
class Batch:
    """What the model and the loss of one micro-batch need; None where this rank needs none of it.

    Attributes:
        tokens: ``[b, L/cp]``, or bags ``[b, L/cp, s]``, int64.
        labels: ``[b, L/cp]``, or bags ``[b, L/cp, s]``, int64.
        loss_mask: ``[b, L/cp]``, float32.
        position_ids: ``[b, L/cp]``, int64; they count bags in the superposition phase.
        attention_mask: ``[b, 1, L/cp, L]``, bool, True where attention is barred.
        packed_seq_params: lengths of packed documents.
    """

    tokens: Tensor | None = None
    labels: Tensor | None = None
    loss_mask: Tensor | None = None
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    packed_seq_params: PackedSeqParams | None = None


def get_batch(
    args: argparse.Namespace,
    data_iterator: Iterator[dict[str, Tensor]] | None,
    vp_stage: int | None,
    micro_batch_size: int,
    superposition: Superposition | None = None,
    bag_size: int = 1,
) -> Batch:
    """One micro-batch for this rank.

    Args:
        args: Megatron's validated arguments.
        data_iterator: yields the data set's dictionaries; used on tensor-parallel rank 0 only.
        vp_stage: virtual pipeline stage, if the schedule is interleaved.
        micro_batch_size: b, of training or of evaluation.
        superposition: how to superpose this micro-batch; None for ordinary next-token training.
        bag_size: s of this micro-batch. Every rank knows both from the count of consumed samples.
    """
    if superposition is not None and superposition.reads_bags:
        if not reads_data(args, vp_stage):
            return Batch()
        shape = (micro_batch_size, args.seq_length + 1, bag_size)
        bags = _broadcast_bags(data_iterator, shape)
        return split_over_context(bag_batch(args, bags, superposition.predicts_bags))
    return _stock_batch(
        args, data_iterator, vp_stage, micro_batch_size, superposition is not None, bag_size
    )


def reads_data(args: argparse.Namespace, vp_stage: int | None) -> bool:
    """Whether this pipeline stage needs any part of the batch (tensor-parallel rank aside)."""
    return (
        bool(is_first_or_last_pipeline_stage(vp_stage))
        or _predicts_several(args, vp_stage)
        or has_packed_documents(args)
    )


def has_packed_documents(args: argparse.Namespace) -> bool:
    """Whether samples carry the lengths of their documents."""
    return bool(args.sft or args.dataloader_inter_document_masking)


def _predicts_several(args: argparse.Namespace, vp_stage: int | None) -> bool:
    if args.mtp_num_layers is None:
        return False
    config = core_transformer_config_from_args(args)
    return bool(
        mtp_on_this_rank(
            layout=config.pipeline_model_parallel_layout,
            mtp_num_layers=config.mtp_num_layers,
            ignore_virtual=False,
            vp_stage=vp_stage,
        )
    )


def _broadcast_bags(
    data_iterator: Iterator[dict[str, Tensor]] | None, shape: tuple[int, int, int]
) -> Tensor:
    """Bags ``[b, L + 1, s]`` on every rank of the tensor-parallel group: one broadcast, int64."""
    group = mpu.get_tensor_model_parallel_group()
    if group.rank() == 0:
        assert data_iterator is not None, "the data set is built on tensor-parallel rank 0"
        bags = next(data_iterator)[BAGS].cuda(non_blocking=True)
    else:
        bags = torch.empty(shape, dtype=torch.int64, device=torch.cuda.current_device())
    if group.size() > 1:
        source = mpu.get_tensor_model_parallel_src_rank()
        torch.distributed.broadcast(bags, source, group=group)
    return bags


def bag_batch(args: argparse.Namespace, bags: Tensor, predicts_bags: bool) -> Batch:
    """Inputs are bags 0 … L−1, targets bags 1 … L, or their first tokens alone.

    Args:
        args: Megatron's validated arguments.
        bags: ``[b, L + 1, s]``, int64, with `EMPTY` places only where the text ended.
        predicts_bags: whether the target is the whole next bag.
    """
    inputs, targets = bags[:, :-1], bags[:, 1:]
    labels = targets if predicts_bags else targets[..., 0]
    filled = labels != EMPTY
    batch_size, seq_length = inputs.shape[:2]
    positions = torch.arange(seq_length, device=bags.device)
    mask = None
    if args.create_attention_mask_in_dataloader:
        mask = (positions.unsqueeze(0) > positions.unsqueeze(1)).expand(batch_size, 1, -1, -1)
    return Batch(
        # As in GPTDataset, a place without a token reads token 0; its loss is masked.
        tokens=inputs.clamp(min=0),
        labels=labels.contiguous() if predicts_bags else labels.clamp(min=0),
        loss_mask=(filled.any(dim=-1) if predicts_bags else filled).float(),
        position_ids=positions.unsqueeze(0).expand(batch_size, -1),
        attention_mask=mask,
    )


def _stock_batch(
    args: argparse.Namespace,
    data_iterator: Iterator[dict[str, Tensor]] | None,
    vp_stage: int | None,
    micro_batch_size: int,
    predicts_bags: bool,
    bag_size: int,
) -> Batch:
    if not reads_data(args, vp_stage):
        return Batch()
    tp_rank = mpu.get_tensor_model_parallel_rank()
    batch: dict[str, Any] = {}
    if tp_rank == 0:
        assert data_iterator is not None, "the data set is built on tensor-parallel rank 0"
        sample = next(data_iterator)
        for key in _STOCK_KEYS:
            value = sample.get(key)
            batch[key] = None if value is None else value.cuda(non_blocking=True)
    batch = get_batch_on_this_tp_rank(
        batch,
        broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
        broadcast_group=mpu.get_tensor_model_parallel_group(),
        has_cu_seqlens=has_packed_documents(args),
        is_hybrid_cp=args.hybrid_context_parallel,
        create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader,
        cp_size=args.context_parallel_size,
        tp_rank=tp_rank,
        micro_batch_size=micro_batch_size,
        seq_length=args.seq_length,
        mtp_on_this_rank=_predicts_several(args, vp_stage),
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        is_pipeline_first_stage=mpu.is_pipeline_first_stage(),
        is_pipeline_last_stage=mpu.is_pipeline_last_stage(),
    )
    if predicts_bags and batch["labels"] is not None:
        _predict_bags(batch, bag_size)
    batch = flatten_batch_for_packed_sequences(batch)
    if is_first_or_last_pipeline_stage(vp_stage) or _predicts_several(args, vp_stage):
        batch = get_batch_on_this_cp_rank(
            batch,
            is_hybrid_cp=args.hybrid_context_parallel,
            cp_group=parallel_state.get_context_parallel_group(),
            hybrid_cp_group_func=parallel_state.get_hybrid_data_context_parallel_groups,
            use_per_sequence_balancing=args.dataloader_inter_document_masking and not args.sft,
        )
    return Batch(
        tokens=batch.get("tokens"),
        labels=batch.get("labels"),
        loss_mask=batch.get("loss_mask"),
        position_ids=batch.get("position_ids"),
        attention_mask=batch.get("attention_mask"),
        packed_seq_params=_packed_seq_params(args, batch),
    )


def _predict_bags(batch: dict[str, Any], bag_size: int) -> None:
    """Output superposition: labels ``[b, L]`` become the next s tokens ``[b, L, s]``, in place."""
    labels = batch["labels"].masked_fill(batch["loss_mask"] == 0, EMPTY)
    batch["labels"] = look_ahead(labels, bag_size)
    batch["loss_mask"] = (batch["labels"] != EMPTY).any(dim=-1).float()


def split_over_context(batch: Batch) -> Batch:
    """Keep this context-parallel rank's positions of a superposed batch (no collective)."""
    split = get_batch_on_this_cp_rank(
        {
            "tokens": batch.tokens,
            "labels": batch.labels,
            "loss_mask": batch.loss_mask,
            "position_ids": batch.position_ids,
            "attention_mask": batch.attention_mask,
        },
        is_hybrid_cp=False,
        cp_group=parallel_state.get_context_parallel_group(),
    )
    return Batch(**split)


def _packed_seq_params(args: argparse.Namespace, batch: dict[str, Any]) -> PackedSeqParams | None:
    """Megatron's description of packed documents, as its ``pretrain_gpt.py`` makes it."""
    if batch.get("cu_seqlens") is None:
        return None
    lengths = batch["cu_seqlens"].squeeze(0)
    padded = batch.get("cu_seqlens_padded")
    padded = None if padded is None else padded.squeeze(0)
    update_seqlen_stats_from_cu_seqlens(lengths)
    for_attention = lengths if padded is None else padded
    max_seqlen = int(batch["max_seqlen"].item())
    local_cp_size = batch.get("local_cp_size")
    hybrid = {}
    if args.hybrid_layer_pattern is not None:
        hybrid["total_tokens"] = int(for_attention[-1].item())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=for_attention,
        cu_seqlens_kv=for_attention,
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        max_seqlen_q=max_seqlen,
        max_seqlen_kv=max_seqlen,
        local_cp_size=None if local_cp_size is None else int(local_cp_size.item()),
        cp_group=batch.get("hybrid_cp_group"),
        tokens_per_sample=args.seq_length,
        **hybrid,
    )
