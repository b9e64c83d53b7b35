"""From the data iterator to the tensors one micro-batch trains on.

The steps a micro-batch takes, ordinary or superposed:

1. tensor-parallel rank 0 takes it from its iterator and copies it to the device;
2. it is broadcast over the tensor-parallel group;
3. targets, masks and positions are formed (a superposed sample travels as bags
   ``[b, L + 1, s]``, once, and with inter-document masking the documents' ends);
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
from megatron.training import get_tokenizer
from megatron.training.arguments import core_transformer_config_from_args
from megatron.training.training import update_seqlen_stats_from_cu_seqlens
from megatron.training.utils import is_first_or_last_pipeline_stage
from torch import Tensor

from tst_megatron.methods.superposition.arguments import Superposition
from tst_megatron.methods.superposition.bags import (
    EMPTY,
    end_with_document,
    last_tokens,
    look_ahead,
)
from tst_megatron.methods.superposition.phased_dataset import BAGS, DOCUMENT_BOUNDARIES

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
        bags, boundaries = _broadcast_sample(data_iterator, shape, has_packed_documents(args))
        documents = None
        if superposition.bag_boundary == "document":
            documents = Documents(_eod_if_needed(args), boundaries)
        return split_over_context(
            args, bag_batch(args, bags, superposition.predicts_bags, documents), boundaries
        )
    return _stock_batch(args, data_iterator, vp_stage, micro_batch_size, superposition, bag_size)


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


@dataclass
class Documents:
    """Where the documents of a micro-batch are, if its bags end with them.

    Attributes:
        eod: the token that ends a document; None where no flag asks for it.
        boundaries: ``[b, L + 1]``, int32, Megatron's ``cu_seqlens`` of inter-document masking.
    """

    eod: int | None = None
    boundaries: Tensor | None = None


def _eod_if_needed(args: argparse.Namespace) -> int | None:
    """The end-of-document token, which not every tokenizer has."""
    if args.reset_position_ids or args.reset_attention_mask or args.eod_mask_loss:
        return int(get_tokenizer().eod)
    return None


def _broadcast_sample(
    data_iterator: Iterator[dict[str, Tensor]] | None,
    shape: tuple[int, int, int],
    has_boundaries: bool,
) -> tuple[Tensor, Tensor | None]:
    """Bags ``[b, L + 1, s]`` on every rank of the tensor-parallel group: one broadcast, int64.

    With inter-document masking another, int32: the documents' boundaries ``[b, L + 1]``.
    """
    group = mpu.get_tensor_model_parallel_group()
    boundaries = None
    if group.rank() == 0:
        assert data_iterator is not None, "the data set is built on tensor-parallel rank 0"
        sample = next(data_iterator)
        bags = sample[BAGS].cuda(non_blocking=True)
        if has_boundaries:
            boundaries = sample[DOCUMENT_BOUNDARIES].cuda(non_blocking=True)
    else:
        device = torch.cuda.current_device()
        bags = torch.empty(shape, dtype=torch.int64, device=device)
        if has_boundaries:
            boundaries = torch.empty(shape[:2], dtype=torch.int32, device=device)
    if group.size() > 1:
        source = mpu.get_tensor_model_parallel_src_rank()
        torch.distributed.broadcast(bags, source, group=group)
        if boundaries is not None:
            torch.distributed.broadcast(boundaries, source, group=group)
    return bags, boundaries


def bag_batch(
    args: argparse.Namespace, bags: Tensor, predicts_bags: bool, documents: Documents | None = None
) -> Batch:
    """Inputs are bags 0 … L−1, targets bags 1 … L, or their first tokens alone.

    Args:
        args: Megatron's validated arguments.
        bags: ``[b, L + 1, s]``, int64. With ``documents`` `EMPTY` fills up the last bag of each;
            without, it is only where the text ended.
        predicts_bags: whether the target is the whole next bag.
        documents: if bags end with their documents: where these are.
    """
    inputs, targets = bags[:, :-1], bags[:, 1:]
    labels = targets if predicts_bags else targets[..., 0]
    filled = labels != EMPTY
    batch_size, seq_length, bag_size = inputs.shape
    positions = torch.arange(seq_length, device=bags.device)
    batch = Batch(
        # As in GPTDataset, a place without a token reads token 0; its loss is masked.
        tokens=inputs.clamp(min=0) if documents is None or bag_size == 1 else inputs.contiguous(),
        labels=labels.contiguous() if predicts_bags else labels.clamp(min=0),
        loss_mask=(filled.any(dim=-1) if predicts_bags else filled).float(),
        position_ids=positions.unsqueeze(0).expand(batch_size, -1),
    )
    if args.create_attention_mask_in_dataloader:
        is_later = positions.unsqueeze(0) > positions.unsqueeze(1)
        batch.attention_mask = is_later.expand(batch_size, 1, -1, -1)
    if documents is not None:
        _keep_documents_apart(args, batch, inputs, documents)
    return batch


def _keep_documents_apart(
    args: argparse.Namespace, batch: Batch, inputs: Tensor, documents: Documents
) -> None:
    """Masks and positions of bags as Megatron makes those of tokens, in place.

    What ``_get_ltor_masks_and_position_ids`` does after an end-of-document token, and
    ``GPTDataset`` at the boundaries of inter-document masking (both in
    megatron/core/datasets/gpt_dataset.py), for all bags at once and without waiting for the GPU.

    Args:
        batch: of bags, as if they were of one document.
        inputs: ``[b, L, s]``, int64.
    """
    assert batch.position_ids is not None, "a superposed batch has positions"
    positions, begins = batch.position_ids, torch.zeros_like(batch.position_ids, dtype=torch.bool)
    if documents.eod is not None:
        is_end = last_tokens(inputs) == documents.eod
        begins[:, 1:] = is_end[:, :-1]
        if args.eod_mask_loss:
            assert batch.loss_mask is not None, "a superposed batch has a loss mask"
            batch.loss_mask.masked_fill_(is_end, 0.0)
        if args.reset_attention_mask and batch.attention_mask is not None:
            document = begins.long().cumsum(dim=1)
            is_other = document.unsqueeze(1) != document.unsqueeze(2)
            batch.attention_mask = batch.attention_mask | is_other.unsqueeze(1)
    if documents.boundaries is not None:
        # The last column takes what is filled up with L.
        padded = torch.zeros_like(documents.boundaries, dtype=torch.bool)
        begins = padded.scatter_(1, documents.boundaries.long(), True)[:, :-1]
    if args.reset_position_ids or documents.boundaries is not None:
        batch.position_ids = positions - positions.where(begins, 0).cummax(dim=1).values


def _stock_batch(
    args: argparse.Namespace,
    data_iterator: Iterator[dict[str, Tensor]] | None,
    vp_stage: int | None,
    micro_batch_size: int,
    superposition: Superposition | None,
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
    if superposition is not None and batch["labels"] is not None:
        _predict_bags(batch, bag_size, superposition.bag_boundary)
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


def _predict_bags(batch: dict[str, Any], bag_size: int, bag_boundary: str) -> None:
    """Output superposition: labels ``[b, L]`` become the next s tokens ``[b, L, s]``, in place.

    With the boundary ``document`` those up to an end-of-document token.
    """
    labels, is_padding = batch["labels"], batch["loss_mask"] == 0
    if bag_boundary == "document":
        eod = int(get_tokenizer().eod)
        # After that token the mask may be Megatron's --eod-mask-loss; it stays as it is.
        is_padding[:, 1:] &= labels[:, :-1] != eod
        bags = look_ahead(labels.masked_fill(is_padding, EMPTY), bag_size)
        batch["labels"] = end_with_document(bags, eod)
        return
    batch["labels"] = look_ahead(labels.masked_fill(is_padding, EMPTY), bag_size)
    batch["loss_mask"] = (batch["labels"] != EMPTY).any(dim=-1).float()


def _flatten_packed(batch: dict[str, Any]) -> dict[str, Any]:
    """Megatron's packing of a micro-batch's samples into one, which does not know bags."""
    bags = {k: v for k, v in batch.items() if k in _IDS and v is not None and v.dim() == 3}
    if not bags or batch.get("cu_seqlens") is None:
        return flatten_batch_for_packed_sequences(batch)
    batch = flatten_batch_for_packed_sequences(batch | dict.fromkeys(bags))
    return batch | {name: ids.flatten(0, 1).unsqueeze(0) for name, ids in bags.items()}


_IDS = ("tokens", "labels")


def split_over_context(
    args: argparse.Namespace, batch: Batch, boundaries: Tensor | None = None
) -> Batch:
    """Keep this context-parallel rank's positions of a superposed batch (no collective).

    Args:
        args: Megatron's validated arguments.
        batch: of bags.
        boundaries: ``[b, L + 1]``, int32, with inter-document masking: the samples are packed.
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
