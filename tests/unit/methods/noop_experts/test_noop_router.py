"""Routers with no-op experts against plain arithmetic in float64: what a layer gives, its
gradients, and its balancing losses, however Megatron's flags have the choice.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

L, B, H, E, N, K = 6, 2, 16, 4, 3, 2
CHOICES: dict[str, dict[str, Any]] = {
    "softmax of the chosen": {},
    "softmax before the choice": {"moe_router_pre_softmax": True},
    "sigmoid with biases": {
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_topk_scaling_factor": 2.5,
    },
}


@pytest.fixture
def build(model_parallel) -> Callable[..., Any]:
    """A layer with experts in float64."""
    from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.moe.moe_layer import MoELayer

    from tst_megatron.methods.noop_experts.model import add_to_all

    def build(number: int = N, **settings: Any) -> MoELayer:
        model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        torch.manual_seed(5)
        config = TransformerConfig(
            **{
                "num_layers": 2,
                "hidden_size": H,
                "num_attention_heads": 4,
                "num_moe_experts": E,
                "moe_ffn_hidden_size": 8,
                "moe_router_topk": K,
                "moe_token_dispatcher_type": "alltoall",
                "moe_router_load_balancing_type": "none",
                "moe_aux_loss_coeff": 0.0,
                "add_bias_linear": False,
                "gated_linear_unit": True,
                "activation_func": torch.nn.functional.silu,
                "bias_activation_fusion": False,
                "init_method_std": 0.5,
                **settings,
            }
        )
        made = get_moe_module_spec(use_te=False, num_experts=E, moe_grouped_gemm=False)
        layer: MoELayer = made(config, layer_number=2).double()
        layer.set_layer_number(2)
        if number:
            add_to_all([layer], number, seed=7)
        return layer

    return build


def scores(router: Any, hidden: Tensor) -> Tensor:
    """``[tokens, E + N]``, float64, written out."""
    return hidden.reshape(-1, H) @ router.weight.t()


def weights(router: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of every expert and no-op for every token, and which are chosen, token by
    token and choice by choice."""
    config, rows, chosen = router.config, [], []
    for logit in logits:
        sigmoid = config.moe_router_score_function == "sigmoid"
        score = logit.sigmoid() if sigmoid else logit.exp()
        by = score + router.expert_bias.double() if sigmoid else score
        best = by.argsort(descending=True)[:K]
        chosen.append(torch.isin(torch.arange(E + N), best))
        whole = score.sum() if config.moe_router_pre_softmax else score[best].sum()
        row = torch.where(chosen[-1], score / whole, 0.0)
        rows.append(row * (config.moe_router_topk_scaling_factor or 1.0))
    return torch.stack(rows), torch.stack(chosen)


def reference(layer: Any, hidden: Tensor) -> Tensor:
    """Every expert on every token, weighed; no-ops add nothing."""
    given, _ = weights(layer.router, scores(layer.router, hidden))
    rows = hidden.reshape(-1, H)
    out = torch.zeros_like(rows)
    for expert, mlp in enumerate(layer.experts.local_experts):
        gate, up = (rows @ mlp.linear_fc1.weight.t()).chunk(2, dim=-1)
        units = torch.nn.functional.silu(gate) * up
        out = out + given[:, expert : expert + 1] * (units @ mlp.linear_fc2.weight.t())
    return out.view_as(hidden)


def gradients(layer: Any, hidden: Tensor, out: Tensor, grad: Tensor) -> dict[str, Tensor]:
    names = dict(layer.named_parameters())
    found = torch.autograd.grad(out, [hidden, *names.values()], grad)
    return dict(zip(["input", *names], found, strict=True))


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    hidden, grad = torch.randn((2, L, B, H), generator=generator, dtype=torch.float64)
    return hidden.requires_grad_(), grad


# Megatron's scores are in float32: half a dozen operations that err by 2^-24 each, of terms that
# are several times as large as what is left of them in a router's gradient. Of 300 draws none was
# 20 of these apart.
TOLERANCE = 64 * 2.0**-24


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
@pytest.mark.parametrize("choice", CHOICES)
def test_no_ops_add_nothing_and_the_others_their_probability(
    build, generator, choice: str, dispatcher: str
) -> None:
    layer = build(moe_token_dispatcher_type=dispatcher, **CHOICES[choice])
    if layer.router.expert_bias is not None:
        layer.router.expert_bias[::2] = 0.1
    hidden, grad = draw(generator)
    out, _ = layer(hidden)
    expected = reference(layer, hidden)
    assert (out - expected).norm() <= TOLERANCE * expected.norm()
    ours, theirs = (gradients(layer, hidden, one, grad) for one in (out, expected))
    for name, one in theirs.items():
        assert (ours[name] - one).norm() <= TOLERANCE * max(1.0, one.norm()), name
    # Some tokens have both, and some choices are of nobody.
    _, chosen = weights(layer.router, scores(layer.router, hidden))
    choices, noops = layer.router.noops.trained.take("cpu").tolist()
    assert (choices, noops) == (L * B * K, int(chosen[:, E:].sum()))
    assert 0 < noops < choices


