"""What a decoder is, told apart from how either side spells it; and what has no such shape.

The one idea: every argument of Megatron's that changes what a model computes is either in a `Shape`
or has the one value that Hugging Face's models of these families have. What is neither is refused
by its name: a model that would load without a word and be another is worse than none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.stock.layer_kinds import kinds_of, pattern_of
from tst_megatron.stock.sizes import sizes_of
from tst_megatron.stock.unheeded import ROPE_SCALING_FACTOR

ROPE_SCALING = {
    "factor": ROPE_SCALING_FACTOR,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What ``--use-rope-scaling`` is in megatron/core/models/common/embeddings/rotary_pos_embedding.py.
The factor is the model's default: ``gpt_config_from_args`` hands no other on (`stock.unheeded`).
"""


@dataclass(frozen=True)
class Layer:
    """One layer: attention, and an MLP or experts behind it.

    Attributes:
        has_rope: whether its attention turns queries and keys by their positions.
        has_experts: whether experts stand in the place of its MLP.
    """

    has_rope: bool = True
    has_experts: bool = False


@dataclass(frozen=True)
class Experts:
    """Experts of the layers that have some.

    Attributes:
        number: of them.
        topk: that work on a token.
        ffn_size: units of one.
        are_renormalised: whether the weights of the chosen ones add up to 1.
        aux_loss: coefficient of the loss that balances them.
    """

    number: int
    topk: int
    ffn_size: int
    are_renormalised: bool
    aux_loss: float = 0.0


@dataclass(frozen=True)
class Shape:
    """A decoder with RMSNorm before attention and MLP, SwiGLU and no biases but those of queries,
    keys and values.

    Attributes:
        layers: of it.
        hidden_size: H.
        heads: n, of queries.
        groups: G, of keys and values.
        head_size: d.
        ffn_size: F, of an MLP.
        experts: None where no layer has some.
        vocab_size: V, rows of the embedding that stand for a token.
        ties_embeddings: whether the embedding is the output's matrix, too.
        has_qk_norm: whether queries and keys are normalised, a head at a time.
        has_qkv_bias: whether queries, keys and values have a bias.
        norm_epsilon: of the norms.
        rotary_base: of RoPE.
        has_rope_scaling: whether it is scaled as Llama 3's, by `ROPE_SCALING`.
        max_positions: that the model was made for.
        init_std: of the weights at the start.
    """

    layers: tuple[Layer, ...]
    hidden_size: int
    heads: int
    groups: int
    head_size: int
    ffn_size: int
    experts: Experts | None
    vocab_size: int
    ties_embeddings: bool
    has_qk_norm: bool
    has_qkv_bias: bool
    norm_epsilon: float
    rotary_base: float
    has_rope_scaling: bool
    max_positions: int
    init_std: float

    @property
    def qkv_rows(self) -> int:
        """Rows of Megatron's matrix of queries, keys and values."""
        return self.groups * (self.heads // self.groups + 2) * self.head_size


# What a model must have to be one of these, by argument: values of which it has one (a list's
# members each), and the words for what it is otherwise. The first is Megatron's default, and so
# what is taken where a checkpoint of another version does not say; `_DEFAULTS` has other defaults.
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "normalization": (("RMSNorm",), "norms with means and biases"),
    "swiglu": ((True,), "an MLP without SwiGLU's gate"),
    "add_bias_linear": ((False,), "biases in its linear layers"),
    "position_embedding_type": (("rope",), "positions other than RoPE's"),
    "rotary_percent": ((1.0,), "RoPE on a part of each head"),
    "rotary_interleaved": ((False, None), "RoPE that pairs neighbours"),
    "rotary_seq_len_interpolation_factor": ((None, 1), "interpolated positions"),
    "multi_latent_attention": ((False, None), "latent attention"),
    "experimental_attention_variant": ((None,), "another kind of attention"),
    "linear_attention_freq": ((None,), "linear attention"),
    "heterogeneous_layers_config_path": ((None,), "layers that differ one by one"),
    "heterogeneous_layers_config_encoded_json": ((None,), "layers that differ one by one"),
    "window_size": ((None,), "attention in a window"),
    "softmax_type": (("vanilla", None), "a softmax with an offset"),
    "softmax_scale": ((None,), "a scale of its own in attention"),
    "attention_output_gate": ((False, None), "a gate behind attention"),
    "qk_l2_norm": ((False, None), "queries and keys of length 1"),
    "layernorm_zero_centered_gamma": ((False, None), "norms whose weights are stored less 1"),
    "apply_layernorm_1p": ((False, None), "norms whose weights are stored less 1"),
    "apply_residual_connection_post_layernorm": ((False, None), "a residual behind the norm"),
    "glu_linear_offset": ((0.0, 0, None), "an offset in SwiGLU"),
    "activation_func_clamp_value": ((None,), "clamped activations"),
    "use_mup": ((False, None), "µP's multipliers"),
    "embedding_hidden_size": ((None,), "an embedding of another width"),
    "squared_relu": ((False, None), "another activation"),
    "quick_geglu": ((False, None), "another activation"),
    "openai_gelu": ((False, None), "another activation"),
    "moe_shared_expert_intermediate_size": ((None, 0), "a shared expert"),
    "moe_latent_size": ((None,), "experts of a smaller width"),
    "moe_router_score_function": (("softmax", None), "a router without softmax"),
    "moe_router_enable_expert_bias": ((False, None), "a bias in its router's choice"),
    "moe_router_topk_scaling_factor": ((None, 1.0), "scaled weights of experts"),
    "moe_router_num_groups": ((None,), "a router that chooses groups first"),
    "moe_router_group_topk": ((None,), "a router that chooses groups first"),
    # As it was called before.
    "moe_router_topk_limited_devices": ((None,), "a router that chooses groups first"),
    "moe_router_load_balancing_type": (
        ("aux_loss", "seq_aux_loss", "global_aux_loss", "none", None),
        "a router that balances otherwise than by a loss",
    ),
    "moe_router_force_load_balancing": ((False, None), "a router that chooses at random"),
    "moe_router_force_biased": ((None,), "a router that is pushed"),
    "moe_expert_capacity_factor": ((None,), "experts that drop tokens"),
    "moe_apply_probs_on_input": ((False, None), "weights before the experts"),
    "moe_mlp_glu_interleave_size": ((None,), "gate and up of experts interleaved"),
    "moe_single_grouped_weight": ((False, None), "experts in one parameter"),
    "yaml_cfg": ((None,), "a configuration of its own"),
}
_DEFAULTS = {
    "normalization": "LayerNorm",
    "swiglu": False,
    "add_bias_linear": True,
    "position_embedding_type": "learned_absolute",
}
# Of these, which a model without experts is not asked for.
_OF_EXPERTS = "moe_"
# Megatron's own layers, as its scripts for hybrid models name them (``--spec``).
_SPECS = (
    "local",
    "megatron.core.models.hybrid.hybrid_layer_specs",
    "megatron.core.models.mamba.mamba_layer_specs",
)


