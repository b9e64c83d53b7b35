"""The embedding of bags against look-ups of all their tokens, and the paper's loop.

The paper's published code looks a place of the bags up at a time and adds in float32.
"""

from collections.abc import Callable, Iterator

import torch
from megatron.core import ModelParallelConfig
from megatron.core.tensor_parallel import VocabParallelEmbedding
from torch import Tensor

from benchmarks.measure import Prepare, Report, Row, Work, memory_row, time_row
from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding

L, BAG_SIZE, VOCABULARY, HIDDEN = 2048, 16, 32768, 1024


def rows(report: Report) -> Iterator[Row]:
    """Time and peak memory of forward and backward."""
    what = (
        f"bag embedding forward + backward, [1, {L}, {BAG_SIZE}] ids, vocabulary {VOCABULARY}, "
        f"h = {HIDDEN}"
    )
    report(what)
    table = torch.randn(VOCABULARY, HIDDEN)
    stock = module_of(VocabParallelEmbedding, table)
    superposed = module_of(SuperposedVocabParallelEmbedding, table)

    def look_up_all(bags: Tensor) -> Tensor:
        return stock(bags.flatten(1)).view(*bags.shape, HIDDEN).mean(dim=2)

    def papers(bags: Tensor) -> Tensor:
        places = [stock(bags[..., j]).float() for j in range(BAG_SIZE)]
        return sum(places[1:], places[0]) / BAG_SIZE

    bags = torch.randint(0, VOCABULARY, (1, L, BAG_SIZE))
    # They are the same embedding before one is said to be faster.
    for other in (look_up_all, papers):
        torch.testing.assert_close(superposed(bags), other(bags), rtol=1e-4, atol=1e-5)

    ours = forward_and_backward(superposed, superposed.weight)
    all_tokens = forward_and_backward(look_up_all, stock.weight)
    mean = "look-up of all tokens, then mean"
    yield time_row(what, mean, ours, all_tokens, turns=15, at_most=0.95)
    gradient = table.numel() * table.element_size()
    # The weight was there before; the gradient is what the turn leaves.
    row = memory_row(what, mean, ours, all_tokens, at_most=0.15, without=gradient)
    yield row
    report(f"{what}: the paper's loop")
    loop = f"the paper's loop of {BAG_SIZE} look-ups"
    yield time_row(
        what, loop, ours, forward_and_backward(papers, stock.weight), turns=8, at_most=0.16
    )


def module_of(kind: type[VocabParallelEmbedding], table: Tensor) -> VocabParallelEmbedding:
    """A module whose weight is the table itself."""
    module = kind(
        *table.shape,
        init_method=torch.nn.init.zeros_,
        config=ModelParallelConfig(use_cpu_initialization=True, perform_initialization=False),
    )
    module.weight.data = table
    return module


def forward_and_backward(embed: Callable[[Tensor], Tensor], weight: Tensor) -> Prepare:
    """Mean embedding and the table's gradient, of bags made anew for every turn."""
    grad_output = torch.randn(1, L, HIDDEN)

    def prepare() -> Work:
        bags = torch.randint(0, VOCABULARY, (1, L, BAG_SIZE))
        return lambda: torch.autograd.grad(embed(bags), weight, grad_output)

    return prepare
