"""The loss of hidden states whose logits are made in chunks: numbers, memory, Megatron's fusion."""

from types import SimpleNamespace

import pytest
import torch
from reference import (
    assert_within,
    filled_weights,
    of_hidden_states,
    scheme_weights,
)

from tst_megatron.methods.superposition.bags import EMPTY, bag_weights
from tst_megatron.methods.superposition.chunked_logits import chunked_multi_hot_cross_entropy
from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy

# 15 rows; 301 ids are three blocks of 128 and one of 45 where a chunk has 4 rows.
L, B, VOCABULARY, HIDDEN = 5, 3, 301, 24


def draw(generator, bag_size, dtype=torch.float32):
    """Hidden states, weight, targets and the gradient that comes back."""
    targets = torch.randint(0, VOCABULARY, (L, B, bag_size), generator=generator)
    # Ids at the edges of blocks, and one that fills a bag.
    targets[0, 0] = torch.tensor([0, 127, 128, 255, 256, 300])[:bag_size]
    targets[1, 0] = 128
    return (
        torch.randn(L, B, HIDDEN, generator=generator).to(dtype),
        torch.randn(VOCABULARY, HIDDEN, generator=generator).div(2).to(dtype),
        targets,
        torch.randn(L, B, generator=generator),
    )


def trained(loss_of, hidden, weight, grad_output):
    """Loss and gradients by name, of copies."""
    hidden, weight = (given.detach().clone().requires_grad_() for given in (hidden, weight))
    loss = loss_of(hidden, weight)
    loss.backward(grad_output)
    return {"loss": loss.detach(), "hidden": hidden.grad, "weight": weight.grad}


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("objective", "bag_size"), [("mce", 1), ("mce", 6), ("mce-alt", 6)])
def test_loss_and_gradients_are_those_of_the_logits(
    objective, bag_size, dtype, chunk_size, generator
):
    hidden, weight, targets, grad_output = draw(generator, bag_size, dtype)
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = EMPTY
    targets[2, 1] = EMPTY
    of_place, weights = None, None
    if objective == "mce":
        weights = bag_weights("power", bag_size)
        of_place = filled_weights(scheme_weights("power", bag_size), targets)

    results = trained(
        lambda h, w: chunked_multi_hot_cross_entropy(
            h, w, targets, weights, objective=objective, chunk_size=chunk_size
        ),
        hidden,
        weight,
        grad_output,
    )

    assert results["loss"].dtype == torch.float32
    assert results["hidden"].dtype == results["weight"].dtype == dtype
    assert_within(results, of_hidden_states(hidden, weight, targets, of_place, grad_output))
    assert results["loss"][2, 1] == 0.0
    assert (results["hidden"][2, 1] == 0.0).all()


@pytest.mark.parametrize("given", [False, True], ids=["shares", "of-every-position"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_chunk_is_the_whole_loss(dtype, given, generator):
    # The same products, so the same bits; smaller ones may be added up in another order.
    hidden, weight, targets, grad_output = draw(generator, 6, dtype)
    weights = torch.rand(targets.shape if given else 6, generator=generator)
    whole = trained(
        lambda h, w: multi_hot_cross_entropy(h @ w.t(), targets, weights),
        hidden,
        weight,
        grad_output,
    )
    ours = trained(
        lambda h, w: chunked_multi_hot_cross_entropy(h, w, targets, weights, chunk_size=15),
        hidden,
        weight,
        grad_output,
    )
    for name, value in ours.items():
        assert torch.equal(value, whole[name]), name


def test_a_frozen_weight_gets_no_gradient(generator):
    # As the heads of multi-token prediction have it under --mtp-detach-heads.
    hidden, weight, targets, grad_output = draw(generator, 6)
    leaf = hidden.clone().requires_grad_()
    chunked_multi_hot_cross_entropy(leaf, weight, targets, chunk_size=4).backward(grad_output)
    both = trained(
        lambda h, w: chunked_multi_hot_cross_entropy(h, w, targets, chunk_size=4),
        hidden,
        weight,
        grad_output,
    )
    assert weight.grad is None
    assert torch.equal(leaf.grad, both["hidden"])


@pytest.fixture
def fusion(monkeypatch):
    """Apex's kernels as products in float32, and Transformer Engine's stand-in for a gradient."""
    from megatron.core.tensor_parallel import layers

    def accumulate(rows, gradient, main_grad):
        main_grad += (gradient.float().t() @ rows.float()).to(main_grad.dtype)

    kernels = SimpleNamespace(wgrad_gemm_accum_fp32=accumulate, wgrad_gemm_accum_fp16=accumulate)
    monkeypatch.setattr(layers, "fused_weight_gradient_mlp_cuda", kernels, raising=False)
    asked = []

    def stand_in(shape, dtype, zero=False):
        asked.append((shape, dtype, zero))
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setattr(layers, "get_dummy_wgrad", stand_in, raising=False)
    return asked


@pytest.mark.parametrize("main_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_te", [False, True], ids=["apex", "te"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_fused_gradient_is_where_megatrons_layer_puts_it(
    tied, with_te, main_dtype, fusion, model_parallel, monkeypatch, generator
):
    from megatron.core.tensor_parallel import layers

    monkeypatch.setattr(layers, "HAVE_TE", with_te)
    hidden, drawn, targets, grad_output = draw(generator, 6, torch.bfloat16)
    before = torch.randn(drawn.shape, generator=generator).to(main_dtype)

    def weight_of():
        weight = torch.nn.Parameter(drawn.clone())
        weight.main_grad, weight.grad_added_to_main_grad = before.clone(), False
        if tied:
            weight.zero_out_wgrad = True
        return weight

    stock, ours = weight_of(), weight_of()
    logits = layers.linear_with_grad_accumulation_and_async_allreduce(
        hidden, stock, None, True, False, False, tp_group=model_parallel
    )
    multi_hot_cross_entropy(logits, targets).backward(grad_output)
    chunked_multi_hot_cross_entropy(
        hidden, ours, targets, chunk_size=4, gradient_accumulation_fusion=True
    ).backward(grad_output)

    assert ours.grad_added_to_main_grad is stock.grad_added_to_main_grad is True
    # What the hooks of the parameter are given; without zeros it is whatever was there.
    assert (ours.grad.shape, ours.grad.dtype) == (stock.grad.shape, stock.grad.dtype)
    if tied:
        assert torch.equal(ours.grad, stock.grad)
    assert fusion == [fusion[0]] * 2 if with_te else fusion == []
    weights = filled_weights(scheme_weights("uniform", 6), targets)
    true, error = of_hidden_states(hidden, drawn, targets, weights, grad_output)["weight"]
    # On top of what was there, and rounded to what that is.
    rounding = 2**-8 if main_dtype == torch.bfloat16 else 2**-23
    error += rounding * (true.abs() + error + before.double().abs())
    for weight in (stock, ours):
        assert ((weight.main_grad.double() - before.double() - true).abs() <= error).all()


def test_what_does_not_fit_is_named():
    hidden, weight = torch.zeros(L, B, HIDDEN), torch.zeros(VOCABULARY, HIDDEN)
    with pytest.raises(ValueError, match="chunk size 0 is no number of rows"):
        chunked_multi_hot_cross_entropy(
            hidden, weight, torch.zeros(L, B, dtype=torch.int64), chunk_size=0
        )
    with pytest.raises(ValueError, match=r"targets \[.*\] do not fit hidden states \[5, 3, 24\]"):
        chunked_multi_hot_cross_entropy(
            hidden, weight, torch.zeros(B, L, dtype=torch.int64), chunk_size=1
        )
