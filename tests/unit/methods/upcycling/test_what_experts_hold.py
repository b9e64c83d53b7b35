"""What experts hold and give: against an MLP worked out in float64, and what is refused."""

import math
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

from tst_megatron.errors import UserError
from tst_megatron.methods.upcycling.experts import Upcycling, experts_of
from tst_megatron.methods.upcycling.values import Values

HIDDEN, UNITS, TOKENS = 12, 24, 50
RUN = {
    "num_layers": 2,
    "hidden_size": HIDDEN,
    "ffn_hidden_size": UNITS,
    "num_experts": 8,
    "moe_ffn_hidden_size": UNITS,
    "moe_layer_freq": 1,
    "moe_router_topk": 2,
    "moe_router_pre_softmax": False,
    "moe_router_score_function": "softmax",
    "moe_router_topk_scaling_factor": None,
    "moe_shared_expert_intermediate_size": None,
    "hybrid_layer_pattern": None,
    "linear_attention_freq": None,
    "mtp_num_layers": None,
    "swiglu": True,
    "squared_relu": False,
}


def args(**other) -> Namespace:
    return Namespace(**RUN | other)


def dense(**other) -> Namespace:
    return args(**{"num_experts": None, "moe_ffn_hidden_size": None} | other)


# Of shards whose number has a root without digits, so that nothing is rounded in float32.
EXACT = {
    "whole MLPs": {},
    "shards": {"moe_ffn_hidden_size": 6, "num_experts": 16, "moe_router_topk": 8},
    "one group": {"moe_ffn_hidden_size": 6, "num_experts": 8, "moe_router_topk": 4},
    "shared": {
        "moe_ffn_hidden_size": 4,
        "num_experts": 8,
        "moe_router_topk": 4,
        "moe_shared_expert_intermediate_size": 8,
    },
    "sigmoid": {"moe_router_score_function": "sigmoid"},
    "scaled weights": {"moe_router_topk_scaling_factor": 4.0},
    "an offset": {
        **{"moe_ffn_hidden_size": 6, "num_experts": 8, "moe_router_topk": 4},
        "glu_linear_offset": 1.0,
    },
    "squared ReLU": {
        **{"swiglu": False, "squared_relu": True, "moe_ffn_hidden_size": 3},
        **{"num_experts": 16, "moe_router_topk": 8},
    },
    "GELU": {
        **{"swiglu": False, "moe_ffn_hidden_size": 12},
        **{"num_experts": 4, "moe_router_topk": 2},
    },
    "before the softmax": {
        **{"moe_router_pre_softmax": True, "num_experts": 8, "moe_router_topk": 2},
        "router_std": 0.0,
    },
    "one sigmoid": {
        **{"moe_router_score_function": "sigmoid", "moe_router_topk": 1},
        **{"moe_router_topk_scaling_factor": 0.5, "router_std": 0.0},
    },
}


def activation(of: Namespace, fc1: np.ndarray) -> np.ndarray:
    if of.swiglu:
        gate, up = np.split(fc1, 2, axis=-1)
        up = up + getattr(of, "glu_linear_offset", 0)
        return gate / (1 + np.exp(-gate)) * up
    if of.squared_relu:
        return np.maximum(fc1, 0) ** 2
    return fc1 * (1 + np.vectorize(math.erf)(fc1 / np.sqrt(2))) / 2


def mlp(of: Namespace, x: np.ndarray, w1, b1, w2, b2) -> np.ndarray:
    as_float64 = [np.asarray(one, dtype=np.float64) for one in (w1, b1, w2, b2)]
    w1, b1, w2, b2 = as_float64
    return activation(of, x @ w1.T + b1) @ w2.T + b2


def weights_of(of: Namespace, logits: np.ndarray) -> np.ndarray:
    """As Megatron's router has them: of each token, by expert; 0 of those not chosen."""
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    scores = 1 / (1 + np.exp(-logits)) if of.moe_router_score_function == "sigmoid" else softmax
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, : of.moe_router_topk]
    kept = np.zeros_like(scores)
    np.put_along_axis(kept, chosen, np.take_along_axis(scores, chosen, axis=1), axis=1)
    is_even = not of.moe_router_pre_softmax and of.moe_router_topk > 1
    if of.moe_router_score_function == "softmax" and not of.moe_router_pre_softmax:
        is_even = True
    if is_even:
        kept /= kept.sum(axis=1, keepdims=True)
    return kept * (of.moe_router_topk_scaling_factor or 1.0)


