"""The multi-hot cross-entropy of bags of 16 against Megatron's of one target, and the paper's loop.

The paper's published code calls a stock cross-entropy for each of the s targets and averages. On a
GPU it is also measured against Megatron's fused loss and against what its bytes alone take.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

from benchmarks.measure import CUDA, Bench, Prepare, Row, Work, memory_row, time_row
from tst_megatron.methods.superposition.chunked_logits import chunked_multi_hot_cross_entropy
from tst_megatron.superposition import multi_hot_cross_entropy

BAG_SIZE = 16
# A dtype's logits are read forward, and read and written backward: half as much again as a copy.
_COPIES = 1.5
# Kernel and compiled loss move the same bytes: which is ahead by a few in a hundred is noise.
_AS_FAST = 1.05


def rows(bench: Bench) -> Iterator[Row]:
    """Time and peak memory of forward and backward, for float32 and bfloat16 logits."""
    positions, vocabulary = bench.sized((2048, 32768), (8192, 131072), (64, 512))
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(positions, 1, vocabulary, device=bench.device).to(dtype)
        what = (
            f"MCE forward + backward, s = {BAG_SIZE}, [{positions}, 1, {vocabulary}] "
            f"{name_of(dtype)}"
        )
        bench.say(what)
        yield from _rows_of(bench, what, values)
    if bench.device == CUDA or bench.quick:
        yield from _rows_of_chunks(bench)


def _rows_of(bench: Bench, what: str, values: Tensor) -> Iterator[Row]:
    group = parallel_state.get_tensor_model_parallel_group()
    targets = torch.randint(
        0, values.shape[-1], (*values.shape[:-1], BAG_SIZE), device=values.device
    )
    first = targets[..., 0].contiguous()

    def ours(logits: Tensor) -> Tensor:
        return multi_hot_cross_entropy(logits, targets, tp_group=group)

    def papers(logits: Tensor) -> Tensor:
        return published_loop(logits, targets)

    # They are the same loss before one is said to be faster; its copies would not fit a GPU whole.
    few = targets[:64]
    torch.testing.assert_close(
        multi_hot_cross_entropy(values[:64].clone(), few, tp_group=group),
        published_loop(values[:64], few),
        rtol=1e-4,
        atol=1e-4,
    )
    side, device = forward_and_backward(ours, values), bench.device
    turns = bench.sized(15, 15, 2)
    stock = "Megatron's vocab_parallel_cross_entropy, one target"
    megatrons = forward_and_backward(
        lambda logits: vocab_parallel_cross_entropy(logits, first, tp_group=group), values
    )
    yield time_row(what, stock, side, megatrons, turns, at_most=1.0, device=device)
    yield memory_row(what, stock, side, megatrons, at_most=1.02, device=device)
    if device == CUDA:
        yield from _rows_on_gpu(what, side, values, targets, group)
    else:
        bench.say(f"{what}: the paper's loop")
        loop = f"the paper's loop of {BAG_SIZE} cross-entropies"
        theirs = forward_and_backward(papers, values)
        yield time_row(what, loop, side, theirs, bench.sized(4, 4, 2), at_most=0.05)


def _rows_on_gpu(
    what: str, side: Prepare, values: Tensor, targets: Tensor, group: Any
) -> Iterator[Row]:
    """What a GPU has beside: Megatron's fused loss, and the bytes that nothing does without."""
    from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy

    def other(implementation: str) -> Callable[[Tensor], Tensor]:
        return partial(
            multi_hot_cross_entropy,
            targets=targets,
            tp_group=group,
            implementation=implementation,
        )

    first = targets[..., 0].contiguous()
    fused = forward_and_backward(
        lambda logits: fused_vocab_parallel_cross_entropy(logits, first, group), values
    )
    against = "Megatron's fused loss, one target"
    yield time_row(what, against, side, fused, turns=15, at_most=1.0, device=CUDA)
    yield memory_row(what, against, side, fused, at_most=1.02, device=CUDA)
    source = torch.empty(int(_COPIES * values.numel()), dtype=values.dtype, device=CUDA)
    target = torch.empty_like(source)

    def copying() -> Work:
        return lambda: target.copy_(source)

    for implementation, at_most in (("compiled", _AS_FAST), ("eager", 1.0)):
        theirs = forward_and_backward(other(implementation), values)
        against = f"the same loss, {implementation}"
        yield time_row(what, against, side, theirs, turns=15, at_most=at_most, device=CUDA)
    against = "a copy that reads and writes as many bytes as logits have to be"
    yield time_row(what, against, side, copying, turns=15, at_most=1.3, device=CUDA)


def _rows_of_chunks(bench: Bench) -> Iterator[Row]:
    """The head and its loss with logits in chunks, against whole logits: four products to three."""
    positions, width, vocabulary, chunk_size = bench.sized(
        (2048, 1024, 32768, 256), (8192, 2048, 151936, 1024), (64, 32, 512, 8)
    )
    dtype, device = torch.bfloat16, bench.device
    hidden = torch.randn(positions, 1, width, device=device).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, device=device).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (positions, 1, BAG_SIZE), device=device)
    grad_output = torch.full((positions, 1), 1 / positions, device=device)

    def trained(loss_of: Callable[[], Tensor]) -> Prepare:
        return lambda: lambda: torch.autograd.grad(loss_of(), (hidden, weight), grad_output)

    ours = trained(
        partial(chunked_multi_hot_cross_entropy, hidden, weight, targets, chunk_size=chunk_size)
    )
    theirs = trained(lambda: multi_hot_cross_entropy(hidden @ weight.t(), targets))
    what = (
        f"head and MCE in chunks of {chunk_size} rows, s = {BAG_SIZE}, [{positions}, 1, {width}] x "
        f"[{vocabulary}, {width}] {name_of(dtype)}"
    )
    bench.say(what)
    against, turns = "the same, logits whole", bench.sized(15, 15, 2)
    yield time_row(what, against, ours, theirs, turns, at_most=1.4, device=device)
    yield memory_row(what, against, ours, theirs, at_most=0.4, device=device)


def forward_and_backward(loss_of: Callable[[Tensor], Tensor], values: Tensor) -> Prepare:
    """Loss and gradient of logits made anew for every turn, as a model makes them."""
    grad_output = torch.full(values.shape[:-1], 1 / values.shape[0], device=values.device)

    def prepare() -> Work:
        logits = values.clone().requires_grad_()
        # Not backward(), which would copy the gradient of logits that are held on to.
        return lambda: torch.autograd.grad(loss_of(logits), logits, grad_output)

    return prepare


def published_loop(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the places of a bag of torch's cross-entropy: ``[L, b, V]``, ``[L, b, s]``."""
    losses = [
        F.cross_entropy(logits.flatten(0, 1).float(), targets[..., j].flatten(), reduction="none")
        for j in range(targets.shape[-1])
    ]
    return (sum(losses[1:], losses[0]) / len(losses)).view(targets.shape[:-1])


def name_of(dtype: torch.dtype) -> str:
    """Its name without torch's."""
    return str(dtype).removeprefix("torch.")
