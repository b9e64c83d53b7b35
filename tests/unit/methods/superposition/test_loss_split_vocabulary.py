"""The loss and the embedding with the vocabulary halved over two real gloo processes."""

import pytest
import split_worker
import torch
from reference import (
    EMPTY,
    assert_within,
    expected,
    filled_weights,
    of_hidden_states,
    scheme_weights,
)
from split_worker import CASES, CHUNKED, EMBEDDING_SIZES, HIDDEN, TP, B, L


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of both ranks, from one spawn."""
    folder = tmp_path_factory.mktemp("split")
    torch.multiprocessing.spawn(split_worker.run, args=(str(folder),), nprocs=TP)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(TP)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_is_that_of_the_whole_vocabulary(case, ranks):
    logits, targets, given, grad_output = split_worker.inputs(case)
    losses, gradients = zip(*(rank["loss"][str(case)] for rank in ranks), strict=True)

    weights = None
    if case.weights == "given":
        weights = given
    elif case.objective == "mce":
        weights = filled_weights(scheme_weights(case.weights or "uniform", case.bag_size), targets)
    true_loss, true_gradient = expected(logits, targets, weights, grad_output)

    assert torch.equal(losses[0], losses[1]), "the ranks disagree"
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(losses[0].double(), true_loss, rtol=3e-6, atol=3e-6)
    gradient = torch.cat(gradients, dim=-1)
    assert gradient.dtype == case.dtype
    bound = {"rtol": 1e-5, "atol": 1e-6}
    if case.dtype == torch.bfloat16:
        bound["rtol"] = 2**-8
    torch.testing.assert_close(gradient.double(), true_gradient, **bound)
    if case.empty:
        assert losses[0][1, 1] == 0.0
        assert (gradient[1, 1] == 0.0).all()


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.bag_size == 1 and not c.empty and c.weights != "given"],
    ids=str,
)
def test_one_target_has_megatrons_loss(case, ranks):
    for rank in ranks:
        for ours, stock in zip(rank["loss"][str(case)], rank["stock loss"][str(case)], strict=True):
            torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("case", CHUNKED, ids=str)
def test_the_loss_of_hidden_states_is_that_of_the_whole_vocabulary(case, ranks):
    objective, dtype, sequence_parallel, _ = case
    hidden, table, targets, grad_output = split_worker.chunked_inputs(dtype)
    results = [rank["chunked loss"][case] for rank in ranks]

    assert torch.equal(results[0]["loss"], results[1]["loss"]), "the ranks disagree"
    of_hidden = [result["hidden"] for result in results]
    if not sequence_parallel:
        assert torch.equal(*of_hidden), "the ranks disagree"
        of_hidden.pop()
    weights = None
    if objective == "mce":
        weights = filled_weights(scheme_weights("uniform", 6), targets)
    assert_within(
        {
            "loss": results[0]["loss"],
            "hidden": torch.cat(of_hidden),
            "weight": torch.cat([result["weight"] for result in results]),
        },
        of_hidden_states(hidden, table, targets, weights, grad_output, num_ranks=TP),
    )


def whole_embedding(bag_size, dtype):
    """Mean and table gradient in float64."""
    table, bags, grad_output = split_worker.embedding_inputs(bag_size, dtype)
    table = table.double().requires_grad_()
    mean = torch.stack([table[bags[..., j]] for j in range(bag_size)]).sum(0) / bag_size
    mean.backward(grad_output.double())
    return mean.detach(), table.grad


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("bag_size", EMBEDDING_SIZES)
def test_the_embedding_is_that_of_the_whole_table(bag_size, sequence_parallel, ranks):
    outputs, gradients = zip(
        *(rank["embedding"][bag_size, torch.float32, sequence_parallel] for rank in ranks),
        strict=True,
    )
    mean, true_gradient = whole_embedding(bag_size, torch.float32)

    if sequence_parallel:
        assert outputs[0].shape == (L // TP, B, HIDDEN)
        output = torch.cat(outputs).transpose(0, 1)
    else:
        assert torch.equal(outputs[0], outputs[1])
        output = outputs[0]
    torch.testing.assert_close(output.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat(gradients).double(), true_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("bag_size", EMBEDDING_SIZES)
def test_a_bfloat16_table_rounds_a_few_times(bag_size, sequence_parallel, ranks):
    outputs, gradients = zip(
        *(rank["embedding"][bag_size, torch.bfloat16, sequence_parallel] for rank in ranks),
        strict=True,
    )
    table, bags, _ = split_worker.embedding_inputs(bag_size, torch.bfloat16)
    mean, true_gradient = whole_embedding(bag_size, torch.bfloat16)
    output = torch.cat(outputs).transpose(0, 1) if sequence_parallel else outputs[0]

    assert output.dtype == torch.bfloat16
    # A rank's part rounds at the sum and at the division, and the reduction rounds their sum: each
    # time by half a place (2^-9) of at most the mean of the absolute values.
    scale = table.double().abs()[bags].mean(dim=2)
    assert ((output.double() - mean).abs() <= 3 * 2**-9 * 1.01 * scale).all()
    if bag_size == 1:
        assert torch.equal(output.double(), mean)
    # Every occurrence of a token adds to its row in bfloat16.
    assert gradients[0].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat(gradients).double(), true_gradient, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bag_size", EMBEDDING_SIZES[1:])
def test_the_mean_is_over_filled_places_of_all_ranks(bag_size, dtype, ranks):
    outputs, gradients = zip(
        *(rank["embedding of filled places"][bag_size, dtype] for rank in ranks), strict=True
    )
    table, bags, grad_output = split_worker.embedding_inputs(bag_size, dtype)
    bags = split_worker.bags_with_empty_places(bags)
    table = table.double().requires_grad_()
    means = []
    for bag in bags.flatten(0, 1).tolist():
        rows = [table[token] for token in bag if token != EMPTY]
        means.append(sum(rows) / len(rows) if rows else table[0] * 0.0)
    mean = torch.stack(means).view(B, L, HIDDEN)
    mean.backward(grad_output.double())
    bound = {"rtol": 1e-5, "atol": 1e-6}
    if dtype == torch.bfloat16:
        bound = {"rtol": 0.02, "atol": 0.05}

    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0][2, 3] == 0.0).all()
    torch.testing.assert_close(outputs[0].double(), mean.detach(), **bound)
    torch.testing.assert_close(torch.cat(gradients).double(), table.grad, **bound)
    # The first row of a shard stands in for places that are empty or another rank's.
    for gradient in gradients:
        assert (gradient[0] == 0.0).all()


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_bag_of_one_is_the_stock_look_up(sequence_parallel, ranks):
    for rank in ranks:
        ours = rank["embedding"][1, torch.float32, sequence_parallel]
        stock = rank["stock embedding"][sequence_parallel]
        assert torch.equal(ours[0], stock[0])
        assert torch.equal(ours[1], stock[1])


def test_collectives_do_not_grow_with_the_bag(ranks):
    mce, mce_alt, embedding, fused_mce, fused_mce_alt, chunked = ranks[0]["traffic"]
    assert mce == [L * B, L * B, L * B]
    assert chunked == mce, "not over all rows at once"
    assert mce_alt == [L * B, L * B * 6, L * B]
    assert embedding == [L * B * HIDDEN]
    # As in Megatron's fused loss.
    assert fused_mce == [L * B, 2 * L * B]
    assert fused_mce_alt == [L * B, L * B * (6 + 1)]
