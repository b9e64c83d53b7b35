"""The families of models that a shape may be, and their ``config.json``.

The one idea: a family is what it has beside a Llama, so that a shape is of one family or of none;
and its configuration is written in full, defaults too, because the families' defaults differ and
a field that is left out is another model's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.huggingface.shape import ROPE_SCALING, Experts, Layer, Shape
from tst_megatron.huggingface.weights import MIXTRAL, QWEN, Spelling


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        name: ``model_type`` of its configuration.
        architecture: class of its models in transformers.
        title: as people call it.
        own: fields of its configuration beside those that all have, of a shape.
        read: what those fields say: values of a `Shape`.
        spelling: of its experts.
    """

    name: str
    architecture: str
    title: str
    own: Callable[[Shape], dict[str, Any]]
    read: Callable[["Fields"], dict[str, Any]]
    spelling: Spelling = QWEN


def family_of(shape: Shape) -> "Family":
    """The family that a model is of.

    Raises:
        UserError: it is of none.
    """
    has_ropes = all(layer.has_rope for layer in shape.layers)
    if shape.has_qkv_bias and (shape.has_qk_norm or shape.experts is not None):
        _refuse(
            "biases of queries, keys and values (--add-qkv-bias) beside norms of them or experts"
        )
    if not has_ropes and (shape.has_qk_norm or shape.has_qkv_bias or shape.experts is not None):
        _refuse(
            "layers without RoPE (--no-rope-freq) beside experts, biases (--add-qkv-bias) or norms "
            "(--qk-layernorm) of queries and keys"
        )
    if shape.experts is None:
        if shape.has_qk_norm:
            return FAMILIES["qwen3"]
        if shape.has_qkv_bias:
            return FAMILIES["qwen2"]
        return FAMILIES["llama" if has_ropes else "smollm3"]
    if shape.has_qk_norm:
        return FAMILIES["qwen3_moe"]
    if not all(layer.has_experts for layer in shape.layers):
        _refuse(
            "experts in some layers (--moe-layer-freq) without norms of queries and keys "
            "(--qk-layernorm)"
        )
    if not shape.experts.are_renormalised:
        _refuse("softmax before top-k (--moe-router-pre-softmax) without --qk-layernorm")
    return FAMILIES["mixtral"]


def _refuse(what: str) -> None:
    raise UserError(
        f"the model has {what}, which none of {', '.join(FAMILIES)} has: it stays in Megatron's "
        "format"
    )


