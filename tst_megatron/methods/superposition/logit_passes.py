"""The two passes over the logits of the multi-hot cross-entropy, each in three implementations.

The one idea: the logits are read once forward, and read and written once backward; all else of the
loss has a number or s a row. A pass knows the rows it is given and nothing of other ranks:
collectives stand between the two (`loss`).

- ``kernel``: Triton, one launch a pass (`loss_kernels`); a GPU's default.
- ``compiled``: torch's compiler, one launch over the logits and a few on ``[n, s]``.
- ``eager``: operation by operation, in blocks of rows that stay in the cache; a CPU's default.

In bfloat16 the first two move 6 bytes a logit: 2 forward, 4 backward.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tst_megatron.methods.superposition.settings import LOSS_IMPLEMENTATIONS

Implementation = Literal["kernel", "compiled", "eager"]

logger = logging.getLogger(__name__)

# Logits of a block, of which a pass makes one or two copies in float32. On a CPU 1 MiB, so that
# they stay in a core's cache from one operation to the next: measured best for 32,768 logits a row,
# with one thread and with two. On a GPU 32 MiB, about what its cache holds and what keeps it busy
# for as long as a launch takes (not measured).
_BLOCK_ON_CPU = 2**18
_BLOCK_ON_GPU = 2**23


class Numbers(NamedTuple):
    """All that the loss wants of rows of logits before their gradient; float32.

    Attributes:
        maximum: of every row of this shard, ``[n]``.
        sum_exp: Σ exp(z − maximum), ``[n]``.
        at_targets: the logits at the targets, ``[n, s]``; 0 where a target is elsewhere.
    """

    maximum: Tensor
    sum_exp: Tensor
    at_targets: Tensor


@dataclass(frozen=True)
class Passes:
    """Both passes over rows of logits ``[n, V/tp]``, contiguous, of any floating dtype.

    Targets ``[n, s]``, int64, are counted from the first id of this rank's shard; those outside of
    it, and `EMPTY`, are neither read nor written. All else is float32.

    Attributes:
        read: rows and targets → `Numbers`. The maximum of a row that is minus infinity throughout,
            as the padding of a vocabulary may be, is the least finite number, and its sum 0.
        write: rows, targets, maximum ``[n]``, sum ``[n]``, shares ``[n, s]`` and pull ``[n]``. Puts
            pull · (exp(z − maximum) / sum − Σ of the shares of the places that hold its id) in the
            place of every logit, in its dtype, rounded once.
    """

    read: Callable[[Tensor, Tensor], Numbers]
    write: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


def passes_of(implementation: Implementation | str | None, device: torch.device) -> Passes:
    """The passes in one implementation, or in the one that a device has by default.

    Raises:
        ValueError: there is no implementation of that name.
        RuntimeError: the one that is named cannot run on the device. No other takes its place.
    """
    if implementation is None:
        implementation = default_on(device)
    if implementation not in LOSS_IMPLEMENTATIONS:
        raise ValueError(
            f"implementation {implementation!r} is unknown: use one of "
            f"{', '.join(LOSS_IMPLEMENTATIONS)}"
        )
    if implementation == "kernel":
        return _kernel_on(device)
    return _COMPILED if implementation == "compiled" else _EAGER


@functools.cache
def default_on(device: torch.device) -> Implementation:
    """The kernel on a GPU, else what torch compiles, else eager; on another device eager.

    Both are tried on a few numbers: they need Triton, a C compiler and a driver that suit each
    other, and what is lacking shows in no other way. That it is not the kernel is said once.
    """
    if device.type != "cuda":
        return "eager"
    chosen: Implementation = "eager"
    lacking = []
    for implementation, run in (("kernel", _run_kernel), ("compiled", _run_compiled)):
        try:
            run(torch.zeros(2, 16, device=device))
        # Of every kind: a package, a compiler, a driver, an architecture.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            lacking.append(f"{implementation}: {type(error).__name__}: {reason}")
        else:
            chosen = cast(Implementation, implementation)
            break
    # The last rank is of the last pipeline stage, which alone has the loss.
    if lacking and (not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1):
        logger.warning(
            "The loss of bags is %s on %s, with more launches and more memory traffic than its "
            "kernel, which does not run here (%s).",
            chosen,
            device,
            "; ".join(lacking),
        )
    return chosen


def _run_kernel(rows: Tensor) -> None:
    targets, pull = rows.new_zeros(2, 1, dtype=torch.int64), rows.new_zeros(2)
    passes = _kernel_on(rows.device)
    maximum, sum_exp, at_targets = passes.read(rows, targets)
    passes.write(rows, targets, maximum, sum_exp, at_targets, pull)


def _run_compiled(rows: Tensor) -> None:
    # Not a pass: the compiler would take the sizes of the real one to change from call to call.
    _compiled(torch.exp)(rows)


def _kernel_on(device: torch.device) -> Passes:
    try:
        from tst_megatron.methods.superposition import loss_kernels
    except ImportError as error:
        raise RuntimeError(
            f"the loss's kernel needs triton, which cannot be imported here ({error}): use "
            "implementation='eager' (--tst-loss-implementation eager)"
        ) from error
    if not loss_kernels.can_run_on(device):
        raise RuntimeError(
            f"the loss's kernel needs a GPU, and the logits are on {device}: use "
            "implementation='eager' (--tst-loss-implementation eager)"
        )
    return Passes(loss_kernels.read, loss_kernels.write)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one compiled graph; what cannot be compiled raises as it is called."""
    compiled = torch.compile(function, fullgraph=True)
    # Switched off, torch gives the function back, or calls it, without a word.
    if compiled is function or torch._dynamo.config.disable:
        raise RuntimeError(
            "torch.compile is switched off (TORCHDYNAMO_DISABLE or TORCH_COMPILE_DISABLE), so the "
            "loss cannot be compiled: use implementation='eager' (--tst-loss-implementation eager)"
        )
    return compiled


