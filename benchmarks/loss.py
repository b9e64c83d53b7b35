"""The multi-hot cross-entropy of bags of 16 against Megatron's of one target, and the paper's loop.

The paper's published code calls a stock cross-entropy for each of the s targets and averages.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

from benchmarks.measure import Prepare, Report, Row, Work, memory_row, time_row
from tst_megatron.superposition import multi_hot_cross_entropy

L, VOCABULARY, BAG_SIZE = 2048, 32768, 16


def rows(report: Report) -> Iterator[Row]:
    """Time and peak memory of forward and backward, for float32 and bfloat16 logits."""
    group = parallel_state.get_tensor_model_parallel_group()
    targets = torch.randint(0, VOCABULARY, (L, 1, BAG_SIZE))
    first = targets[..., 0].contiguous()

    def ours(logits: Tensor) -> Tensor:
        return multi_hot_cross_entropy(logits, targets, tp_group=group)

    def megatrons(logits: Tensor) -> Tensor:
        return vocab_parallel_cross_entropy(logits, first, tp_group=group)

    def papers(logits: Tensor) -> Tensor:
        return published_loop(logits, targets)

    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(L, 1, VOCABULARY).to(dtype)
        what = f"MCE forward + backward, s = {BAG_SIZE}, [{L}, 1, {VOCABULARY}] {name_of(dtype)}"
        report(what)
        # They are the same loss before one is said to be faster.
        torch.testing.assert_close(ours(values), papers(values), rtol=1e-4, atol=1e-4)
        sides = {f.__name__: forward_and_backward(f, values) for f in (ours, megatrons, papers)}
        stock = "Megatron's vocab_parallel_cross_entropy, one target"
        yield time_row(what, stock, sides["ours"], sides["megatrons"], turns=15, at_most=1.0)
        yield memory_row(what, stock, sides["ours"], sides["megatrons"], at_most=1.02)
        report(f"{what}: the paper's loop")
        loop = f"the paper's loop of {BAG_SIZE} cross-entropies"
        yield time_row(what, loop, sides["ours"], sides["papers"], turns=4, at_most=0.05)


def forward_and_backward(loss_of: Callable[[Tensor], Tensor], values: Tensor) -> Prepare:
    """Loss and gradient of logits made anew for every turn, as a model makes them."""
    grad_output = torch.full((L, 1), 1 / L)

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