@pytest.mark.parametrize("case", EXACT)
def test_experts_give_what_the_mlp_gave(case):
    settings = dict(EXACT[case])
    how = Upcycling(router_std=settings.pop("router_std", None))
    of = args(**settings)
    experts = experts_of(dense(swiglu=of.swiglu, squared_relu=of.squared_relu), of, how)
    assert experts.is_exact
    rng = np.random.default_rng(5)
    rows = 2 * UNITS if of.swiglu else UNITS
    has_bias = not experts.shared
    shapes = ((rows, HIDDEN), (rows,), (HIDDEN, UNITS), (HIDDEN,))
    parameters = [torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in shapes]
    if not has_bias:
        parameters[1].zero_(), parameters[3].zero_()
    x = rng.normal(size=(TOKENS, HIDDEN))
    values = Values(experts, how, seed=3)
    router = values.router(0, (experts.total, HIDDEN)).double().numpy()
    weights = weights_of(of, x @ (50 * router).T)
    names = [("linear_fc1", "weight"), ("linear_fc1", "bias")]
    names += [("linear_fc2", "weight"), ("linear_fc2", "bias")]
    found = np.zeros((TOKENS, HIDDEN))
    for expert in range(experts.total):
        own = [
            values.of_expert(whole, *name, 0, expert)
            for whole, name in zip(parameters, names, strict=True)
        ]
        assert own[0].shape[1] == HIDDEN
        found += weights[:, [expert]] * mlp(of, x, *own)
    if experts.shared:
        shared = [
            values.of_shared(whole, *name) for whole, name in zip(parameters, names, strict=True)
        ]
        found += mlp(of, x, *shared)
    wanted = mlp(of, x, *parameters)
    # Sums of a few hundred terms of float64, beside a root that float32 rounds where it does.
    roots = (experts.up, experts.down, experts.down_bias)
    is_rounded = any(np.float32(root) != root or root not in (0.25, 0.5, 1, 2, 4) for root in roots)
    eps = 2**-23 if is_rounded else 2**-52
    scale = np.abs(wanted).max()
    assert np.abs(found - wanted).max() < 100 * eps * scale


def test_what_is_not_exact_says_so():
    for how, settings in (
        (Upcycling(), {"moe_router_pre_softmax": True}),
        (Upcycling(is_scaled=False), {"moe_ffn_hidden_size": 12}),
        (Upcycling(drop=0.5), {}),
        (Upcycling(noise=0.1), {}),
        (Upcycling(), {"moe_router_topk": 1, "moe_router_score_function": "sqrtsoftplus"}),
        (Upcycling(), {"moe_router_load_balancing_type": "sinkhorn"}),
        (Upcycling(), {"moe_router_load_balancing_type": ["sinkhorn"]}),
        (Upcycling(), {"moe_expert_capacity_factor": 1.0}),
        (Upcycling(), {"bf16": True, "moe_ffn_hidden_size": 12}),
    ):
        assert not experts_of(dense(), args(**settings), how).is_exact
    for settings in ({}, {"bf16": True}):
        assert experts_of(dense(), args(**settings), Upcycling(is_scaled=False)).is_exact
    halves = {"bf16": True, "moe_ffn_hidden_size": 12, "moe_router_dtype": "fp32"}
    assert experts_of(dense(), args(**halves), Upcycling()).is_exact
    one = {"moe_router_topk": 1, "moe_router_load_balancing_type": "sinkhorn"}
    assert experts_of(dense(), args(**one), Upcycling(router_std=0.0)).is_exact


def test_scales_are_the_roots_of_what_is_missing():
    """E8G8T8 before the softmax: a = E G^2 / T = 64, so that up and down get 8 each."""
    of = args(num_experts=64, moe_ffn_hidden_size=3, moe_router_topk=8, moe_router_pre_softmax=True)
    experts = experts_of(dense(), of, Upcycling())
    assert (experts.shards, experts.up, experts.down) == (8, 8.0, 8.0)
    # Megatron's cube root is 4 (arXiv 2410.07524), exact of squared ReLU alone.
    squared = Namespace(**vars(of) | {"swiglu": False, "squared_relu": True})
    found = experts_of(dense(swiglu=False, squared_relu=True), squared, Upcycling())
    assert (found.up, found.down) == pytest.approx((4, 4))


def test_dropped_units_are_as_the_entries_that_they_replace():
    how = Upcycling(drop=0.5)
    of = args(hidden_size=400, ffn_hidden_size=600, moe_ffn_hidden_size=600)
    experts = experts_of(dense(hidden_size=400, ffn_hidden_size=600), of, how)
    values = Values(experts, how, seed=7)
    rng = np.random.default_rng(1)
    gate, up = (
        torch.tensor(rng.normal(mean, std, (600, 400)), dtype=torch.float32)
        for mean, std in ((1.0, 2.0), (-3.0, 0.5))
    )
    made = values.of_expert(torch.cat([gate, up]), "linear_fc1", "weight", 1, 2)
    units = values.dropped(1, 2)
    assert len(set(units.tolist())) == 300
    stay = torch.tensor(sorted(set(range(600)) - set(units.tolist())))
    for own, whole, mean, std in (
        (made[:600], gate, 1.0, 2.0),
        (made[600:], up, -3.0, 0.5),
    ):
        assert torch.equal(own[stay], whole[stay])
        drawn = own[units].double()
        # Five of its own standard errors, of 120,000 numbers.
        error = std / 120_000**0.5
        assert drawn.mean().item() == pytest.approx(mean, abs=5 * 2**0.5 * error)
        assert drawn.std().item() == pytest.approx(std, abs=5 * error)
        assert (
            torch.corrcoef(torch.stack([drawn.flatten(), whole[units].double().flatten()]))[
                0, 1
            ].abs()
            < 5 / 120_000**0.5
        )
    assert not torch.equal(values.dropped(1, 3), units)
    assert not torch.equal(values.dropped(0, 2), units)
    moments = values.moment(torch.ones(1200, 400), "linear_fc1", "weight", 1, 2, 1)
    assert not moments[units].any()
    assert not moments[600 + units].any()
    assert moments[stay].all()


