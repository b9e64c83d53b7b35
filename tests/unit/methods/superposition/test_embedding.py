from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from reference import EMPTY, SIZES, bfloat16_gradient_error

VOCABULARY, HIDDEN = 23, 16


@pytest.fixture
def build(model_parallel):
    """Stock and superposed embeddings with the same table ``[V, h]``."""
    from megatron.core import ModelParallelConfig
    from megatron.core.tensor_parallel import VocabParallelEmbedding

    from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding

    def build(table, superposed=True, reduce_scatter=False):
        module = (SuperposedVocabParallelEmbedding if superposed else VocabParallelEmbedding)(
            *table.shape,
            init_method=torch.nn.init.normal_,
            reduce_scatter_embeddings=reduce_scatter,
            config=ModelParallelConfig(use_cpu_initialization=True, params_dtype=table.dtype),
        )
        module.weight.data.copy_(table)
        return module

    return build


def draw(generator, bag_size, dtype=torch.float32, vocabulary=VOCABULARY):
    """Table, bags ``[b, L, s]`` and returning gradient ``[b, L, h]``."""
    return (
        torch.randn(vocabulary, HIDDEN, generator=generator).to(dtype),
        torch.randint(0, vocabulary, (2, 5, bag_size), generator=generator),
        torch.randn(2, 5, HIDDEN, generator=generator).to(dtype),
    )


def mean_and_gradient(table, bags, grad_output):
    """In float64, one place of the bags at a time."""
    table = table.double().requires_grad_()
    mean = sum(table[bags[..., j]] for j in range(bags.shape[-1])) / bags.shape[-1]
    mean.backward(grad_output.double())
    return mean.detach(), table.grad


# A vocabulary of 3 fills the bags with duplicates.
@pytest.mark.parametrize("vocabulary", [3, VOCABULARY])
@pytest.mark.parametrize("bag_size", SIZES)
def test_the_mean_of_a_bag(bag_size, vocabulary, build, generator):
    table, bags, grad_output = draw(generator, bag_size, vocabulary=vocabulary)
    module = build(table)

    output = module(bags)
    output.backward(grad_output)

    mean, gradient = mean_and_gradient(table, bags, grad_output)
    assert output.shape == (2, 5, HIDDEN)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(module.weight.grad.double(), gradient, rtol=1e-5, atol=1e-6)


def with_empty_places(bags, generator):
    """Two places in five hold no token, and one bag none at all; token 0 is nowhere."""
    bags = bags.clamp(min=1)
    bags[torch.rand(bags.shape, generator=generator) < 0.4] = EMPTY
    bags[1, 2] = EMPTY
    return bags


def mean_of_filled_and_gradient(table, bags, grad_output):
    """In float64, a bag at a time; zero for a bag without a token."""
    table = table.double().requires_grad_()
    means = []
    for bag in bags.flatten(0, 1).tolist():
        rows = [table[token] for token in bag if token != EMPTY]
        means.append(sum(rows) / len(rows) if rows else table[0] * 0.0)
    mean = torch.stack(means).view(*bags.shape[:2], -1)
    mean.backward(grad_output.double())
    return mean.detach(), table.grad


