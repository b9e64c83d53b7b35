"""The loss's Triton kernels, interpreted on the CPU; `test_loss_kernels` starts this and compares.

A process of its own because Triton's interpreter is chosen as triton is imported.
"""

import sys
from dataclasses import dataclass
from functools import cache

import torch
from reference import EMPTY, scheme_weights
from torch import Tensor

from tst_megatron.methods.superposition import logit_passes, loss_kernels
from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy

L, B = 3, 2
# So that few logits are several blocks: the interpreter takes each operation of each by itself.
BLOCK = 128


@dataclass(frozen=True)
class Case:
    """One call; vocabularies with and without whole accesses of 16 bytes, bags of any size."""

    vocabulary: int
    bag_size: int
    dtype: torch.dtype = torch.float32
    objective: str = "mce"
    weights: str | None = None
    empty: bool = False


CASES = (
    Case(301, 6, weights="power", empty=True),
    Case(320, 16, torch.bfloat16),
    Case(320, 1, torch.float16),
    Case(301, 3, torch.bfloat16, objective="mce-alt", empty=True),
    Case(320, 6, objective="mce-alt"),
    # All of a bag's tokens stand in it several times, and it has more places than a warp threads.
    Case(8, 40, weights="given", empty=True),
    Case(8, 40, objective="mce-alt"),
)


@cache
def inputs(case: Case, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits ``[L, b, V]``, targets ``[L, b, s]``, weights ``[L, b, s]``, gradient ``[L, b]``."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(L, B, case.vocabulary, generator=generator) * 3
    targets = torch.randint(0, case.vocabulary, (L, B, case.bag_size), generator=generator)
    # The last logit of a row, where another row begins.
    targets[0, 0, 0] = case.vocabulary - 1
    if case.empty:
        targets[torch.rand(targets.shape, generator=generator) < 0.4] = EMPTY
        targets[1, 1] = EMPTY
    weights = torch.rand(targets.shape, generator=generator) * 2
    weights[torch.rand(targets.shape, generator=generator) < 0.3] = 0.0
    weights[targets == EMPTY] = 0.0
    return logits.to(case.dtype), targets, weights, torch.randn(L, B, generator=generator)


def loss(case: Case, seed: int) -> dict[str, object]:
    """Loss and gradient, and whether the gradient is the memory of the logits, which is told of."""
    drawn, targets, given, grad_output = inputs(case, seed)
    weights = given if case.weights == "given" else None
    if case.weights == "power":
        weights = scheme_weights("power", case.bag_size).float()
    # Not a leaf, as behind an output layer.
    logits = drawn.clone().requires_grad_() * 1.0
    seen: list[Tensor] = []
    logits.register_hook(seen.append)
    value = multi_hot_cross_entropy(
        logits, targets, weights, objective=case.objective, implementation="kernel"
    )
    is_untouched = torch.equal(logits.detach(), drawn)
    value.backward(grad_output, retain_graph=True)
    gradient = seen[0].clone()
    try:
        value.backward(grad_output)
        refusal = ""
    except RuntimeError as error:
        refusal = str(error)
    return {
        "loss": value.detach(),
        "gradient": gradient,
        "is untouched": is_untouched,
        "is in place": seen[0].data_ptr() == logits.data_ptr(),
        "of a second backward pass": refusal,
    }


def strange_rows() -> tuple[Tensor, ...]:
    """Rows of infinities and NaN, and targets in and out of them: what `Passes` takes."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(7, 301, generator=generator)
    rows[0] = -torch.inf
    rows[1, :150] = -torch.inf
    rows[2, 1:] = -torch.inf
    rows[3, 200] = torch.inf
    rows[4, 250] = torch.nan
    rows[5] *= 1e30
    targets = torch.tensor([-1, 0, 300, 301, 250, -1000, 10**12]).expand(7, 7)
    shares = torch.rand(7, 7, generator=generator)
    return rows, targets, shares, torch.randn(7, generator=generator)


def on_strange_rows(implementation: str) -> tuple[Tensor, ...]:
    """Both passes over them: maximum, sum, logits at targets, gradient."""
    rows, targets, shares, pull = strange_rows()
    passes = logit_passes.passes_of(implementation, rows.device)
    numbers = passes.read(rows, targets)
    # The maximum and the sum of a whole row, of which this one may be a shard without a share.
    maximum = numbers.maximum.clamp(min=-1e3)
    passes.write(rows, targets, maximum, numbers.sum_exp.clamp(min=1.0), shares, pull)
    return (*numbers, rows)


if __name__ == "__main__":
    loss_kernels._BLOCK = BLOCK
    # What the default of a GPU is tried with.
    logit_passes._run_kernel(torch.zeros(2, 16))
    seed = int(sys.argv[2])
    results = {
        "losses": [loss(case, seed) for case in CASES],
        "strange": {name: on_strange_rows(name) for name in ("kernel", "eager")},
    }
    torch.save(results, sys.argv[1])
