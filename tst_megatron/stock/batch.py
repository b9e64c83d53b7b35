"""From the data iterator to the tensors one micro-batch trains on, as Megatron's own program does.

The steps a micro-batch takes:

1. tensor-parallel rank 0 takes it from its iterator and copies it to the device;
2. it is broadcast over the tensor-parallel group;
3. targets, masks and positions are formed;
4. every context-parallel rank keeps its positions.

Ordinary micro-batches go through Megatron's own functions (megatron.core.utils), step by step as in
its ``pretrain_gpt.py``. A method that has other samples forms its own, and shares the last step.
Ids may have a dimension more than Megatron's: ``[b, L, s]`` beside ``[b, L]``.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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

DOCUMENT_BOUNDARIES = "cu_seqlens"
"""Megatron's key of where the documents among a sample's inputs begin and end: ``[L + 1]``, int32,
filled up with L."""

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
        tokens: ``[b, L/cp]``, or ``[b, L/cp, s]``, int64.
        labels: ``[b, L/cp]``, or ``[b, L/cp, s]``, int64.
        loss_mask: ``[b, L/cp]``, float32.
        position_ids: ``[b, L/cp]``, int64; they count positions.
        attention_mask: ``[b, 1, L/cp, L]``, bool, True where attention is barred.
        packed_seq_params: lengths of packed documents.
    """

    tokens: Tensor | None = None
    labels: Tensor | None = None
    loss_mask: Tensor | None = None
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    packed_seq_params: PackedSeqParams | None = None


def ordinary_batch(
    args: argparse.Namespace,
    data_iterator: Iterator[dict[str, Tensor]] | None,
    vp_stage: int | None,
    micro_batch_size: int,
    change_labels: Callable[[dict[str, Any]], None] | None = None,
) -> Batch:
    """One micro-batch for this rank.

    Args:
        args: Megatron's validated arguments.
        data_iterator: yields the data set's dictionaries; used on tensor-parallel rank 0 only.
        vp_stage: virtual pipeline stage, if the schedule is interleaved.
        micro_batch_size: b, of training or of evaluation.
        change_labels: changes ``labels`` and ``loss_mask`` ``[b, L]`` in place, where there are
            any, before positions are split.
    """
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
    if change_labels is not None and batch["labels"] is not None:
        change_labels(batch)
    batch = _flatten_packed(batch)
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


def _flatten_packed(batch: dict[str, Any]) -> dict[str, Any]:
    """Megatron's packing of a micro-batch's samples into one, which knows ids ``[b, L]`` alone."""
    with_more = {k: v for k, v in batch.items() if k in _IDS and v is not None and v.dim() == 3}
    if not with_more or batch.get("cu_seqlens") is None:
        return flatten_batch_for_packed_sequences(batch)
    batch = flatten_batch_for_packed_sequences(batch | dict.fromkeys(with_more))
    return batch | {name: ids.flatten(0, 1).unsqueeze(0) for name, ids in with_more.items()}


_IDS = ("tokens", "labels")


def split_over_context(
    args: argparse.Namespace, batch: Batch, boundaries: Tensor | None = None
) -> Batch:
    """Keep this context-parallel rank's positions of a method's own batch (no collective).

    Args:
        args: Megatron's validated arguments.
        batch: of whole samples.
        boundaries: ``[b, L + 1]``, int32, with inter-document masking: the samples are packed. How
            many documents there are, and how long, is a question to the GPU, which waits for all
            that was asked of it before; not so where they are on the host.
    """
    whole: dict[str, Any] = {
        "tokens": batch.tokens,
        "labels": batch.labels,
        "loss_mask": batch.loss_mask,
        "position_ids": batch.position_ids,
        "attention_mask": batch.attention_mask,
    }
    if boundaries is not None:
        longest = boundaries.diff(dim=1).amax(dim=1)
        whole |= {DOCUMENT_BOUNDARIES: boundaries, "max_seqlen": longest}
        whole = _flatten_packed(whole)
    split = get_batch_on_this_cp_rank(
        whole,
        is_hybrid_cp=False,
        cp_group=parallel_state.get_context_parallel_group(),
        use_per_sequence_balancing=True,
    )
    packed_seq_params = _packed_seq_params(args, split)
    return Batch(
        tokens=split["tokens"],
        labels=split["labels"],
        loss_mask=split["loss_mask"],
        position_ids=split["position_ids"],
        attention_mask=split["attention_mask"],
        packed_seq_params=packed_seq_params,
    )


def _packed_seq_params(args: argparse.Namespace, batch: dict[str, Any]) -> PackedSeqParams | None:
    """Megatron's description of packed documents, as its ``pretrain_gpt.py`` makes it."""
    if batch.get("cu_seqlens") is None:
        return None
    lengths, padded = batch["cu_seqlens"].squeeze(0), batch.get("cu_seqlens_padded")
    padded = None if padded is None else padded.squeeze(0)
    max_seqlen = int(batch["max_seqlen"].item())
    local_cp_size = batch.get("local_cp_size")
    hybrid = {}
    if args.hybrid_layer_pattern is not None:
        hybrid["total_tokens"] = int((lengths if padded is None else padded)[-1].item())
    lengths = _beside_tokens(lengths, batch)
    for_attention = lengths if padded is None else padded
    update_seqlen_stats_from_cu_seqlens(lengths)
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


def _beside_tokens(lengths: Tensor, batch: dict[str, Any]) -> Tensor:
    """Lengths that were on the host, where the tokens are; the GPU is not waited for."""
    tokens = batch.get("tokens")
    if tokens is None or tokens.device == lengths.device:
        return lengths
    return lengths.pin_memory().to(tokens.device, non_blocking=True)
