"""The loss compiled and eager, on the same inputs; `test_loss_compiled` starts this and compares.

A process of its own because the CPU backend switches torch's compiler off.
"""

import sys

import torch
from inductor_source import source_of

from tst_megatron.methods.superposition.logit_passes import _max_and_sum_exp
from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy

VOCABULARY = 301
# Rows, bag size. A second number of rows compiles once more, for any number.
SHAPES = ((10, 6), (10, 2), (12, 6), (14, 6))
DTYPES = (torch.float32, torch.bfloat16)
OBJECTIVES = ("mce", "mce-alt")


def inputs(rows, bag_size, dtype):
    """Logits ``[rows, 1, V]``, targets ``[rows, 1, s]``, returning gradient ``[rows, 1]``."""
    generator = torch.Generator().manual_seed(rows * bag_size)
    return (
        (torch.randn(rows, 1, VOCABULARY, generator=generator) * 3).to(dtype),
        torch.randint(-1, VOCABULARY, (rows, 1, bag_size), generator=generator),
        torch.randn(rows, 1, generator=generator),
    )


def run(rows, bag_size, dtype, objective, implementation):
    logits, targets, grad_output = inputs(rows, bag_size, dtype)
    logits.requires_grad_()
    loss = multi_hot_cross_entropy(
        logits, targets, objective=objective, implementation=implementation
    )
    before = logits.detach().clone()
    (gradient,) = torch.autograd.grad(loss, logits, grad_output)
    in_place = gradient.data_ptr() == logits.data_ptr()
    return before, loss.detach(), gradient.clone(), in_place


if __name__ == "__main__":
    results = {
        (*shape, dtype, objective, implementation): run(*shape, dtype, objective, implementation)
        for shape in SHAPES
        for dtype in DTYPES
        for objective in OBJECTIVES
        for implementation in ("eager", "compiled")
    }
    from torch._dynamo.utils import counters

    counted = dict(counters["stats"])
    # Too long a row to stay in a program's registers.
    source = source_of(_max_and_sum_exp, ((8192, 131072), torch.bfloat16))
    torch.save((results, counted, source), sys.argv[1])