def test_where_all_choose_nothing_a_layer_gives_nothing(build, generator) -> None:
    layer = build(moe_router_score_function="sigmoid", moe_router_enable_expert_bias=True)
    layer.router.expert_bias[E:] = 10.0
    hidden, grad = draw(generator)
    out, _ = layer(hidden)
    assert not out.any()
    assert not any(one.any() for one in gradients(layer, hidden, out, grad).values())


@pytest.mark.parametrize("choice", CHOICES)
def test_no_ops_that_cannot_be_chosen_leave_the_plain_layer(build, generator, choice: str) -> None:
    """Gradients too; where the last of so many sigmoids stand, they round otherwise."""
    plain, ours = build(0, **CHOICES[choice]), build(**CHOICES[choice])
    for name, one in plain.named_parameters():
        other = dict(ours.named_parameters())[name]
        # The first rows of the router are those of a run without them.
        assert torch.equal(one, other[: one.shape[0]]), name
    gating = ours.router.gating

    def never(hidden: Tensor) -> Tensor:
        logits = gating(hidden)
        return logits.masked_fill(torch.arange(E + N) >= E, float("-inf"))

    ours.router.gating = never
    hidden, grad = draw(generator)
    found = []
    for layer in (plain, ours):
        out, _ = layer(hidden)
        found.append({"out": out, **gradients(layer, hidden, out, grad)})
    for name, one in found[0].items():
        apart = found[1][name][: one.shape[0]] - one
        assert apart.norm() <= TOLERANCE * max(1.0, one.norm()), name
        assert choice == "sigmoid with biases" or not apart.any(), name


def test_losses_balance_all_of_them(build, generator) -> None:
    """``E + N`` times the sum of shares of choices and mean probabilities, and the z-loss."""
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    layer = build(
        moe_router_load_balancing_type=["aux_loss", "seq_aux_loss", "global_aux_loss"],
        moe_aux_loss_coeff=[0.3, 0.2, 0.1],
        moe_z_loss_coeff=0.05,
    )
    MoEAuxLossAutoScaler.main_loss_backward_scale = None
    hidden, grad = draw(generator)
    out, _ = layer(hidden)
    logits = scores(layer.router, hidden)
    probability = logits.softmax(-1).view(L, B, E + N)
    _, chosen = weights(layer.router, logits)
    taken = chosen.double().view(L, B, E + N)
    whole = (E + N) * (taken.mean((0, 1)) / K * probability.mean((0, 1))).sum()
    by_sequence = (E + N) * (taken.mean(0) / K * probability.mean(0)).sum(-1).mean()
    z_loss = logits.logsumexp(-1).square().mean()
    loss = 0.4 * whole + 0.2 * by_sequence + 0.05 * z_loss
    both = (reference(layer, hidden) * grad).sum() + loss
    weight = layer.router.weight
    theirs, ours = (torch.autograd.grad(one, weight)[0] for one in (both, (out * grad).sum()))
    assert (ours - theirs).norm() <= TOLERANCE * max(1.0, theirs.norm())


def test_what_megatron_counts_of_each_expert_counts_no_ops_too(build, generator) -> None:
    """So that a bias draws choices to and from them."""
    from megatron.core.transformer.moe.moe_utils import get_updated_expert_bias

    layer = build(**CHOICES["sigmoid with biases"])
    hidden, _ = draw(generator)
    layer(hidden)
    router = layer.router
    _, chosen = weights(router, scores(router, hidden))
    assert torch.equal(router.local_tokens_per_expert, chosen.sum(0).float())
    moved = get_updated_expert_bias(router.local_tokens_per_expert, router.expert_bias, 1e-3)
    assert torch.equal(moved.sign(), (L * B * K / (E + N) - chosen.sum(0)).sign().float())


def test_what_is_computed_again_is_counted_once(build, generator) -> None:
    from megatron.core.tensor_parallel import checkpoint

    layer = build()
    hidden, grad = draw(generator)
    checkpoint(lambda one: layer(one)[0], False, hidden).backward(grad)
    assert layer.router.noops.trained.take("cpu")[0] == L * B * K


def test_what_is_only_filled_up_is_not_counted(build, generator) -> None:
    layer = build().eval()
    hidden, _ = draw(generator)
    fills = torch.zeros(B, L, dtype=torch.bool)
    fills[0, 4:] = True
    with torch.no_grad():
        layer(hidden, padding_mask=fills)
    assert layer.router.noops.read.take("cpu")[0] == (L * B - 2) * K
    assert not layer.router.noops.trained.take("cpu").any()


def test_layers_draw_rows_of_their_own(build) -> None:
    from tst_megatron.methods.noop_experts.router import add_noops

    first = build()
    second = build(0)
    second.set_layer_number(1)
    add_noops(second.router, N, seed=7)
    rows, others = first.router.weight[E:], second.router.weight[E:]
    assert not torch.equal(rows, others)
    assert float(rows.std()) == pytest.approx(0.5, rel=0.3)
    assert first.config.num_moe_experts == E
