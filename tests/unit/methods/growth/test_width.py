"""Wider models against small ones, worked out in float64; what is new, and what is refused."""

import math
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from tst_megatron.errors import UserError
from tst_megatron.methods.growth.wider import Wider
from tst_megatron.methods.growth.width import (
    NEW,
    Width,
    in_words,
    small_in_words,
    tensors_of,
    width_between,
)
from tst_megatron.stock.sizes import Sizes, sizes_of

LAYERS, VOCABULARY, LENGTH, BATCH, EPSILON = 2, 11, 7, 3, 1e-5
SMALL = Sizes(12, 20, 4, 2, 6)
TWICE = Sizes(24, 40, 8, 4, 6)
MODEL = {
    "normalization": "RMSNorm",
    "swiglu": True,
    "squared_relu": False,
    "is_tied": False,
    "has_bias": False,
    "has_positions": False,
    "layernorm_zero_centered_gamma": False,
}
MODELS = {
    "llama": (SMALL, TWICE, {}),
    "gpt2": (
        replace(SMALL, num_query_groups=4),
        replace(TWICE, num_query_groups=8),
        {
            "normalization": "LayerNorm",
            "swiglu": False,
            "is_tied": True,
            "has_bias": True,
            "has_positions": True,
        },
    ),
    "squared relu, tied, norms less 1": (
        SMALL,
        TWICE,
        {
            "swiglu": False,
            "squared_relu": True,
            "is_tied": True,
            "layernorm_zero_centered_gamma": True,
        },
    ),
    "thrice, more heads a group": (SMALL, Sizes(36, 60, 12, 2, 6), {"has_bias": True}),
    "a group a head becomes grouped": (
        replace(SMALL, num_query_groups=4),
        Sizes(24, 20, 8, 4, 6),
        {"is_tied": True},
    ),
    "the MLP alone": (SMALL, replace(SMALL, ffn_hidden_size=40), {"normalization": "LayerNorm"}),
}


def args(**other) -> Namespace:
    return Namespace(**MODEL | other)