@pytest.mark.parametrize(
    ("saved", "run", "said"),
    [
        ({}, {"num_experts": None}, "say how many with --num-experts"),
        ({}, {"moe_ffn_hidden_size": 7}, "7 does not divide the 24 units of the dense MLP"),
        (
            {},
            {"moe_ffn_hidden_size": 6, "num_experts": 6},
            "--num-experts 6 is no multiple of the 4",
        ),
        ({}, {"moe_ffn_hidden_size": 6}, "--moe-router-topk 2 is no multiple of the 4 shards"),
        ({}, {"moe_shared_expert_intermediate_size": 24}, "24 is not a number of shards of 24"),
        (
            {},
            {"moe_ffn_hidden_size": 6, "moe_shared_expert_intermediate_size": 4},
            "4 is not a number of shards of 6 units",
        ),
        ({"num_layers": 4}, {}, "the checkpoint has 4 and the run 2: grow it first"),
        ({}, {"hybrid_layer_pattern": "*E"}, "only one has a --hybrid-layer-pattern"),
        (
            {"hybrid_layer_pattern": "*-M"},
            {"hybrid_layer_pattern": "*EE"},
            "layer 2 is M in the checkpoint and E in the run",
        ),
        (
            {"hybrid_layer_pattern": "*-"},
            {"hybrid_layer_pattern": "*E", "mtp_num_layers": 1},
            "train the dense model without them",
        ),
        ({}, {"moe_layer_freq": [0, 0]}, "no layer has any: change --moe-layer-freq"),
        (
            {},
            {"moe_layer_freq": [0, 1], "ffn_hidden_size": 48, "moe_ffn_hidden_size": 24},
            "the layers that stay dense have 24 units in the checkpoint",
        ),
        ({}, {"moe_latent_size": 4}, "does not go with --moe-latent-size"),
        ({}, {"moe_shared_expert_gate": True}, "a gate would halve"),
        (
            {},
            {"moe_ffn_hidden_size": 6, "moe_router_topk": 4, "moe_router_num_groups": 4},
            "parts the 8 experts within an MLP, of which 4 hold one together",
        ),
        (
            {"num_experts": 4, "moe_router_enable_expert_bias": True},
            {},
            "has a bias of its experts, which would be lost",
        ),
        ({"num_experts": 3}, {}, "8 is no multiple of the checkpoint's 3"),
        ({"num_experts": 8}, {}, "the checkpoint has 8 already"),
        ({}, {"moe_router_topk": 9}, "--moe-router-topk 9 is more than the 8 experts"),
        ({}, {"moe_router_topk": 1}, "would learn nothing: add --moe-router-pre-softmax"),
        (
            {"num_experts": 4, "moe_ffn_hidden_size": 12},
            {},
            "--moe-ffn-hidden-size is 24 and the checkpoint's is 12",
        ),
    ],
)
def test_what_cannot_be_made(saved, run, said):
    with pytest.raises(UserError, match=said):
        experts_of(dense(**saved), args(**run), Upcycling())


def test_a_router_of_nothing_chooses_no_whole_mlps():
    of = args(moe_ffn_hidden_size=12)
    with pytest.raises(UserError, match="has all experts tie"):
        experts_of(dense(), of, Upcycling(router_std=0.0))


def test_which_layers_get_experts():
    some = experts_of(dense(num_layers=4), args(num_layers=4, moe_layer_freq=2), Upcycling())
    assert some.layers == {0, 2}
    patterns = {"hybrid_layer_pattern": "M-*-"}, {"hybrid_layer_pattern": "M-*E"}
    hybrid = experts_of(
        dense(num_layers=4, **patterns[0]), args(num_layers=4, **patterns[1]), Upcycling()
    )
    assert hybrid.layers == {3}


def test_a_group_has_each_shard_and_one_row():
    of = args(moe_ffn_hidden_size=6, num_experts=8, moe_router_topk=4)
    experts = experts_of(dense(), of, Upcycling())
    assert [experts.shard(one) for one in range(8)] == [0, 1, 2, 3] * 2
    assert [experts.row(one) for one in range(8)] == [0] * 4 + [1] * 4
    assert replace(experts, copied_from=2).row(5) == 1
