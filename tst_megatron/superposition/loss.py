"""Multi-hot cross-entropy over a vocabulary that may be split across tensor-parallel ranks.

The one idea: all s targets of a position share one logsumexp, so a bag costs what one target costs.
The passes over the vocabulary, their order, their place (the logits' own memory) and the three
collectives are those of Megatron's ``VocabParallelCrossEntropy``
(megatron/core/tensor_parallel/cross_entropy.py); for s = 1 the values are too, bit for bit.
"""

from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.utils import VocabUtility
from torch import Tensor

from tst_megatron.superposition.bags import EMPTY, weights_of_filled

Objective = Literal["mce", "mce-alt"]
OBJECTIVES: tuple[str, ...] = ("mce", "mce-alt")


def multi_hot_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    tp_group: dist.ProcessGroup | None = None,
    objective: Objective | str = "mce",
) -> Tensor:
    """Cross-entropy of every position against a bag of targets (arXiv 2605.06546, Section 3).

    ``mce``: Σ_j w_j · (logsumexp(z) − z[y_j]), that is logsumexp(z) − Σ_j w_j · z[y_j] where the
    weights sum to 1. A token that stands twice in a bag counts twice; the constant log s is left
    out. ``mce-alt``: −log Σ_{y in bag} P(y), each token once.

    Like Megatron's own loss this works in place: float32 logits are overwritten by the forward
    pass, and the memory is the gradient's after the backward pass. Logits of another dtype are
    copied to float32 first.

    Collectives over ``tp_group``, as in Megatron's loss: max ``[L, b]``, sum ``[L, b]`` of the
    targets' logits (``[L, b, s]`` for ``mce-alt``, whose sum of exponentials would underflow), sum
    ``[L, b]`` of the exponentials; float32.

    Args:
        logits: ``[L, b, V/tp]``, any floating dtype; this rank's shard of the vocabulary.
        targets: ``[L, b, s]`` or ``[L, b]`` (one target), int64; ids of the whole vocabulary, or
            `EMPTY`, which must have a weight of zero where weights are given.
        weights: ``[s]`` or ``[L, b, s]``, float32, used as given; a weight of zero takes its target
            out. Default: equal over the targets that are not `EMPTY`. Not for ``mce-alt``.
        tp_group: the tensor-parallel group. Default: Megatron's, or none where model parallelism
            was never initialised.
        objective: ``mce`` or ``mce-alt``.

    Returns:
        ``[L, b]``, float32.

    Raises:
        ValueError: the shapes do not fit together, the objective is unknown, or weights were given
            for ``mce-alt``.
    """
    if targets.dim() == logits.dim() - 1:
        targets = targets.unsqueeze(-1)
    if targets.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"targets {list(targets.shape)} do not fit logits {list(logits.shape)}: "
            "all but the last dimension must be equal"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown: use one of {', '.join(OBJECTIVES)}")
    if objective == "mce-alt" and weights is not None:
        raise ValueError("objective 'mce-alt' takes no weights: leave them out or use 'mce'")
    if weights is None:
        uniform = targets.new_full((), 1.0 / targets.shape[-1], dtype=torch.float32)
        weights = weights_of_filled(uniform, targets)
    elif weights.shape not in (targets.shape, targets.shape[-1:]):
        raise ValueError(
            f"weights {list(weights.shape)} do not fit targets {list(targets.shape)}: "
            f"give {list(targets.shape[-1:])} or {list(targets.shape)}"
        )
    if tp_group is None and parallel_state.model_parallel_is_initialized():
        tp_group = parallel_state.get_tensor_model_parallel_group()
    loss = _MultiHotCrossEntropy.apply(
        logits, targets, weights.float().expand(targets.shape), tp_group, objective == "mce-alt"
    )
    return cast(Tensor, loss)


