"""Multi-hot cross-entropy over a vocabulary that may be split across tensor-parallel ranks.

The one idea: all s targets of a position share one logsumexp, so a bag costs what one target costs.
Each pass reads the logits once (`logit_passes`): the forward pass takes two numbers a row from them
(the maximum and the sum of exponentials) and leaves them as they are; the backward pass computes
the exponentials again and puts the gradient in the logits' place. Megatron's
``VocabParallelCrossEntropy`` (megatron/core/tensor_parallel/cross_entropy.py) writes to them in
five passes, and copies logits that are not float32 first. The collectives are Megatron's.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.utils import VocabUtility
from torch import Tensor

from tst_megatron.methods.superposition.bags import EMPTY, weights_of_filled
from tst_megatron.methods.superposition.logit_passes import (
    Implementation,
    Numbers,
    Passes,
    is_inside,
    passes_of,
)
from tst_megatron.methods.superposition.settings import OBJECTIVES

Objective = Literal["mce", "mce-alt"]


def multi_hot_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    tp_group: dist.ProcessGroup | None = None,
    objective: Objective | str = "mce",
    implementation: Implementation | str | None = None,
    fused_all_reduce: bool = False,
) -> Tensor:
    """Cross-entropy of every position against a bag of targets (arXiv 2605.06546, Section 3).

    ``mce``: Σ_j w_j · (logsumexp(z) − z[y_j]), that is logsumexp(z) − Σ_j w_j · z[y_j] where the
    weights sum to 1. A token that stands twice in a bag counts twice; the constant log s is left
    out. ``mce-alt``: −log Σ_{y in bag} P(y), each token once.

    The forward pass does not write to the logits. After the backward pass their memory holds the
    gradient, in their dtype, rounded once; so nothing of their size is allocated, in float32 or
    bfloat16. A second backward pass through the same loss, or through anything else that saved the
    logits for it, raises autograd's error. Logits that are not contiguous are copied first.

    Collectives over ``tp_group``, as in Megatron's loss: max ``[L, b]``, sum ``[L, b]`` of the
    targets' logits (``[L, b, s]`` for ``mce-alt``, whose sum of exponentials would underflow), sum
    ``[L, b]`` of the exponentials; float32. ``fused_all_reduce`` puts the two sums into one, as
    Megatron's fused loss does. They do not depend on the implementation, which ranks may differ in.

    Args:
        logits: ``[L, b, V/tp]``, any floating dtype; this rank's shard of the vocabulary.
        targets: ``[L, b, s]`` or ``[L, b]`` (one target), int64; ids of the whole vocabulary, or
            `EMPTY`.
        weights: ``[s]``, float32: shares of a bag, those of `EMPTY` places given to the filled
            ones. Or ``[L, b, s]``, float32, used as given, and zero at `EMPTY`. A weight of zero
            takes its target out. Default: equal shares. Not for ``mce-alt``.
        tp_group: the tensor-parallel group. Default: Megatron's, or none where model parallelism
            was never initialised.
        objective: ``mce`` or ``mce-alt``.
        implementation: of both passes over the logits: ``kernel`` (Triton), ``compiled``
            (``torch.compile``) or ``eager``. Default: on a GPU the first of them that runs, on a
            CPU eager (`logit_passes.default_on`).
        fused_all_reduce: one collective for both sums (what ``--cross-entropy-loss-fusion`` asks
            for).

    Returns:
        ``[L, b]``, float32.

    Raises:
        ValueError: the shapes do not fit together, the objective or the implementation is unknown,
            or weights were given for ``mce-alt``.
        RuntimeError: the implementation that is named cannot run here. No other takes its place.
    """
    targets = checked_targets(targets, "logits", logits.shape, weights, objective)
    if tp_group is None:
        tp_group = tensor_parallel_group()
    loss = _MultiHotCrossEntropy.apply(
        logits.contiguous(),
        targets,
        weights,
        tp_group,
        objective,
        passes_of(implementation, logits.device),
        fused_all_reduce,
    )
    return cast(Tensor, loss)


def checked_targets(
    targets: Tensor, of: str, shape: Sequence[int], weights: Tensor | None, objective: str
) -> Tensor:
    """Targets as ``[L, b, s]``; raises as `multi_hot_cross_entropy` says.

    Args:
        targets: ``[L, b, s]`` or ``[L, b]``.
        of: what they are the targets of, in words.
        shape: of that, ``[L, b, ...]``.
        weights, objective: as of `multi_hot_cross_entropy`.
    """
    if targets.dim() == len(shape) - 1:
        targets = targets.unsqueeze(-1)
    if targets.shape[:-1] != tuple(shape[:-1]):
        raise ValueError(
            f"targets {list(targets.shape)} do not fit {of} {list(shape)}: "
            "all but the last dimension must be equal"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown: use one of {', '.join(OBJECTIVES)}")
    if objective == "mce-alt" and weights is not None:
        raise ValueError("objective 'mce-alt' takes no weights: leave them out or use 'mce'")
    if weights is not None and weights.shape not in (targets.shape, targets.shape[-1:]):
        raise ValueError(
            f"weights {list(weights.shape)} do not fit targets {list(targets.shape)}: "
            f"give {list(targets.shape[-1:])} or {list(targets.shape)}"
        )
    return targets


def tensor_parallel_group() -> dist.ProcessGroup | None:
    """Megatron's, or none where model parallelism was never initialised."""
    if not parallel_state.model_parallel_is_initialized():
        return None
    return parallel_state.get_tensor_model_parallel_group()


