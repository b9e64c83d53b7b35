"""The embedding of bags against look-ups of all their tokens, and the paper's loop.

The paper's published code looks a place of the bags up at a time and adds in float32.
"""

from collections.abc import Callable, Iterator

import torch
from megatron.core import ModelParallelConfig
from megatron.core.tensor_parallel import VocabParallelEmbedding
from torch import Tensor

from benchmarks.measure import Bench, Prepare, Row, Work, memory_row, time_row
from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding

BAG_SIZE = 16


def rows(bench: Bench) -> Iterator[Row]:
    """Time and peak memory of forward and backward."""
    shape = bench.sized((2048, 32768, 1024), (8192, 131072, 2048), (64, 512, 32))
    positions, vocabulary, hidden = shape
    device = bench.device
    what = (
        f"bag embedding forward + backward, [1, {positions}, {BAG_SIZE}] ids, vocabulary "
        f"{vocabulary}, h = {hidden}"
    )
    bench.say(what)
    table = torch.randn(vocabulary, hidden, device=device)
    stock = module_of(VocabParallelEmbedding, table)
    superposed = module_of(SuperposedVocabParallelEmbedding, table)

    def look_up_all(bags: Tensor) -> Tensor:
        return stock(bags.flatten(1)).view(*bags.shape, hidden).mean(dim=2)

    def papers(bags: Tensor) -> Tensor:
        places = [stock(bags[..., j]).float() for j in range(BAG_SIZE)]
        return sum(places[1:], places[0]) / BAG_SIZE

    def draw() -> Tensor:
        return torch.randint(0, vocabulary, (1, positions, BAG_SIZE), device=device)

    bags = draw()
    # They are the same embedding before one is said to be faster.
    for other in (look_up_all, papers):
        torch.testing.assert_close(superposed(bags), other(bags), rtol=1e-4, atol=1e-5)

    ours = forward_and_backward(superposed, superposed.weight, draw)
    all_tokens = forward_and_backward(look_up_all, stock.weight, draw)
    mean, turns = "look-up of all tokens, then mean", bench.sized(15, 15, 2)
    yield time_row(what, mean, ours, all_tokens, turns, at_most=0.95, device=device)
    gradient = table.numel() * table.element_size()
    # The weight was there before; the gradient is what the turn leaves.
    # On a GPU the gradient takes sums in float32 on either side, of every ten look-ups.
    at_most = bench.sized(0.15, 1.0, 1.0)
    yield memory_row(what, mean, ours, all_tokens, at_most, gradient, device)
    bench.say(f"{what}: the paper's loop")
    loop = f"the paper's loop of {BAG_SIZE} look-ups"
    theirs = forward_and_backward(papers, stock.weight, draw)
    yield time_row(what, loop, ours, theirs, bench.sized(8, 8, 2), at_most=0.16, device=device)


def module_of(kind: type[VocabParallelEmbedding], table: Tensor) -> VocabParallelEmbedding:
    """A module whose weight is the table itself."""
    module = kind(
        *table.shape,
        init_method=torch.nn.init.zeros_,
        config=ModelParallelConfig(use_cpu_initialization=True, perform_initialization=False),
    )
    module.weight.data = table
    return module


def forward_and_backward(
    embed: Callable[[Tensor], Tensor], weight: Tensor, draw: Callable[[], Tensor]
) -> Prepare:
    """Mean embedding and the table's gradient, of bags drawn anew for every turn."""
    grad_output = torch.randn(*draw().shape[:2], weight.shape[1], device=weight.device)

    def prepare() -> Work:
        bags = draw()
        return lambda: torch.autograd.grad(embed(bags), weight, grad_output)

    return prepare