@pytest.mark.parametrize("vocabulary", [3, VOCABULARY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bag_size", SIZES[1:])
def test_the_mean_is_over_filled_places(bag_size, dtype, vocabulary, build, generator):
    table, bags, grad_output = draw(generator, bag_size, dtype, vocabulary)
    bags = with_empty_places(bags, generator)
    module = build(table)
    module.has_empty_places = True

    output = module(bags)
    output.backward(grad_output)

    mean, gradient = mean_of_filled_and_gradient(table, bags, grad_output)
    assert output.dtype == module.weight.grad.dtype == dtype
    assert (output[1, 2] == 0.0).all()
    # No bag holds token 0, and an empty place is nobody's.
    assert (module.weight.grad[0] == 0.0).all()
    if dtype == torch.bfloat16:
        half_a_place = half_a_place_of_bfloat16(mean)
        slack = 2**-23 * table.double().abs().max() * bag_size
        assert ((output.double() - mean).abs() <= 4 * half_a_place + slack).all()
        bound = bfloat16_gradient_error(
            lambda grad: mean_of_filled_and_gradient(table, bags, grad)[1], bags, grad_output
        )
        assert ((module.weight.grad.double() - gradient).abs() <= bound).all()
    else:
        torch.testing.assert_close(output.double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(module.weight.grad.double(), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bag_size", SIZES)
def test_full_bags_are_the_same_where_places_may_be_empty(bag_size, build, generator):
    table, bags, grad_output = draw(generator, bag_size)
    plain, careful = build(table), build(table)
    careful.has_empty_places = True
    outputs = [module(bags) for module in (plain, careful)]
    for output in outputs:
        output.backward(grad_output)
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.weight.grad, careful.weight.grad, rtol=1e-5, atol=1e-6)


def half_a_place_of_bfloat16(x):
    """Half of the distance between bfloat16 numbers (8 bits of mantissa) around x, float64."""
    return torch.exp2(torch.floor(torch.log2(x.abs().clamp(min=1e-30))) - 8)


# torch's kernel on a CPU rounds the sum, and the mean again: no matter for a power of two.
@pytest.mark.parametrize("bag_size", [1, 2, 16])
def test_a_bfloat16_table_is_rounded_once(bag_size, build, generator):
    off, half_a_place = bfloat16_error(bag_size, build, generator)
    assert (off <= half_a_place).all()


@pytest.mark.parametrize("bag_size", SIZES)
def test_a_bfloat16_table_is_rounded_twice_at_most(bag_size, build, generator):
    off, half_a_place = bfloat16_error(bag_size, build, generator)
    # Half a place of the sum may be a whole place of the mean, or more across a power of two.
    assert (off <= 4 * half_a_place).all()


def bfloat16_error(bag_size, build, generator):
    """Distance from the float64 mean, and the most that one rounding may make it."""
    table, bags, grad_output = draw(generator, bag_size, torch.bfloat16)
    output = build(table)(bags).detach()
    assert output.dtype == torch.bfloat16
    mean, _ = mean_and_gradient(table, bags, grad_output)
    # The float32 sum is a little off itself, which shows near a tie between two roundings.
    slack = 2**-23 * table.double().abs()[bags].sum(dim=2)
    return (output.double() - mean).abs(), half_a_place_of_bfloat16(mean) + slack


def test_a_bfloat16_sum_keeps_small_rows(build):
    # 256 + 1 is 256 in bfloat16, so a sum in bfloat16 would lose the fifteen ones.
    table = torch.tensor([[256.0], [1.0]]).bfloat16().repeat(1, 16)
    bags = torch.tensor([[[0] + [1] * 15]])
    assert build(table)(bags)[0, 0].tolist() == [torch.tensor(271 / 16).bfloat16().item()] * 16


@pytest.mark.parametrize("bag_size", SIZES)
def test_the_gradient_of_a_bfloat16_table(bag_size, build, generator):
    table, bags, grad_output = draw(generator, bag_size, torch.bfloat16)
    module = build(table)
    module(bags).backward(grad_output)
    _, gradient = mean_and_gradient(table, bags, grad_output)
    # A token of several bags is added up in bfloat16, as by the stock look-up.
    assert module.weight.grad.dtype == torch.bfloat16
    bound = bfloat16_gradient_error(
        lambda grad: mean_and_gradient(table, bags, grad)[1], bags, grad_output
    )
    assert ((module.weight.grad.double() - gradient).abs() <= bound).all()


RANK, RANKS, LENGTH = 5, 8, 60


@pytest.fixture
def shard(build, generator):
    """One of eight shards, and bags ``[b, L, s]`` of the whole vocabulary.

    A third of the places hold one token of another shard, as a text is full of one word; some bags
    are half empty, and one is empty.
    """
    module = build(torch.randn(VOCABULARY, HIDDEN, generator=generator))
    module.tp_group = SimpleNamespace(size=lambda: RANKS)
    module.vocab_start_index = RANK * VOCABULARY
    module.vocab_end_index = module.vocab_start_index + VOCABULARY
    module.has_empty_places = True
    bags = torch.randint(0, RANKS * VOCABULARY, (2, LENGTH, 16), generator=generator)
    bags[torch.rand(bags.shape, generator=generator) < 0.33] = 7
    bags[:, ::3, 8:] = EMPTY
    bags[1, 2] = EMPTY
    return module, bags


def is_local(module, bags):
    return (bags >= module.vocab_start_index) & (bags < module.vocab_end_index)


def test_no_row_is_read_more_often_for_tokens_of_other_shards(shard, monkeypatch):
    module, bags = shard
    read = []
    look_up = F.embedding_bag
    monkeypatch.setattr(
        F, "embedding_bag", lambda ids, *args, **kw: read.append(ids) or look_up(ids, *args, **kw)
    )
    module._mean_of_local_rows(bags)
    (rows,) = read
    local = is_local(module, bags).flatten(0, 1)
    assert torch.equal(rows[local], bags.flatten(0, 1)[local] - module.vocab_start_index)
    of_others = rows[~local].bincount(minlength=VOCABULARY)
    # A row has its turn at every (V/tp)-th place, local or not. Were none local, each row would be
    # read as often as the mean, rounded up or down; the local ones are left out.
    assert of_others.max() <= -(-bags.numel() // VOCABULARY)
    assert of_others.sum() == (~local).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_they_are_read_changes_no_value_and_no_gradient(shard, dtype, generator):
    module, bags = shard
    module.weight.data = module.weight.data.to(dtype)
    # Of -1, 0 and 1 over 16, 8 or nothing, sums are exact in any order: a gradient has no rounding.
    grad_output = torch.randint(-1, 2, (*bags.shape[:2], HIDDEN), generator=generator).to(dtype)
    output = module._mean_of_local_rows(bags)
    output.backward(grad_output)

    # All of them read from row 0, and weighed as nothing.
    local = is_local(module, bags).flatten(0, 1)
    ids = torch.where(local, bags.flatten(0, 1) - module.vocab_start_index, 0)
    weights = local.to(dtype)
    total = F.embedding_bag(ids, module.weight.data, mode="sum", per_sample_weights=weights)
    filled = (bags != EMPTY).sum(dim=-1).clamp(min=1).unsqueeze(-1)
    assert torch.equal(output, total.view_as(output) / filled.to(dtype))
    assert torch.equal(module.weight.grad.double(), local_gradient(module, bags, grad_output))


def local_gradient(module, bags, grad_output):
    """In float64, a place at a time: a token's gradient goes to its row if that is here."""
    gradient = torch.zeros(module.weight.shape, dtype=torch.float64)
    for bag, row in zip(bags.flatten(0, 1), grad_output.flatten(0, 1).double(), strict=True):
        for token in bag[is_local(module, bag)].tolist():
            gradient[token - module.vocab_start_index] += row / (bag != EMPTY).sum()
    return gradient


@pytest.mark.parametrize("reduce_scatter", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["[b, L]", "[b, L, 1]"])
def test_single_tokens_are_the_stock_look_up(shape, dtype, reduce_scatter, build, generator):
    table, bags, grad_output = draw(generator, 1, dtype, vocabulary=4)
    if reduce_scatter:
        grad_output = grad_output.transpose(0, 1).contiguous()
    ours, stock = (build(table, superposed, reduce_scatter) for superposed in (True, False))

    output = ours(bags if shape == "[b, L, 1]" else bags[..., 0])
    stock_output = stock(bags[..., 0])
    output.backward(grad_output)
    stock_output.backward(grad_output)

    assert output.shape == stock_output.shape
    assert torch.equal(output, stock_output)
    assert torch.equal(ours.weight.grad, stock.weight.grad)


@pytest.mark.parametrize("shape", ["[b, L]", "[b, L, 1]"])
def test_a_frequent_token_gets_the_stock_gradient(shape, build):
    # More than 16 places, which another kernel would sort and so add up in another order.
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(4, HIDDEN, generator=generator)
    tokens = torch.randint(0, 4, (2, 40), generator=generator)
    grad_output = torch.randn(2, 40, HIDDEN, generator=generator)
    ours, stock = build(table), build(table, superposed=False)
    ours(tokens.unsqueeze(-1) if shape == "[b, L, 1]" else tokens).backward(grad_output)
    stock(tokens).backward(grad_output)
    assert torch.equal(ours.weight.grad, stock.weight.grad)


def test_tokens_go_the_stock_path(build, generator, monkeypatch):
    table, bags, _ = draw(generator, 1)
    module = build(table)
    monkeypatch.setattr(module, "_mean_of_local_rows", None)
    assert torch.equal(module(bags[..., 0]), table[bags[..., 0]])


def test_the_layout_under_sequence_parallelism(build, generator):
    table, bags, _ = draw(generator, 3)
    plain, scattered = (build(table, reduce_scatter=flag)(bags) for flag in (False, True))
    assert scattered.shape == (5, 2, HIDDEN)
    assert torch.equal(scattered.transpose(0, 1), plain)


def test_bags_need_not_be_contiguous(build, generator):
    table, bags, _ = draw(generator, 6)
    strided = bags.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    module = build(table)
    assert torch.equal(module(strided), module(bags))


def test_the_order_inside_a_bag_does_not_matter(build, generator):
    table, bags, _ = draw(generator, 6)
    module = build(table)
    torch.testing.assert_close(module(bags.flip(-1)), module(bags))


def test_the_state_dict_is_the_stock_one(build, generator):
    table, _, _ = draw(generator, 1)
    ours, stock = build(table), build(table, superposed=False)
    assert list(ours.state_dict()) == list(stock.state_dict()) == ["weight"]
    assert vars(ours.weight).keys() == vars(stock.weight).keys()
