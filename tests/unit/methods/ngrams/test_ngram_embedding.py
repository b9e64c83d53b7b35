"""Sums of rows against float64, an n-gram at a time, with their gradients; ids, bags and packed
samples.
"""

import pytest
import torch

from tst_megatron.methods.ngrams.ngram_hashing import NOTHING, rows_of

ORDERS, ROWS, HIDDEN, END = (2, 3, 5), 11, 8, 0
EMPTY = -1
# Sums of up to 15 numbers in float32, and gradients of as many as a row is read.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def build(model_parallel):
    """Tables ``[3·11, h]`` of random numbers in float32."""
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.tensor_parallel import VocabParallelEmbedding

    from tst_megatron.methods.ngrams.embedding import NgramEmbedding

    def build(generator, packed_length=None):
        config = ModelParallelConfig(use_cpu_initialization=True)
        words = VocabParallelEmbedding(20, HIDDEN, init_method=torch.nn.init.normal_, config=config)
        group = parallel_state.get_context_parallel_group()
        made = NgramEmbedding(ORDERS, ROWS, END, packed_length, words, group)
        assert torch.count_nonzero(made.weight) == 0
        made.weight.data.copy_(torch.randn(made.weight.shape, generator=generator))
        return made

    return build


def in_float64(weight, texts, size):
    """Means over the tokens of each bag ``[b, L, h]``, of texts ``[b, L·s]``."""
    nothing = torch.full((1, ORDERS[-1] - 1), NOTHING)
    samples = []
    for text in texts:
        rows = rows_of(text.unsqueeze(0), nothing, ORDERS, ROWS, END)[0]
        bags = []
        for begin in range(0, len(text), size):
            filled = [at for at in range(begin, begin + size) if text[at] != EMPTY]
            total = sum((weight[rows[at]].sum(dim=0) for at in filled), weight[0] * 0.0)
            bags.append(total / max(1, len(filled)))
        samples.append(torch.stack(bags))
    return torch.stack(samples)


@pytest.mark.parametrize("with_empty", [False, True], ids=["full bags", "bags with empty places"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_position_has_the_rows_of_its_tokens(size, with_empty, build, generator) -> None:
    made = build(generator)
    texts = torch.randint(0, 20, (2, 12 * size), generator=generator)
    if with_empty and size > 1:
        texts[torch.rand(texts.shape, generator=generator) < 0.3] = EMPTY
        texts[1, 2 * size : 3 * size] = EMPTY
    input_ = texts.view(2, 12, size) if size > 1 else texts
    gradient = torch.randn(2, 12, HIDDEN, generator=generator)

    output = made(input_)
    output.backward(gradient)

    weight = made.weight.detach().double().requires_grad_()
    wanted = in_float64(weight, texts, size)
    wanted.backward(gradient.double())
    torch.testing.assert_close(output.double(), wanted.detach(), **TOLERANCE)
    torch.testing.assert_close(made.weight.grad.double(), weight.grad, **TOLERANCE)


@pytest.mark.parametrize("size", [1, 2])
def test_packed_samples_are_apart(size, build, generator) -> None:
    made = build(generator, packed_length=6)
    texts = torch.randint(1, 20, (3, 6, size), generator=generator)
    packed, apart = texts.view(1, 18, size), texts
    if size == 1:
        packed, apart = packed.squeeze(-1), apart.squeeze(-1)
    assert torch.equal(made(packed).view(3, 6, HIDDEN), made(apart))


def test_no_token_looks_ahead(build, generator) -> None:
    made = build(generator)
    text = torch.randint(1, 20, (1, 30), generator=generator)
    other = text.clone()
    other[0, 17] = text[0, 17] % 19 + 1
    same = (made(text) == made(other)).all(dim=-1)[0]
    assert same[:17].all()
    # Five tokens on it is forgotten.
    assert not same[17]
    assert same[22:].all()
