"""From the data iterator to a micro-batch of bags.

A superposed sample travels as bags ``[b, L + 1, s]``, once, and with inter-document masking the
documents' ends beside it; targets, masks and positions are formed on every rank of the
tensor-parallel group. What is done before and after is the ordinary batch's
(`tst_megatron.stock.batch`).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core import mpu
from megatron.training import get_tokenizer
from torch import Tensor

from tst_megatron.methods.method import MicroBatch
from tst_megatron.methods.superposition.bags import (
    EMPTY,
    end_with_document,
    last_tokens,
    look_ahead,
)
from tst_megatron.methods.superposition.phased_dataset import BAGS
from tst_megatron.methods.superposition.settings import Superposition
from tst_megatron.stock.batch import (
    DOCUMENT_BOUNDARIES,
    Batch,
    has_packed_documents,
    ordinary_batch,
    reads_data,
    split_over_context,
)


def get_bags(wanted: MicroBatch, superposition: Superposition, bag_size: int) -> Batch:
    """One micro-batch of a superposed stage for this rank.

    Args:
        wanted: which.
        superposition: how the run superposes.
        bag_size: s of this micro-batch. Every rank knows it from the count of consumed samples.
    """
    args, data_iterator, vp_stage = wanted.args, wanted.data_iterator, wanted.vp_stage
    if not superposition.reads_bags:
        predict = partial(predict_bags, bag_size=bag_size, bag_boundary=superposition.bag_boundary)
        return ordinary_batch(args, data_iterator, vp_stage, wanted.micro_batch_size, predict)
    if not reads_data(args, vp_stage):
        return Batch()
    shape = (wanted.micro_batch_size, args.seq_length + 1, bag_size)
    sample = _broadcast_sample(data_iterator, shape, has_packed_documents(args))
    documents = None
    if superposition.bag_boundary == "document":
        documents = Documents(_eod_if_needed(args), sample.boundaries)
    batch = bag_batch(args, sample.bags, superposition.predicts_bags, documents)
    boundaries = (
        sample.boundaries if sample.boundaries_on_host is None else sample.boundaries_on_host
    )
    return split_over_context(args, batch, boundaries)


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


@dataclass
class BagSample:
    """A sample as it travels.

    Attributes:
        bags: ``[b, L + 1, s]``, int64.
        boundaries: ``[b, L + 1]``, int32, of documents, with inter-document masking.
        boundaries_on_host: the same where this rank read them: the GPU need not be waited for.
    """

    bags: Tensor
    boundaries: Tensor | None = None
    boundaries_on_host: Tensor | None = None


def _broadcast_sample(
    data_iterator: Iterator[dict[str, Tensor]] | None,
    shape: tuple[int, int, int],
    has_boundaries: bool,
) -> BagSample:
    """Bags ``[b, L + 1, s]`` on every rank of the tensor-parallel group: one broadcast, int64.

    With inter-document masking another, int32: the documents' boundaries ``[b, L + 1]``.
    """
    group = mpu.get_tensor_model_parallel_group()
    boundaries = on_host = None
    if group.rank() == 0:
        assert data_iterator is not None, "the data set is built on tensor-parallel rank 0"
        sample = next(data_iterator)
        bags = sample[BAGS].cuda(non_blocking=True)
        if has_boundaries:
            on_host = sample[DOCUMENT_BOUNDARIES]
            boundaries = on_host.cuda(non_blocking=True)
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
    return BagSample(bags, boundaries, on_host)


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


def predict_bags(batch: dict[str, Any], bag_size: int, bag_boundary: str) -> None:
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