def shape_of(args: Any, vocab_size: int, ties_embeddings: bool) -> Shape:
    """A checkpoint's model.

    Args:
        args: Megatron's validated arguments, as the checkpoint has them.
        vocab_size: rows of the embedding that stand for a token.
        ties_embeddings: whether there is no output matrix.

    Raises:
        UserError: it has no such shape.
    """
    has_experts = bool(getattr(args, "num_experts", None))
    _check(args, has_experts)
    sizes = sizes_of(args)
    return Shape(
        layers=_layers(args),
        hidden_size=sizes.hidden_size,
        heads=sizes.num_attention_heads,
        groups=sizes.num_query_groups,
        head_size=sizes.kv_channels,
        ffn_size=sizes.ffn_hidden_size,
        experts=_experts(args) if has_experts else None,
        vocab_size=vocab_size,
        ties_embeddings=ties_embeddings,
        has_qk_norm=bool(getattr(args, "qk_layernorm", False)),
        has_qkv_bias=bool(getattr(args, "add_qkv_bias", False)),
        norm_epsilon=float(_first(args, ("norm_epsilon", "layernorm_epsilon"), 1e-5)),
        rotary_base=float(_first(args, ("rotary_base",), 10000)),
        has_rope_scaling=_has_rope_scaling(args),
        max_positions=int(_first(args, ("max_position_embeddings", "seq_length"), 0)),
        init_std=float(_first(args, ("init_method_std",), 0.02)),
    )


def _check(args: Any, has_experts: bool) -> None:
    for name, (values, otherwise) in _ONLY.items():
        if name.startswith(_OF_EXPERTS) and not has_experts:
            continue
        found = getattr(args, name, _DEFAULTS.get(name, values[0]))
        if any(one not in values for one in (found if isinstance(found, list) else [found])):
            _refuse(name, found, otherwise)
    spec = getattr(args, "spec", None)
    if spec and spec[0] not in _SPECS:
        _refuse("spec", spec, "layers of its own")
    factor = getattr(args, "rope_scaling_factor", None)
    if _has_rope_scaling(args) and factor not in (None, ROPE_SCALING_FACTOR):
        raise UserError(
            f"the model was trained with --rope-scaling-factor {factor:g}, which some versions of "
            f"Megatron heed and others scale by {ROPE_SCALING_FACTOR:g} in place of, so that it "
            "cannot be told what its positions are: it stays in Megatron's format"
        )


def _has_rope_scaling(args: Any) -> bool:
    """A hybrid model is built without it, whatever the flag says."""
    return bool(getattr(args, "use_rope_scaling", False)) and pattern_of(args) is None