def shapes(of: Namespace, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of all parameters, by key, with layers in front of those within one."""
    hidden, heads = sizes.hidden_size, sizes.num_attention_heads * sizes.kv_channels
    qkv = heads + 2 * sizes.num_query_groups * sizes.kv_channels
    up = sizes.ffn_hidden_size * (2 if of.swiglu else 1)
    layer = {
        "self_attention.linear_qkv.layer_norm_weight": (hidden,),
        "self_attention.linear_qkv.weight": (qkv, hidden),
        "self_attention.linear_proj.weight": (hidden, heads),
        "pre_mlp_layernorm.weight": (hidden,),
        "mlp.linear_fc1.weight": (up, hidden),
        "mlp.linear_fc2.weight": (hidden, sizes.ffn_hidden_size),
    }
    if of.has_bias:
        layer |= {
            f"{name.removesuffix('weight')}bias": shape[:1]
            for name, shape in layer.items()
            if len(shape) == 2
        }
    if of.normalization == "LayerNorm":
        layer |= {
            "self_attention.linear_qkv.layer_norm_bias": (hidden,),
            "pre_mlp_layernorm.bias": (hidden,),
        }
    found = {f"{number}.{name}": shape for number in range(LAYERS) for name, shape in layer.items()}
    found["decoder.final_layernorm.weight"] = (hidden,)
    if of.normalization == "LayerNorm":
        found["decoder.final_layernorm.bias"] = (hidden,)
    found["embedding.word_embeddings.weight"] = (VOCABULARY, hidden)
    if of.has_positions:
        found["embedding.position_embeddings.weight"] = (LENGTH, hidden)
    if not of.is_tied:
        found["output_layer.weight"] = (VOCABULARY, hidden)
    return found


def small_model(of: Namespace, sizes: Sizes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.randn(shape, generator=generator) * (0.7 if len(shape) > 1 else 0.3)
        + (0 if len(shape) > 1 or key.endswith("bias") else 1)
        for key, shape in shapes(of, sizes).items()
    }


def name_of(key: str) -> tuple[int, str]:
    number, _, name = key.partition(".")
    return (int(number), name) if number.isdecimal() else (-1, key)


def grown(of: Namespace, width: Width, small: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kinds = tensors_of(width, of, of.is_tied)
    one = 0.0 if of.layernorm_zero_centered_gamma else 1.0
    wider = Wider(width.operator == "direct", 5, 0.3, one)
    found = {}
    for key, own in small.items():
        layer, name = name_of(key)
        found[key] = wider.parameter(own, kinds[name], layer, name)
    assert {key: tuple(value.shape) for key, value in found.items()} == shapes(of, width.large)
    return found


def in_float64(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.double().requires_grad_() for key, value in parameters.items()}


class Reference:
    """A GPTModel, as Megatron's parts have it, from parameters by key."""

    def __init__(self, of: Namespace, sizes: Sizes, epsilon: float = EPSILON) -> None:
        self.of, self.sizes, self.epsilon = of, sizes, epsilon

    def norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None):
        if self.of.normalization == "LayerNorm":
            x = x - x.mean(dim=-1, keepdim=True)
        x = x / (x.square().mean(dim=-1, keepdim=True) + self.epsilon).sqrt()
        x = x * (weight + (1 if self.of.layernorm_zero_centered_gamma else 0))
        return x if bias is None else x + bias

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary embeddings ``[b, L, heads, channels]``, of halves of a head."""
        half = self.sizes.kv_channels // 2
        angles = torch.outer(torch.arange(LENGTH).double(), 50.0 ** -(torch.arange(half) / half))
        cos, sin = (f(angles)[None, :, None] for f in (torch.cos, torch.sin))
        one, other = x.split(half, dim=-1)
        return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)

    def attention(self, x: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
        sizes = self.sizes
        groups, per_group, size = sizes.num_query_groups, sizes.heads_per_group, sizes.kv_channels
        mixed = self.linear(x, own, "self_attention.linear_qkv")
        mixed = mixed.view(BATCH, LENGTH, groups, per_group + 2, size)
        queries = self.turned(mixed[..., :per_group, :].flatten(2, 3))
        keys = self.turned(mixed[..., per_group, :]).repeat_interleave(per_group, dim=2)
        values = mixed[..., per_group + 1, :].repeat_interleave(per_group, dim=2)
        scores = torch.einsum("blhc,bmhc->bhlm", queries, keys) / math.sqrt(size)
        ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(ahead, -math.inf).softmax(dim=-1)
        given = torch.einsum("bhlm,bmhc->blhc", weights, values).flatten(2)
        return self.linear(given, own, "self_attention.linear_proj")

    def mlp(self, x: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
        up = self.linear(x, own, "mlp.linear_fc1")
        if self.of.swiglu:
            gate, up = up.chunk(2, dim=-1)
            up = torch.nn.functional.silu(gate) * up
        elif self.of.squared_relu:
            up = up.relu().square()
        else:
            up = torch.nn.functional.gelu(up)
        return self.linear(up, own, "mlp.linear_fc2")

    def linear(self, x: torch.Tensor, own: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        given = x @ own[f"{name}.weight"].T
        return given + own[f"{name}.bias"] if f"{name}.bias" in own else given

    def logits(self, parameters: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        table = parameters["embedding.word_embeddings.weight"]
        x = table[tokens]
        if self.of.has_positions:
            x = x + parameters["embedding.position_embeddings.weight"]
        for layer in range(LAYERS):
            own = {
                name_of(key)[1]: one for key, one in parameters.items() if name_of(key)[0] == layer
            }
            first = "self_attention.linear_qkv.layer_norm_"
            x = x + self.attention(
                self.norm(x, own[f"{first}weight"], own.get(f"{first}bias")), own
            )
            second = "pre_mlp_layernorm."
            x = x + self.mlp(self.norm(x, own[f"{second}weight"], own.get(f"{second}bias")), own)
        last = "decoder.final_layernorm."
        x = self.norm(x, parameters[f"{last}weight"], parameters.get(f"{last}bias"))
        return x @ parameters.get("output_layer.weight", table).T


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(9))


def loss(logits: torch.Tensor) -> torch.Tensor:
    targets = tokens().roll(1, dims=1).flatten()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)


# Sums of some tens of terms, layer after layer: of float64, and where a norm's weight is scaled and
# rounded to float32 once more, of that.
ROUNDED, EXACT = 100 * 2**-24, 1000 * 2**-53


@pytest.mark.parametrize("case", MODELS)
def test_copies_keep_the_function(case):
    small_sizes, large, settings = MODELS[case]
    of, width = args(**settings), Width("direct", small_sizes, large)
    small = small_model(of, small_sizes)
    wide = grown(of, width, small)
    wanted = Reference(of, small_sizes).logits(in_float64(small), tokens())
    found = Reference(of, large).logits(in_float64(wide), tokens())
    # Half of a float32 is one, but not of it and 1.
    bound = ROUNDED if of.layernorm_zero_centered_gamma else EXACT
    assert (found - wanted).abs().max() < bound * wanted.abs().max()
    if "hidden_size" in width.changed:
        key = "1.self_attention.linear_qkv.weight"
        assert not torch.equal(*pair_of_copies(wide[key], width, of, key))


def pair_of_copies(
    wide: torch.Tensor, width: Width, of: Namespace, key: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """What two copies of one unit give: as much, by other parts."""
    rows = tensors_of(width, of, of.is_tied)[name_of(key)[1]].axes[0]
    copies = [at for at, source in enumerate(rows.sources) if source == 0]
    return wide[copies[0]], wide[copies[-1]]


@pytest.mark.parametrize("case", MODELS)
def test_moments_are_of_the_gradients_that_copies_have(case):
    """Gradients of a unit's copies add up to the unit's, whatever the parts: each has its share."""
    small_sizes, large, settings = MODELS[case]
    of, width = args(**settings), Width("direct", small_sizes, large)
    small = in_float64(small_model(of, small_sizes))
    wide = in_float64(grown(of, width, {key: one.detach().float() for key, one in small.items()}))
    for parameters, sizes in ((small, small_sizes), (wide, large)):
        loss(Reference(of, sizes).logits(parameters, tokens())).backward()
    kinds = tensors_of(width, of, of.is_tied)
    wider = Wider(True, 5, 0.3, 1.0)
    for key, own in small.items():
        kind = kinds[name_of(key)[1]]
        at = 0 if kind.reads or len(kind.axes) == 1 else 1
        expected = wider.moment(own.grad, kind, 1).double()
        squares = wider.moment(own.grad.square(), kind, 2).double()
        torch.testing.assert_close(squares, expected.square(), rtol=1e-5, atol=1e-12)
        gradient = wide[key].grad
        if kind.axes[at] is not None:
            # Of all copies of a unit together.
            sources = torch.tensor(kind.axes[at].sources)
            total = [
                torch.zeros(
                    [kind.axes[at].small if i == at else n for i, n in enumerate(one.shape)],
                    dtype=torch.float64,
                ).index_add(at, sources, one)
                for one in (gradient, expected)
            ]
            gradient, expected = total
        scale = own.grad.abs().max()
        # The moment is worked out in float32.
        assert (gradient - expected).abs().max() < 10 * 2**-23 * scale, key


def test_parts_add_up_to_the_last_bit():
    width = Width("direct", SMALL, Sizes(36, 60, 12, 6, 6))
    of = args()
    kind = tensors_of(width, of, False)["mlp.linear_fc2.weight"]
    own = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
    own[0, :3] = torch.tensor([0.0, 1e-20, -3e15])
    for dtype in (torch.float32, torch.bfloat16):
        small = own.to(dtype)
        wide = Wider(True, 5, 0.3, 1.0).parameter(small, kind, 0, "mlp.linear_fc2.weight")
        assert wide.dtype == dtype
        total = torch.zeros(36, 20, dtype=torch.float64)
        total.index_add_(1, torch.tensor(kind.axes[1].sources), wide.double())
        assert torch.equal(total, small.double().repeat(3, 1))
        parts = wide.double().view(36, 3, 20)[1:12] / small.double()[1:, None]
        # Of three the least has 0.5 of 3.5, and the most 1.5 of 2.5; a bfloat16 has 8 bits.
        slack = 2 * torch.finfo(dtype).eps
        assert 1 / 7 - slack < parts.min() < 0.2
        assert 0.45 < parts.max() < 0.6 + slack


NEW_UNITS = {
    "llama": (SMALL, Sizes(20, 32, 6, 3, 6), {}),
    "tied, norms less 1": (
        SMALL,
        TWICE,
        {"is_tied": True, "layernorm_zero_centered_gamma": True},
    ),
    "gelu, biases, more heads a group": (
        SMALL,
        Sizes(18, 50, 6, 2, 6),
        {"swiglu": False, "has_bias": True},
    ),
    "the MLP alone": (SMALL, replace(SMALL, ffn_hidden_size=30), {"normalization": "LayerNorm"}),
}


@pytest.mark.parametrize("case", NEW_UNITS)
def test_new_units_leave_the_function(case):
    small_sizes, large, settings = NEW_UNITS[case]
    of, width = args(**settings), Width("zero", small_sizes, large)
    small = small_model(of, small_sizes)
    wide = in_float64(grown(of, width, small))
    wanted = Reference(of, small_sizes).logits(in_float64(small), tokens())
    scale = wanted.abs().max()
    # The mean is over more units, and so is what is added to it.
    share = small_sizes.hidden_size / large.hidden_size
    found = Reference(of, large, EPSILON * share).logits(wide, tokens())
    assert (found - wanted).abs().max() < (ROUNDED if share < 1 else EXACT) * scale
    # With the same one the wide model is the small one with so much a larger one.
    wanted = Reference(of, small_sizes, EPSILON / share).logits(in_float64(small), tokens())
    found = Reference(of, large).logits(wide, tokens())
    assert (found - wanted).abs().max() < (ROUNDED if share < 1 else EXACT) * scale
    # None is dead: all that is new learns within two steps.
    for _ in range(2):
        loss(Reference(of, large).logits(wide, tokens())).backward()
        wide = {key: (one - 0.1 * one.grad).detach().requires_grad_() for key, one in wide.items()}
    loss(Reference(of, large).logits(wide, tokens())).backward()
    for key, one in wide.items():
        rows = one.grad if one.dim() > 1 else one.grad[:, None]
        is_table = "embedding" in key
        # A word that no text has, learns nothing.
        assert rows.any(dim=0).all(), key
        assert is_table or rows.any(dim=1).all(), key


def test_moments_of_new_units_are_0():
    width = Width("zero", SMALL, TWICE)
    kinds = tensors_of(width, args(), False)
    wider = Wider(False, 5, 0.3, 1.0)
    own = torch.rand(12, 24, generator=torch.Generator().manual_seed(1)) + 1
    kind = kinds["self_attention.linear_proj.weight"]
    found = wider.moment(own, kind, 2)
    assert torch.equal(found[:12, :24], own)
    assert found.count_nonzero() == own.numel()
    norm = wider.moment(own[:, 0], kinds["pre_mlp_layernorm.weight"], 2)
    # Weights are the root of a half of what they were, and gradients the root of two.
    torch.testing.assert_close(norm[:12], 2 * own[:, 0])
    assert not norm[12:].any()


def test_where_heads_go():
    width = Width("direct", Sizes(8, 8, 4, 2, 2), Sizes(16, 8, 16, 4, 2))
    kinds = tensors_of(width, args(), False)
    first = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]
    group = [*first, *(8 + one for one in first)]
    assert kinds["self_attention.linear_qkv.weight"].axes[0].sources == (*group, *group)
    heads = [0, 1, 2, 3] * 2 + [4, 5, 6, 7] * 2
    assert kinds["self_attention.linear_proj.weight"].axes[1].sources == (*heads, *heads)
    zero = tensors_of(replace(width, operator="zero"), args(), False)
    new = [NEW] * 4
    own = [0, 1, 2, 3, *new, 4, 5, 6, 7], [8, 9, 10, 11, *new, 12, 13, 14, 15]
    sources = (*own[0], *own[1], *[NEW] * 24)
    assert zero["self_attention.linear_qkv.weight"].axes[0].sources == sources


RUN = {
    "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4, "kv_channels": 8,
    "group_query_attention": False, "num_query_groups": 1, "swiglu": True, "num_layers": 2,
    "normalization": "RMSNorm",
}  # fmt: skip
WIDE = {"hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 8}


def test_sizes_before_validation_are_those_after_it():
    given = Namespace(**RUN | {"kv_channels": None, "ffn_hidden_size": None, "hidden_size": 192})
    assert sizes_of(given) == Sizes(192, 512, 4, 4, 48)
    width = width_between("direct", Namespace(**RUN), Namespace(**RUN | WIDE))
    assert width.changed["num_query_groups"] == [4, 8]
    assert in_words(width.changed) == "hidden size 32 to 64"
    assert small_in_words({"ffn_hidden_size": [64, 128]}) == "feed-forward size 64"


@pytest.mark.parametrize(
    ("operator", "small", "large", "said"),
    [
        ("direct", {}, {}, "has hidden size 32, feed-forward size 64 and 4 heads as the wide"),
        ("direct", {}, WIDE | {"hidden_size": 48}, "--hidden-size 48 is no multiple of .* 32"),
        ("direct", {}, WIDE | {"ffn_hidden_size": 96}, "--ffn-hidden-size 96 is no multiple"),
        ("zero", {}, WIDE | {"ffn_hidden_size": 32}, "32 is less than the checkpoint's 64"),
        (
            "direct",
            {},
            WIDE | {"num_attention_heads": 4, "kv_channels": None},
            "have 8 channels and the wide model's 16: change --num-attention-heads, or give "
            "--kv-channels 8",
        ),
        (
            "direct",
            {"group_query_attention": True, "num_query_groups": 2},
            WIDE | {"group_query_attention": True, "num_query_groups": 8},
            "1 a query group in the wide model cannot hold the checkpoint's 2",
        ),
        ("zero", {"normalization": "LayerNorm"}, WIDE, "change the mean that --normalization"),
        ("direct", {"num_experts": 4}, WIDE, "does not know how to widen experts"),
        ("direct", {"hybrid_layer_pattern": "M*"}, WIDE, "to widen a hybrid model's layers"),
        ("direct", {}, WIDE | {"multi_latent_attention": True}, "to widen latent attention"),
        ("direct", {"mtp_num_layers": 1}, WIDE, "to widen heads of multi-token prediction"),
        ("direct", {"attention_output_gate": True}, WIDE, "to widen gates of attention"),
        ("direct", {"linear_attention_freq": 2}, WIDE, "to widen attention of another kind"),
        ("direct", {"softmax_type": "learnable"}, WIDE, "to widen --softmax-type learnable"),
        ("zero", {}, WIDE | {"use_mup": True}, "whose rates and scales follow its width"),
    ],
)
def test_what_does_not_widen(operator, small, large, said):
    with pytest.raises(UserError, match=said):
        width_between(operator, Namespace(**RUN | small), Namespace(**RUN | large))
