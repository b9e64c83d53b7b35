"""The standard error of a held-out loss, from the spread of the loss over sequences.

The one idea: tokens of a sequence are alike, so it is the sequences that are independent. Three
more figures ride along in Megatron's own reduction of the evaluation's losses, the mean over
sequences of the sequence's loss and of its square, and how many there are in a micro-batch; they
are taken out again before anything is printed.
"""

import math

import torch
from megatron.core import mpu
from torch import Tensor

_MEAN = " of sequences"
_SQUARE = " of sequences, squared"
_COUNT = " of sequences, in a micro-batch"


def spread_of(name: str, losses: Tensor, loss_mask: Tensor) -> dict[str, Tensor]:
    """What a micro-batch adds to the spread.

    Under context parallelism a sequence is on several ranks: one all-reduce of ``[2, b]`` float32
    over that group.

    Args:
        name: of the loss.
        losses: ``[b, L/cp]``, float32.
        loss_mask: ``[b, L/cp]``, float32.

    Returns:
        Sums and counts ``[2]``, as Megatron's ``evaluate`` reduces them.
    """
    mask = loss_mask.view(loss_mask.shape[0], -1).float()
    sums = torch.stack([(losses.view_as(mask).float() * mask).sum(dim=1), mask.sum(dim=1)])
    if mpu.get_context_parallel_world_size() > 1:
        torch.distributed.all_reduce(sums, group=mpu.get_context_parallel_group())
    count = (sums[1] > 0).sum().float()
    # A sequence without a loss adds nothing to either sum.
    means = sums[0] / sums[1].clamp(min=1)
    return {
        name + _MEAN: torch.stack([means.sum(), count]),
        name + _SQUARE: torch.stack([means.square().sum(), count]),
        name + _COUNT: torch.stack([count, torch.ones_like(count)]),
    }


def take_stderrs(
    losses: dict[str, Tensor], num_microbatches: int, most: float = math.inf
) -> dict[str, float]:
    """Take the spread out of what Megatron's ``evaluate`` returned.

    Args:
        losses: by name, averaged over all samples; the spread's entries are removed.
        num_microbatches: that were evaluated, on all data-parallel ranks. One of packed sequences
            counts as one sequence: what is in it is of neighbouring text.
        most: sequences that the held-out text has; read again, they tell nothing new.

    Returns:
        Standard error of each loss, nats a token; none of a loss of fewer than two sequences.
    """
    stderrs = {}
    for name in [name.removesuffix(_MEAN) for name in losses if name.endswith(_MEAN)]:
        mean, square = float(losses.pop(name + _MEAN)), float(losses.pop(name + _SQUARE))
        num_sequences = float(losses.pop(name + _COUNT)) * num_microbatches
        num_sequences = min(num_sequences, most)
        if num_sequences > 1:
            stderrs[name] = math.sqrt(max(0.0, square - mean * mean) / (num_sequences - 1))
    return stderrs
