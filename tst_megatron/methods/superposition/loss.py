"""Multi-hot cross-entropy over a vocabulary that may be split across tensor-parallel ranks.

The one idea: all s targets of a position share one logsumexp, so a bag costs what one target costs.
Each pass reads the logits once, in blocks of rows: the forward pass takes two numbers a row from
them (the maximum and the sum of exponentials) and leaves them as they are; the backward pass
computes the exponentials again and puts the gradient in the logits' place. Megatron's
``VocabParallelCrossEntropy`` (megatron/core/tensor_parallel/cross_entropy.py) writes to them in
five passes, and copies logits that are not float32 first. The collectives are Megatron's.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.utils import VocabUtility
from torch import Tensor

from tst_megatron.methods.superposition.bags import EMPTY, weights_of_filled
from tst_megatron.methods.superposition.settings import OBJECTIVES

Objective = Literal["mce", "mce-alt"]

# Logits of a block, of which a pass makes one or two copies in float32. On a CPU 1 MiB, so that
# they stay in a core's cache from one operation to the next: measured best for 32,768 logits a row,
# with one thread and with two. On a GPU 32 MiB, about what its cache holds and what keeps it busy
# for as long as a launch takes (not measured).
_BLOCK_ON_CPU = 2**18
_BLOCK_ON_GPU = 2**23


def multi_hot_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    tp_group: dist.ProcessGroup | None = None,
    objective: Objective | str = "mce",
    compiled: bool = False,
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
    ``[L, b]`` of the exponentials; float32. As in Megatron's fused loss, ``compiled`` puts the two
    sums into one collective.

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
        compiled: compile both passes with ``torch.compile``, each to a kernel over all rows (what
            ``--cross-entropy-loss-fusion`` asks for).

    Returns:
        ``[L, b]``, float32.

    Raises:
        ValueError: the shapes do not fit together, the objective is unknown, or weights were given
            for ``mce-alt``.
        RuntimeError: ``compiled``, and torch cannot compile here. It never runs uncompiled.
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
    if weights is not None and weights.shape not in (targets.shape, targets.shape[-1:]):
        raise ValueError(
            f"weights {list(weights.shape)} do not fit targets {list(targets.shape)}: "
            f"give {list(targets.shape[-1:])} or {list(targets.shape)}"
        )
    if tp_group is None and parallel_state.model_parallel_is_initialized():
        tp_group = parallel_state.get_tensor_model_parallel_group()
    loss = _MultiHotCrossEntropy.apply(
        logits.contiguous(), targets, weights, tp_group, objective, compiled
    )
    return cast(Tensor, loss)


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
        compiled: bool,
    ) -> Tensor:
        split = tp_group is not None and tp_group.size() > 1
        local_max, sum_exp = _max_and_sum_exp(logits, compiled)
        logits_max = local_max
        if split:
            logits_max = local_max.clone()
            dist.all_reduce(logits_max, op=dist.ReduceOp.MAX, group=tp_group)
            # The exponentials were taken from this rank's own maximum.
            sum_exp *= (local_max - logits_max).exp_()

        local_targets, is_local = _targets_of_shard(targets, logits.shape[-1], tp_group)
        at_targets = logits.gather(-1, local_targets).float() - logits_max.unsqueeze(-1)
        target_logits = at_targets.masked_fill(~is_local, 0.0)
        if objective == "mce-alt":
            if split:
                target_logits, sum_exp = _sum_over_ranks(
                    [target_logits, sum_exp], tp_group, together=compiled
                )
            score, shares, total = _bag_log_probability(target_logits, targets)
        else:
            shares, total = _shares(weights, targets)
            # A logit of minus infinity without a weight would make the sum NaN.
            score = (target_logits.masked_fill_(shares == 0.0, 0.0) * shares).sum(dim=-1)
            if split:
                score, sum_exp = _sum_over_ranks([score, sum_exp], tp_group, together=compiled)

        ctx.compiled = compiled
        ctx.save_for_backward(
            logits, logits_max, sum_exp, local_targets, at_targets, shares * is_local, total
        )
        return (sum_exp.log() - score) * total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits, logits_max, sum_exp, local_targets, at_targets, shares, total = ctx.saved_tensors
        pull = grad_outputs[0] * total
        scale = pull / sum_exp
        # The targets' gradients are computed from their own logits, in float32, and then replace
        # what the softmax alone gives: one rounding, and no atomic addition.
        pulled = _share_of_token(shares, local_targets).mul_(pull.unsqueeze(-1))
        gradient_at_targets = at_targets.exp_().mul_(scale.unsqueeze(-1)).sub_(pulled)
        _write_softmax(logits, logits_max, scale, ctx.compiled)
        _write_at_targets(logits, local_targets, gradient_at_targets)
        return logits, None, None, None, None, None


def _rows_and_blocks(logits: Tensor, compiled: bool) -> tuple[Tensor, int]:
    """The logits as rows ``[L·b, V/tp]``, a view, and how many of them are a block."""
    rows = logits.view(-1, logits.shape[-1])
    if compiled:
        return rows, max(1, rows.shape[0])
    # Of a GPU's block no more than a sixteenth of all, so that it is small beside the logits.
    size = _BLOCK_ON_CPU
    if logits.device.type != "cpu":
        size = min(_BLOCK_ON_GPU, max(size, logits.numel() // 16))
    return rows, max(1, size // rows.shape[1])


def _max_and_sum_exp(logits: Tensor, compiled: bool) -> tuple[Tensor, Tensor]:
    """Of every row the maximum z_max and Σ exp(z − z_max): ``[L, b]`` each, float32."""
    rows, block = _rows_and_blocks(logits, compiled)
    function = _compiled(_max_and_sum_exp_of_rows) if compiled else _max_and_sum_exp_of_rows
    maxima = logits.new_empty(rows.shape[0], dtype=torch.float32)
    sums = torch.empty_like(maxima)
    for first in range(0, rows.shape[0], block):
        here = slice(first, first + block)
        maxima[here], sums[here] = function(rows[here])
    return maxima.view(logits.shape[:-1]), sums.view(logits.shape[:-1])


def _write_softmax(logits: Tensor, logits_max: Tensor, scale: Tensor, compiled: bool) -> None:
    """Replace the logits by exp(z − z_max) · scale, in place; max and scale ``[L, b]``, float32."""
    rows, block = _rows_and_blocks(logits, compiled)
    function = _compiled(_write_softmax_of_rows) if compiled else _write_softmax_of_rows
    logits_max, scale = logits_max.reshape(-1), scale.reshape(-1)
    for first in range(0, rows.shape[0], block):
        here = slice(first, first + block)
        function(rows[here], logits_max[here], scale[here])


def _write_at_targets(logits: Tensor, local_targets: Tensor, values: Tensor) -> None:
    """Put values ``[L, b, s]`` in the places of the targets ``[L, b, s]``, in the logits' dtype."""
    rows = logits.view(-1, logits.shape[-1])
    row_of_target = torch.arange(rows.shape[0], device=rows.device).unsqueeze(-1)
    # Not scatter_, which on a CPU copies all of the logits where they are bfloat16.
    rows[row_of_target, local_targets.flatten(0, -2)] = values.flatten(0, -2).to(rows.dtype)