def config_of(shape: Shape, dtype: str, ids: Mapping[str, int | None]) -> dict[str, Any]:
    """A model's ``config.json``.

    Args:
        shape: of the model.
        dtype: of its weights, such as ``bfloat16``.
        ids: ``bos_token_id``, ``eos_token_id`` and ``pad_token_id``.

    Raises:
        UserError: it is of no family.
    """
    family = family_of(shape)
    rope = {"rope_type": "default", "rope_theta": shape.rotary_base}
    if shape.has_rope_scaling:
        rope |= {"rope_type": "llama3", **ROPE_SCALING}
    return {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_size,
        "num_hidden_layers": len(shape.layers),
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "initializer_range": shape.init_std,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": rope,
        # As transformers before 5, vLLM and llama.cpp read it.
        "rope_theta": shape.rotary_base,
        "rope_scaling": rope if shape.has_rope_scaling else None,
        "attention_dropout": 0.0,
        "tie_word_embeddings": shape.ties_embeddings,
        "use_cache": True,
        **{name: ids.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "dtype": dtype,
        "torch_dtype": dtype,
        **family.own(shape),
    }


class Fields:
    """A ``config.json`` as it is read: what is missing or of another kind is told by its name.

    Args:
        found: what is in it.
        where: the file, for sentences.
    """

    def __init__(self, found: Mapping[str, Any], where: str) -> None:
        self.found = found
        self.where = where

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.found.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{self.where} has {name} {value!r} where a whole number above 0 should be: it is "
                "no configuration of such a model"
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self.found.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.where} has {name} {value!r} where a number should be")
        return float(value)

    def truth(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.found.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UserError(f"{self.where} has {name} {value!r} where true or false should be")
        return value

    def marks(self, name: str, layers: int) -> list[int] | None:
        """A list with a number for each layer; None where there is none."""
        value = self.found.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers:
            raise UserError(f"{self.where} has {name} {value!r} where {layers} numbers should be")
        return [int(one) for one in value]

    def be(self, name: str, *values: Any) -> None:
        """Check that a field has one of the values, if it is there.

        Raises:
            UserError: it has another.
        """
        if name in self.found and self.found[name] not in (*values, None):
            raise UserError(
                f"{self.where} has {name} {self.found[name]!r}, which Megatron's decoder has not "
                "in this form: it cannot be read"
            )


def shape_of_config(found: Mapping[str, Any], where: str) -> tuple[Shape, Family]:
    """The model of a ``config.json``.

    Args:
        found: what is in it.
        where: the file, for sentences.

    Raises:
        UserError: it is of no family that is known, or has what Megatron's decoder has not.
    """
    fields = Fields(found, where)
    name = found.get("model_type")
    if name not in FAMILIES:
        raise UserError(
            f"{where} has model_type {name!r}, and what can be read is {', '.join(FAMILIES)}"
        )
    family = FAMILIES[str(name)]
    fields.be("hidden_act", "silu")
    if found.get("use_sliding_window", True):
        fields.be("sliding_window")
    fields.be("mlp_bias", False)
    fields.be("quantization_config")
    layers, heads = fields.whole("num_hidden_layers"), fields.whole("num_attention_heads")
    hidden = fields.whole("hidden_size")
    base, is_scaled = _rope(fields)
    values: dict[str, Any] = {
        "layers": (Layer(),) * layers,
        "hidden_size": hidden,
        "heads": heads,
        "groups": fields.whole("num_key_value_heads", heads),
        # Qwen3's default is a number of its own.
        "head_size": fields.whole("head_dim", 128 if name == "qwen3" else hidden // heads),
        "ffn_size": fields.whole("intermediate_size"),
        "experts": None,
        "vocab_size": fields.whole("vocab_size"),
        "ties_embeddings": fields.truth("tie_word_embeddings", name == "smollm3"),
        "has_qk_norm": False,
        "has_qkv_bias": False,
        "norm_epsilon": fields.number("rms_norm_eps", 1e-5 if name == "mixtral" else 1e-6),
        "rotary_base": base,
        "has_rope_scaling": is_scaled,
        "max_positions": fields.whole("max_position_embeddings"),
        "init_std": fields.number("initializer_range", 0.02),
    }
    shape = Shape(**values | family.read(fields))
    if shape.heads % shape.groups:
        raise UserError(
            f"{where} has {shape.heads} heads in {shape.groups} groups, which do not divide"
        )
    return shape, family


def _rope(fields: Fields) -> tuple[float, bool]:
    """RoPE's base, and whether it is scaled as Megatron scales it."""
    rope = fields.found.get("rope_parameters") or fields.found.get("rope_scaling") or {}
    fields.be("partial_rotary_factor", 1, 1.0)
    # A table for each kind of layer.
    if any(isinstance(value, dict) for value in rope.values()) or "partial_rotary_factor" in rope:
        raise UserError(
            f"{fields.where} has rope_parameters {rope}, which Megatron's decoder has not: it "
            "cannot be read"
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    defaults = {"smollm3": 2000000.0, "mixtral": 1e6}
    default = defaults.get(str(fields.found.get("model_type")), 10000.0)
    base = rope.get("rope_theta", fields.number("rope_theta", default))
    if kind == "default":
        return float(base), False
    if kind == "llama3" and all(rope.get(name) == value for name, value in ROPE_SCALING.items()):
        return float(base), True
    raise UserError(
        f"{fields.where} has RoPE scaled as {rope}, and Megatron's --use-rope-scaling is llama3 "
        f"with {ROPE_SCALING} alone: it cannot be read"
    )


def _llama(shape: Shape) -> dict[str, Any]:
    return {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}


def _read_llama(fields: Fields) -> dict[str, Any]:
    fields.be("attention_bias", False)
    fields.be("pretraining_tp", 1)
    return {}


def _smollm3(shape: Shape) -> dict[str, Any]:
    return {
        "attention_bias": False,
        "mlp_bias": False,
        # 1 has RoPE, where in Megatron's list 1 has none; the number would decide without it.
        "no_rope_layers": [int(layer.has_rope) for layer in shape.layers],
        "no_rope_layer_interval": 4,
        "layer_types": ["full_attention"] * len(shape.layers),
        "use_sliding_window": False,
        "sliding_window": None,
    }


def _read_smollm3(fields: Fields) -> dict[str, Any]:
    fields.be("attention_bias", False)
    number = fields.whole("num_hidden_layers")
    ropes = fields.marks("no_rope_layers", number)
    if ropes is None:
        every = fields.whole("no_rope_layer_interval", 4)
        ropes = [int((layer + 1) % every != 0) for layer in range(number)]
    return {"layers": tuple(Layer(has_rope=bool(has_rope)) for has_rope in ropes)}


def _qwen2(shape: Shape) -> dict[str, Any]:
    return {
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": len(shape.layers),
        "layer_types": ["full_attention"] * len(shape.layers),
    }


def _read_qwen2(fields: Fields) -> dict[str, Any]:
    fields.be("use_sliding_window", False)
    return {"has_qkv_bias": True}


def _qwen3(shape: Shape) -> dict[str, Any]:
    return _qwen2(shape) | {"attention_bias": False}


def _read_qwen3(fields: Fields) -> dict[str, Any]:
    fields.be("attention_bias", False)
    fields.be("use_sliding_window", False)
    return {"has_qk_norm": True}


def _qwen3_moe(shape: Shape) -> dict[str, Any]:
    assert shape.experts is not None
    return {
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "moe_intermediate_size": shape.experts.ffn_size,
        "num_experts": shape.experts.number,
        "num_experts_per_tok": shape.experts.topk,
        "norm_topk_prob": shape.experts.are_renormalised,
        "router_aux_loss_coef": shape.experts.aux_loss,
        "output_router_logits": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [
            number for number, layer in enumerate(shape.layers) if not layer.has_experts
        ],
    }


def _read_qwen3_moe(fields: Fields) -> dict[str, Any]:
    layers = fields.whole("num_hidden_layers")
    dense = fields.found.get("mlp_only_layers") or []
    step = fields.whole("decoder_sparse_step", 1)
    return _read_qwen3(fields) | {
        "layers": tuple(
            Layer(has_experts=layer not in dense and (layer + 1) % step == 0)
            for layer in range(layers)
        ),
        "experts": Experts(
            # The second is what transformers 5 writes.
            fields.whole("num_experts" if "num_experts" in fields.found else "num_local_experts"),
            fields.whole("num_experts_per_tok"),
            fields.whole("moe_intermediate_size"),
            fields.truth("norm_topk_prob", False),
            fields.number("router_aux_loss_coef", 0.001),
        ),
    }


def _mixtral(shape: Shape) -> dict[str, Any]:
    assert shape.experts is not None
    return {
        # Of an expert: no layer has another MLP.
        "intermediate_size": shape.experts.ffn_size,
        "num_local_experts": shape.experts.number,
        "num_experts_per_tok": shape.experts.topk,
        "router_aux_loss_coef": shape.experts.aux_loss,
        "router_jitter_noise": 0.0,
        "output_router_logits": False,
        "sliding_window": None,
    }


def _read_mixtral(fields: Fields) -> dict[str, Any]:
    layers = fields.whole("num_hidden_layers")
    return {
        "layers": (Layer(has_experts=True),) * layers,
        "experts": Experts(
            fields.whole("num_local_experts"),
            fields.whole("num_experts_per_tok"),
            fields.whole("intermediate_size"),
            True,
            fields.number("router_aux_loss_coef", 0.001),
        ),
    }


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "LlamaForCausalLM", "Llama", _llama, _read_llama),
        Family("smollm3", "SmolLM3ForCausalLM", "SmolLM3", _smollm3, _read_smollm3),
        Family("qwen2", "Qwen2ForCausalLM", "Qwen2", _qwen2, _read_qwen2),
        Family("qwen3", "Qwen3ForCausalLM", "Qwen3", _qwen3, _read_qwen3),
        Family("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3-MoE", _qwen3_moe, _read_qwen3_moe),
        Family("mixtral", "MixtralForCausalLM", "Mixtral", _mixtral, _read_mixtral, MIXTRAL),
    )
}
"""By ``model_type``."""