def _read(
    max_and_sum_exp: Callable[[Tensor], tuple[Tensor, Tensor]], rows: Tensor, local_targets: Tensor
) -> Numbers:
    maximum, sum_exp = max_and_sum_exp(rows)
    # Minus infinity from minus infinity is NaN. Put right here, on [n], and not in between, where
    # it would be something else to torch's compiler than a softmax.
    sum_exp.masked_fill_(maximum == float("-inf"), 0.0)
    maximum.clamp_(min=torch.finfo(torch.float32).min)
    is_here = is_inside(local_targets, rows.shape[1])
    at_targets = rows.gather(-1, torch.where(is_here, local_targets, 0)).float()
    return Numbers(maximum, sum_exp, torch.where(is_here, at_targets, 0.0))


def _write(
    write_softmax: Callable[[Tensor, Tensor, Tensor], None],
    rows: Tensor,
    local_targets: Tensor,
    maximum: Tensor,
    sum_exp: Tensor,
    shares: Tensor,
    pull: Tensor,
) -> None:
    scale = pull / sum_exp
    # The targets' gradients are computed from their own logits, in float32, and then replace what
    # the softmax alone gives: one rounding, and no atomic addition.
    is_here = is_inside(local_targets, rows.shape[1])
    # What is elsewhere stands for id 0, which gets the gradient that it has in any case: to leave
    # it out, a GPU would have to tell which these are.
    ids = torch.where(is_here, local_targets, 0)
    at_targets = rows.gather(-1, ids).float().sub_(maximum.unsqueeze(-1)).exp_()
    pulled = _share_of_token(shares * is_here, ids).mul_(pull.unsqueeze(-1))
    gradient = at_targets.mul_(scale.unsqueeze(-1)).sub_(pulled)
    write_softmax(rows, maximum, scale)
    row_of_target = torch.arange(rows.shape[0], device=rows.device).unsqueeze(-1)
    # Not scatter_, which on a CPU copies all of the logits where they are bfloat16.
    rows[row_of_target, ids] = gradient.to(rows.dtype)


def is_inside(local_targets: Tensor, partition_vocab_size: int) -> Tensor:
    """Which targets are of the shard from whose first id they are counted: ``[n, s]``, bool."""
    return (local_targets >= 0) & (local_targets < partition_vocab_size)


def _share_of_token(shares: Tensor, tokens: Tensor) -> Tensor:
    """At every place the shares of its token at all places, summed: ``[n, s]``.

    Equal tokens get equal values, so that it does not matter which of them is written last.
    """
    same = tokens.unsqueeze(-1) == tokens.unsqueeze(-2)
    return torch.where(same, shares.unsqueeze(-2), 0.0).sum(dim=-1)


def _max_and_sum_exp(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``[n, V/tp]`` → ``[n]``, ``[n]``, float32; Σ is NaN where the maximum is infinite.

    Word for word what torch's compiler knows as the beginning of a softmax, of which it takes both
    numbers in one pass (torch/_inductor/fx_passes/post_grad.py, ``prepare_softmax_pattern``).
    """
    rows = rows.float()
    maximum = rows.amax(dim=-1, keepdim=True)
    sum_exp = (rows - maximum).exp_().sum(dim=-1, keepdim=True)
    return maximum.squeeze(-1), sum_exp.squeeze(-1)


def _write_softmax(rows: Tensor, maximum: Tensor, scale: Tensor) -> None:
    """Replace logits by exp(z − maximum) · scale: ``[n, V/tp]``, in place, ``[n]``, ``[n]``."""
    # float32 rows are their own working memory.
    values = rows.float().sub_(maximum.unsqueeze(-1)).exp_().mul_(scale.unsqueeze(-1))
    if rows.dtype != torch.float32:
        rows.copy_(values)


def _blocks_of(rows: Tensor) -> Iterator[slice]:
    # Of a GPU's block no more than a sixteenth of all, so that it is small beside the logits.
    size = _BLOCK_ON_CPU
    if rows.device.type != "cpu":
        size = min(_BLOCK_ON_GPU, max(size, rows.numel() // 16))
    block = max(1, size // rows.shape[1])
    return (slice(first, first + block) for first in range(0, rows.shape[0], block))


def _max_and_sum_exp_in_blocks(rows: Tensor) -> tuple[Tensor, Tensor]:
    maximum = rows.new_empty(rows.shape[0], dtype=torch.float32)
    sum_exp = torch.empty_like(maximum)
    for here in _blocks_of(rows):
        maximum[here], sum_exp[here] = _max_and_sum_exp(rows[here])
    return maximum, sum_exp


def _write_softmax_in_blocks(rows: Tensor, maximum: Tensor, scale: Tensor) -> None:
    for here in _blocks_of(rows):
        _write_softmax(rows[here], maximum[here], scale[here])


def _max_and_sum_exp_compiled(rows: Tensor) -> tuple[Tensor, Tensor]:
    return cast(tuple[Tensor, Tensor], _compiled(_max_and_sum_exp)(rows))


def _write_softmax_compiled(rows: Tensor, maximum: Tensor, scale: Tensor) -> None:
    _compiled(_write_softmax)(rows, maximum, scale)


_EAGER = Passes(
    functools.partial(_read, _max_and_sum_exp_in_blocks),
    functools.partial(_write, _write_softmax_in_blocks),
)
_COMPILED = Passes(
    functools.partial(_read, _max_and_sum_exp_compiled),
    functools.partial(_write, _write_softmax_compiled),
)