def _max_and_sum_exp_of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``[n, V/tp]`` → ``[n]``, ``[n]``, float32."""
    rows = rows.float()
    # A shard may be all minus infinity where the vocabulary is padded: its share is then 0.
    maximum = rows.amax(dim=-1).clamp_(min=torch.finfo(torch.float32).min)
    return maximum, (rows - maximum.unsqueeze(-1)).exp_().sum(dim=-1)


def _write_softmax_of_rows(rows: Tensor, maximum: Tensor, scale: Tensor) -> None:
    """``[n, V/tp]``, in place; ``[n]``, ``[n]``, float32."""
    # float32 rows are their own working memory.
    values = rows.float().sub_(maximum.unsqueeze(-1)).exp_().mul_(scale.unsqueeze(-1))
    if rows.dtype != torch.float32:
        rows.copy_(values)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one compiled graph; what cannot be compiled raises as it is called."""
    compiled = torch.compile(function, fullgraph=True)
    # Switched off, torch gives the function back, or calls it, without a word.
    if compiled is function or torch._dynamo.config.disable:
        raise RuntimeError(
            "torch.compile is switched off (TORCHDYNAMO_DISABLE or TORCH_COMPILE_DISABLE), so the "
            "loss cannot be compiled: leave out compiled=True (--cross-entropy-loss-fusion)"
        )
    return compiled


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


def _shares(weights: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as shares of their sum ``[..., s]``, and the sum ``[...]``; float32."""
    if weights is None:
        weights = targets.new_full(targets.shape[-1:], 1.0 / targets.shape[-1], dtype=torch.float32)
    shares = weights_of_filled(weights.float(), targets)
    if weights.shape == targets.shape:
        return shares, weights.float().sum(dim=-1)
    return shares, (shares != 0.0).any(dim=-1).float()


def _share_of_token(shares: Tensor, tokens: Tensor) -> Tensor:
    """At every place the shares of its token at all places, summed: ``[..., s]``.

    Equal tokens get equal values, so that it does not matter which of them is written last.
    """
    same = tokens.unsqueeze(-1) == tokens.unsqueeze(-2)
    return torch.where(same, shares.unsqueeze(-2), 0.0).sum(dim=-1)


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
