"""Norms with a weight around 0, against float64."""

from argparse import Namespace

import pytest
import torch
from megatron.core.transformer.torch_norm import WrappedTorchNorm

EPS = 1e-5


def made(normalization: str, sequence_parallel: bool = False) -> torch.nn.Module:
    """As Megatron's layers make their norms."""
    config = Namespace(
        normalization=normalization,
        layernorm_zero_centered_gamma=True,
        sequence_parallel=sequence_parallel,
        persist_layer_norm=False,
        memory_efficient_layer_norm=False,
    )
    return WrappedTorchNorm(config=config, hidden_size=8, eps=EPS)


def reference(x, weight, bias):
    """In float64, from the definition."""
    x = x.double()
    if bias is not None:
        x = x - x.mean(-1, keepdim=True)
    y = x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * (1 + weight.double())
    return y if bias is None else y + bias.double()


@pytest.mark.parametrize("normalization", ["LayerNorm", "RMSNorm"])
def test_values_and_gradients(normalization: str) -> None:
    torch.manual_seed(1)
    norm = made(normalization)
    names = ["weight", "bias"] if normalization == "LayerNorm" else ["weight"]
    assert [name for name, _ in norm.named_parameters()] == names
    assert all(not parameter.any() for parameter in norm.parameters())
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, upstream = torch.randn(5, 3, 8, requires_grad=True), torch.randn(5, 3, 8)
    inputs = [x, *norm.parameters()]
    found = norm(x)
    wanted = reference(x, norm.weight, getattr(norm, "bias", None))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(wanted, inputs, upstream.double()),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalization", ["LayerNorm", "RMSNorm"])
def test_bfloat16_is_rounded_once(normalization: str) -> None:
    torch.manual_seed(1)
    norm = made(normalization).to(torch.bfloat16)
    # 1 + weight would be rounded, too.
    torch.nn.init.constant_(norm.weight, 0.0035)
    x = torch.randn(64, 8, dtype=torch.bfloat16)
    wanted = reference(x, norm.weight, getattr(norm, "bias", None))
    found = norm(x)
    assert found.dtype == torch.bfloat16
    # Half a unit in the last of 8 binary places, and what float32 may be off by.
    bound = wanted.abs() * 2**-8 + 1e-6
    assert ((found.double() - wanted).abs() <= bound).all()


def test_a_split_sequence_is_marked() -> None:
    assert all(p.sequence_parallel for p in made("RMSNorm", sequence_parallel=True).parameters())