class _MultiHotCrossEntropy(torch.autograd.Function):
    """One logsumexp, one weighted subtraction at the targets; see `multi_hot_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        tp_group: dist.ProcessGroup | None,
        objective: str,
        passes: Passes,
        fused_all_reduce: bool,
    ) -> Tensor:
        rows = logits.view(-1, logits.shape[-1])
        targets = targets.reshape(-1, targets.shape[-1])
        if weights is not None and weights.dim() > 1:
            weights = weights.reshape(targets.shape)
        local_targets = targets_in_shard(targets, rows.shape[1], tp_group)
        scored = score(
            passes.read(rows, local_targets),
            targets,
            weights,
            rows.shape[1],
            tp_group,
            objective,
            fused_all_reduce,
        )
        ctx.passes = passes
        ctx.save_for_backward(
            logits, local_targets, scored.maximum, scored.sum_exp, scored.shares, scored.total
        )
        return scored.loss.view(logits.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits, local_targets, maximum, sum_exp, shares, total = ctx.saved_tensors
        ctx.passes.write(
            logits.view(-1, logits.shape[-1]),
            local_targets,
            maximum,
            sum_exp,
            shares,
            grad_outputs[0].reshape(-1) * total,
        )
        return logits, None, None, None, None, None, None


def targets_in_shard(
    targets: Tensor, partition_vocab_size: int, tp_group: dist.ProcessGroup | None
) -> Tensor:
    """Ids counted from the first of this rank's shard, those outside of it too; same shape."""
    if not _is_split(tp_group):
        return targets
    assert tp_group is not None
    first, _ = VocabUtility.vocab_range_from_per_partition_vocab_size(
        partition_vocab_size, tp_group.rank(), tp_group.size()
    )
    return targets - first


class Scored(NamedTuple):
    """The loss of n positions, and what their gradient is made of beside the logits; float32.

    Attributes:
        loss: total · (log(sum_exp) − Σ shares · (z[y] − maximum)), ``[n]``.
        maximum: of a row of all ranks, ``[n]``.
        sum_exp: Σ exp(z − maximum) of all ranks, ``[n]``.
        shares: of the targets, ``[n, s]``.
        total: of their weights, ``[n]``; times the gradient that comes back, the pull of
            `Passes.write`.
    """

    loss: Tensor
    maximum: Tensor
    sum_exp: Tensor
    shares: Tensor
    total: Tensor


