"""Multi-token prediction of bags: the k-th head's target is the bag k further on.

The one idea: for every head Megatron moves inputs, labels and loss mask one position on, along
their last dimension (megatron/core/transformer/multi_token_prediction.py). The positions of bags
``[b, L, s]`` are in the last but one, and nothing else about the heads differs.

Megatron has no seam there: two functions of that module are wrapped, by the names it looks up when
it calls them. A test fails when one is gone, takes other arguments or is called otherwise.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer import multi_token_prediction as megatron_mtp
from torch import Tensor

from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.output_layer import LogitsInChunks
from tst_megatron.wrapped import check_takes

WRAPPED = {
    "roll_tensor": ("tensor", "shifts", "dims", "cp_group", "packed_seq_params"),
    "_compute_mtp_acceptance_counts": (
        *("mtp_logits", "mtp_labels", "loss_mask"),
        *("output_layer", "runtime_gather_output", "tp_group"),
    ),
}
"""The functions that are wrapped, and their first arguments; more are handed on (from 0.20 rolling
has ``return_sum``)."""

_ORIGINALS = {name: getattr(megatron_mtp, name) for name in WRAPPED}


def let_heads_predict_bags() -> None:
    """Wrap Megatron's functions for the whole process; later calls change nothing.

    Tensors of two dimensions go through unchanged, so that stock models in the same process are
    what they were. Three-dimensional ones are taken for bags; the only others in Megatron, the
    position ids ``[3, b, L]`` of ``mrope``, are read by no head.

    Raises:
        RuntimeError: this version of Megatron has other functions.
    """
    for name, needed in WRAPPED.items():
        check_takes(f"{megatron_mtp.__name__}.{name}", _ORIGINALS[name], needed)
    megatron_mtp.roll_tensor = _roll_positions
    megatron_mtp._compute_mtp_acceptance_counts = _acceptance_counts


def _roll_positions(
    tensor: Tensor | None,
    shifts: int = -1,
    dims: int = -1,
    cp_group: dist.ProcessGroup | None = None,
    packed_seq_params: Any = None,
    *rest: Any,
    **options: Any,
) -> Any:
    """Megatron's, along the positions.

    The last position, of the sample or of every packed document, becomes 0, in every place of a
    bag; the loss mask has moved with it.

    Args:
        tensor: ``[b, L/cp]``, or bags ``[b, L/cp, s]``.
        shifts, dims, cp_group, packed_seq_params, rest, options: as in Megatron.

    Returns:
        The moved tensor and its sum.
    """
    roll = _ORIGINALS["roll_tensor"]
    if tensor is None or tensor.dim() != 3 or dims != -1:
        return roll(tensor, shifts, dims, cp_group, packed_seq_params, *rest, **options)
    if packed_seq_params is None:
        return roll(tensor, shifts, -2, cp_group, None, *rest, **options)
    # Megatron moves packed documents along the last dimension alone.
    transposed = tensor.transpose(1, 2)
    moved, total = roll(transposed, shifts, -1, cp_group, packed_seq_params, *rest, **options)
    return moved.transpose(1, 2).contiguous(), total


def _acceptance_counts(
    mtp_logits: Tensor | LogitsInChunks,
    mtp_labels: Tensor,
    loss_mask: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Megatron's; a prediction of a bag is right when the likeliest token is one of the bag's.

    Args:
        mtp_logits: ``[L, b, V/tp]``; the loss may have put the probabilities in their place. In
            chunks they are made once more, since a loss keeps no prediction.
        mtp_labels: ``[b, L]`` or ``[b, L, s]``, int64.
        loss_mask: ``[b, L]``.
        args, kwargs: as in Megatron.

    Returns:
        The number of right predictions and of all, float32.
    """
    if isinstance(mtp_logits, LogitsInChunks):
        return _acceptance_counts_of_chunks(mtp_logits, mtp_labels, loss_mask, *args, **kwargs)
    if mtp_labels.dim() == 3:
        # Each token of a bag once, so that a position counts once; nobody predicts EMPTY.
        bags = mtp_labels.sort(dim=-1).values
        bags[..., 1:].masked_fill_(bags[..., 1:] == bags[..., :-1], EMPTY)
        # Megatron swaps the first two dimensions and compares with [L, b]: [s, L, b] broadcasts.
        mtp_labels = bags.permute(1, 2, 0)
    return _ORIGINALS["_compute_mtp_acceptance_counts"](
        mtp_logits, mtp_labels, loss_mask, *args, **kwargs
    )


def _acceptance_counts_of_chunks(
    mtp_logits: LogitsInChunks, mtp_labels: Tensor, loss_mask: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The sums over chunks, each as a batch of one sample: ``[chunk_size, 1, V/tp]``."""
    labels, mask = mtp_labels.transpose(0, 1).flatten(0, 1), loss_mask.transpose(0, 1).flatten()
    counts = mtp_logits.by_blocks(
        lambda here, logits: _acceptance_counts(
            logits.unsqueeze(1), labels[here].unsqueeze(0), mask[here].unsqueeze(0), *args, **kwargs
        )
    )
    correct, total = zip(*counts, strict=True)
    return torch.stack(correct).sum(), torch.stack(total).sum()