class _MultiHotCrossEntropy(torch.autograd.Function):
    """One softmax, one weighted subtraction at the targets; see `multi_hot_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor,
        tp_group: dist.ProcessGroup | None,
        bag_probability: bool,
    ) -> Tensor:
        split = tp_group is not None and tp_group.size() > 1
        logits = logits.float()
        logits_max = logits.max(dim=-1)[0]
        if split:
            dist.all_reduce(logits_max, op=dist.ReduceOp.MAX, group=tp_group)
        logits -= logits_max.unsqueeze(-1)

        local_targets, is_local = _targets_of_shard(targets, logits.shape[-1], tp_group)
        target_logits = logits.gather(-1, local_targets).masked_fill_(~is_local, 0.0)
        if bag_probability:
            if split:
                dist.all_reduce(target_logits, group=tp_group)
            score, shares, total = _bag_log_probability(target_logits, targets)
        else:
            shares, total = _merged_shares(weights, targets)
            # A logit of minus infinity without a weight would make the sum NaN.
            score = (target_logits.masked_fill_(shares == 0.0, 0.0) * shares).sum(dim=-1)
            if split:
                dist.all_reduce(score, group=tp_group)

        exp_logits = logits.exp_()
        sum_exp_logits = exp_logits.sum(dim=-1)
        if split:
            dist.all_reduce(sum_exp_logits, group=tp_group)
        loss = (sum_exp_logits.log() - score) * total

        softmax = exp_logits.div_(sum_exp_logits.unsqueeze(-1))
        ctx.save_for_backward(softmax, local_targets, shares * is_local, total)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        softmax, local_targets, shares, total = ctx.saved_tensors
        gradient = softmax.scatter_add_(-1, local_targets, -shares)
        gradient.mul_((grad_outputs[0] * total).unsqueeze(-1))
        return gradient, None, None, None, None


def _targets_of_shard(
    targets: Tensor, partition_vocab_size: int, tp_group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Ids inside this rank's shard (0 for those outside it, and for `EMPTY`), and which are."""
    rank, size = (0, 1) if tp_group is None else (tp_group.rank(), tp_group.size())
    start, end = VocabUtility.vocab_range_from_per_partition_vocab_size(
        partition_vocab_size, rank, size
    )
    is_local = (targets >= start) & (targets < end)
    return (targets - start).masked_fill_(~is_local, 0), is_local


def _is_first_of_its_token(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Which places hold the same token ``[..., s, s]``, and which are its first ``[..., s]``."""
    same = targets.unsqueeze(-1) == targets.unsqueeze(-2)
    return same, ~same.tril(diagonal=-1).any(dim=-1)


def _merged_shares(weights: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as shares of their sum, a repeated token's at its first place; and the sum.

    With at most one share a token, the backward scatter adds to an address at most once, so its
    result does not depend on the order in which a GPU adds.

    Returns:
        ``[..., s]`` and ``[...]``, float32.
    """
    total = weights.sum(dim=-1)
    shares = weights / total.masked_fill(total == 0.0, 1.0).unsqueeze(-1)
    if targets.shape[-1] == 1:
        return shares, total
    same, is_first = _is_first_of_its_token(targets)
    merged = torch.matmul(same.to(shares.dtype), shares.unsqueeze(-1)).squeeze(-1)
    return merged * is_first, total


def _bag_log_probability(target_logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Σ exp(z_y) over a bag's distinct tokens, their shares in it, and 1 if there are any.

    Returns:
        ``[...]``, ``[..., s]``, ``[...]``, float32.
    """
    counted = _is_first_of_its_token(targets)[1] & (targets != EMPTY)
    has_any = counted.any(dim=-1)
    distinct = target_logits.masked_fill(~counted, float("-inf"))
    score = distinct.logsumexp(dim=-1).masked_fill(~has_any, 0.0)
    # Not exp(distinct - score): the rounding of a score far from 0 would show in every share.
    shares = distinct.softmax(dim=-1).masked_fill(~has_any.unsqueeze(-1), 0.0)
    return score, shares, has_any.to(target_logits.dtype)