def score(
    numbers: Numbers,
    targets: Tensor,
    weights: Tensor | None,
    partition_vocab_size: int,
    tp_group: dist.ProcessGroup | None,
    objective: str,
    fused_all_reduce: bool,
) -> Scored:
    """What stands between the two passes: the collectives, and all that is about bags.

    Args:
        numbers: of this rank's shard; their memory is written to.
        targets: ``[n, s]``, int64, ids of the whole vocabulary or `EMPTY`.
        weights: ``[s]``, ``[n, s]`` or none.
        partition_vocab_size: V/tp.
        tp_group, objective, fused_all_reduce: as in `multi_hot_cross_entropy`.
    """
    maximum, sum_exp, at_targets = numbers
    split = _is_split(tp_group)
    if split:
        maximum = numbers.maximum.clone()
        dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=tp_group)
        # The exponentials were taken from this rank's own maximum.
        sum_exp *= (numbers.maximum - maximum).exp_()
    at_targets -= maximum.unsqueeze(-1)
    if split:
        local_targets = targets_in_shard(targets, partition_vocab_size, tp_group)
        at_targets.masked_fill_(~is_inside(local_targets, partition_vocab_size), 0.0)

    if objective == "mce-alt":
        if split:
            at_targets, sum_exp = _sum_over_ranks([at_targets, sum_exp], tp_group, fused_all_reduce)
        of_bag, shares, total = _bag_log_probability(at_targets, targets)
    else:
        shares, total = _shares(weights, targets)
        # A logit of minus infinity without a weight would make the sum NaN.
        of_bag = (at_targets.masked_fill_(shares == 0.0, 0.0) * shares).sum(dim=-1)
        if split:
            of_bag, sum_exp = _sum_over_ranks([of_bag, sum_exp], tp_group, fused_all_reduce)
    return Scored((sum_exp.log() - of_bag) * total, maximum, sum_exp, shares, total)


def _is_split(tp_group: dist.ProcessGroup | None) -> bool:
    return tp_group is not None and tp_group.size() > 1


def _sum_over_ranks(
    tensors: list[Tensor], tp_group: dist.ProcessGroup | None, together: bool
) -> list[Tensor]:
    """Sums over the group, by a collective a tensor or by one for all, which Megatron fuses."""
    if not together:
        for tensor in tensors:
            dist.all_reduce(tensor, group=tp_group)
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat, group=tp_group)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def _shares(weights: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as shares of their sum ``[..., s]``, and the sum ``[...]``; float32."""
    if weights is None:
        weights = targets.new_full(targets.shape[-1:], 1.0 / targets.shape[-1], dtype=torch.float32)
    shares = weights_of_filled(weights.float(), targets)
    if weights.shape == targets.shape:
        return shares, weights.float().sum(dim=-1)
    return shares, shares.any(dim=-1).float()


def _bag_log_probability(target_logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Σ exp(z_y) over a bag's distinct tokens, their shares in it, and 1 if there are any.

    Returns:
        ``[...]``, ``[..., s]``, ``[...]``, float32.
    """
    same = targets.unsqueeze(-1) == targets.unsqueeze(-2)
    is_repeated = same.tril(diagonal=-1).any(dim=-1)
    counted = ~is_repeated & (targets != EMPTY)
    has_any = counted.any(dim=-1)
    distinct = target_logits.masked_fill(~counted, float("-inf"))
    score = distinct.logsumexp(dim=-1).masked_fill(~has_any, 0.0)
    # Not exp(distinct - score): the rounding of a score far from 0 would show in every share.
    shares = distinct.softmax(dim=-1).masked_fill(~has_any.unsqueeze(-1), 0.0)
    return score, shares, has_any.to(target_logits.dtype)