def _refuse(name: str, found: Any, otherwise: str) -> None:
    raise UserError(
        f"the model has {otherwise} (--{name.replace('_', '-')} {found}), which none of the "
        "families that can be written has: it stays in Megatron's format"
    )


def _layers(args: Any) -> tuple[Layer, ...]:
    kinds = kinds_of(args)
    if pattern_of(args) is None:
        ropes = _ropes(args, len(kinds))
        return tuple(
            Layer(has_rope, kind == "E") for kind, has_rope in zip(kinds, ropes, strict=True)
        )
    pairs = [kinds[first : first + 2] for first in range(0, len(kinds), 2)]
    if not all(pair in ("*-", "*E") for pair in pairs):
        raise UserError(
            f"the hybrid pattern {pattern_of(args)} is not attention and then an MLP or experts in "
            "turn (*-*- or *E*E), which the families that can be written are: it stays in "
            "Megatron's format"
        )
    ropes = _ropes(args, len(kinds))[::2]
    return tuple(Layer(has_rope, pair == "*E") for pair, has_rope in zip(pairs, ropes, strict=True))


def _ropes(args: Any, layers: int) -> list[bool]:
    """Whether each of Megatron's layers has RoPE (``TransformerConfig.no_rope_freq``)."""
    given = getattr(args, "no_rope_freq", None)
    if not given:
        return [True] * layers
    if isinstance(given, int):
        return [(layer + 1) % given != 0 for layer in range(layers)]
    return [not without for without in given]


def _experts(args: Any) -> Experts:
    coefficient = getattr(args, "moe_aux_loss_coeff", 0.0)
    if isinstance(coefficient, Sequence):
        coefficient = coefficient[0]
    return Experts(
        number=int(args.num_experts),
        topk=int(getattr(args, "moe_router_topk", 2)),
        ffn_size=int(getattr(args, "moe_ffn_hidden_size", None) or sizes_of(args).ffn_hidden_size),
        are_renormalised=not getattr(args, "moe_router_pre_softmax", False),
        aux_loss=float(coefficient or 0.0),
    )


def _first(args: Any, names: Sequence[str], default: Any) -> Any:
    found = (getattr(args, name, None) for name in names)
    return next((value for value in found if value is not None), default)


def flags_of(shape: Shape) -> dict[str, Any]:
    """Megatron's flags of a model, in recipes' spelling: true for a flag by itself.

    Args:
        shape: of the model.

    Raises:
        UserError: Megatron's models cannot have it.
    """
    flags: dict[str, Any] = {
        "num-layers": len(shape.layers),
        "hidden-size": shape.hidden_size,
        "ffn-hidden-size": shape.ffn_size,
        "num-attention-heads": shape.heads,
        "kv-channels": shape.head_size,
        "max-position-embeddings": shape.max_positions,
        "position-embedding-type": "rope",
        "rotary-base": _whole(shape.rotary_base),
        "normalization": "RMSNorm",
        "norm-epsilon": shape.norm_epsilon,
        "swiglu": True,
        "disable-bias-linear": True,
        "init-method-std": shape.init_std,
    }
    if shape.groups != shape.heads:
        flags |= {"group-query-attention": True, "num-query-groups": shape.groups}
    if not shape.ties_embeddings:
        flags["untie-embeddings-and-output-weights"] = True
    if shape.has_qk_norm:
        flags["qk-layernorm"] = True
    if shape.has_qkv_bias:
        flags["add-qkv-bias"] = True
    if shape.has_rope_scaling:
        flags["use-rope-scaling"] = True
    if not all(layer.has_rope for layer in shape.layers):
        flags["no-rope-freq"] = _listed(not layer.has_rope for layer in shape.layers)
    if shape.experts is not None:
        flags |= _flags_of_experts(shape, shape.experts)
    return flags


def _flags_of_experts(shape: Shape, experts: Experts) -> dict[str, Any]:
    flags: dict[str, Any] = {
        "num-experts": experts.number,
        "moe-router-topk": experts.topk,
        "moe-ffn-hidden-size": experts.ffn_size,
        "moe-router-load-balancing-type": "aux_loss",
        "moe-aux-loss-coeff": experts.aux_loss,
        "moe-token-dispatcher-type": "alltoall",
    }
    if not experts.are_renormalised:
        flags["moe-router-pre-softmax"] = True
    if not all(layer.has_experts for layer in shape.layers):
        flags["moe-layer-freq"] = _listed(layer.has_experts for layer in shape.layers)
    return flags


def _listed(marks: Any) -> str:
    return f"[{','.join(str(int(mark)) for mark in marks)}]"


def _whole(base: float) -> int:
    if not math.isfinite(base) or base != int(base):
        raise UserError(
            f"the model's rope_theta {base:g} is no whole number, which Megatron's --rotary-base "
            "takes alone: it cannot be read"
        )
    return int(base)
