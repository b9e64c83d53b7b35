"""Which models grow in width, into which, and where each unit of the wider one comes from.

The one idea: growth in width is a list a kind of unit (of the residual stream, of MLPs, of heads):
unit i of the wide model copies unit ``list[i]`` of the small one, or is new. A tensor's axes are of
such kinds, so that the lists say which of its numbers go where.
"""

from dataclasses import dataclass, fields
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.stock.layer_kinds import pattern_of
from tst_megatron.stock.sizes import Sizes, sizes_of

OPERATORS = ("direct", "zero")
"""``direct`` copies every unit as often as it takes and splits what reads the copies among them
(Net2Net, bert2BERT: G_direct of arXiv 2405.15319); ``zero`` adds units that give nothing at first.
"""
NEW = -1
"""In place of a source: a unit that copies none."""

SIZES = tuple(field.name for field in fields(Sizes))
"""Megatron's arguments that say how wide a model is."""
MAY_DIFFER = frozenset((*SIZES, "group_query_attention"))
_WORDS = {
    "hidden_size": "hidden size {}",
    "ffn_hidden_size": "feed-forward size {}",
    "num_attention_heads": "{} heads",
    "num_query_groups": "{} query groups",
}


@dataclass(frozen=True)
class Width:
    """How wide a model was, and is to be.

    Attributes:
        operator: one of `OPERATORS`.
        small: widths of the checkpoint's model.
        large: of the wide one.
    """

    operator: str
    small: Sizes
    large: Sizes

    @property
    def changed(self) -> dict[str, list[int]]:
        """What grows, by Megatron's names, from how much to how much."""
        sizes = {name: [getattr(one, name) for one in (self.small, self.large)] for name in SIZES}
        return {name: both for name, both in sizes.items() if both[0] != both[1]}


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor.

    Attributes:
        small: its length in the small model.
        sources: of each place of the wide one the place that it copies; `NEW` of none.
    """

    small: int
    sources: tuple[int, ...]

    @property
    def is_as_it_was(self) -> bool:
        """Whether nothing grows along it."""
        return self.sources == tuple(range(self.small))


@dataclass(frozen=True)
class Tensor:
    """What becomes of one kind of tensor.

    Attributes:
        axes: of it, without one of layers; None for one of any length that stays, such as that of a
            vocabulary.
        reads: whether the last axis is of units that a matrix reads; else it is of what it gives.
        writes: whether it gives to the residual stream.
        is_norm: whether it is a norm's weight.
        scale: that it is multiplied by, a norm's weight or bias.
    """

    axes: tuple[Axis | None, ...]
    reads: bool = False
    writes: bool = False
    is_norm: bool = False
    scale: float = 1.0

    @property
    def is_as_it_was(self) -> bool:
        """Whether the wide model has the small one's, as it is."""
        return self.scale == 1 and all(axis is None or axis.is_as_it_was for axis in self.axes)


def width_between(operator: str, saved: Any, args: Any) -> Width:
    """How a checkpoint's model becomes as wide as a run's.

    Args:
        operator: one of `OPERATORS`.
        saved: the checkpoint's arguments.
        args: the run's.

    Raises:
        UserError: it cannot.
    """
    for model in (saved, args):
        if what := _unknown(model):
            raise UserError(
                f"--grow-width is of dense GPTModels, and does not know how to widen {what}: grow "
                "in depth, with --grow, or train the wide model from the start"
            )
    width = Width(operator, sizes_of(saved), sizes_of(args))
    _check_sizes(width)
    if operator == "zero" and "hidden_size" in width.changed and saved.normalization != "RMSNorm":
        raise UserError(
            f"--grow-width zero adds units of 0 to the residual stream, which change the mean that "
            f"--normalization {saved.normalization} takes, and the function with it: give "
            "--grow-width direct, or keep --hidden-size"
        )
    return width


def _unknown(args: Any) -> str | None:
    """What of a model has weights that are not known to widen, in words."""

    def has(name: str) -> bool:
        return bool(getattr(args, name, None))

    softmax = getattr(args, "softmax_type", None)
    found = {
        "a hybrid model's layers (--hybrid-layer-pattern)": pattern_of(args) is not None,
        "experts (--num-experts)": has("num_experts"),
        "latent attention (--multi-latent-attention)": has("multi_latent_attention"),
        "heads of multi-token prediction (--mtp-num-layers)": has("mtp_num_layers"),
        "gates of attention (--attention-output-gate)": has("attention_output_gate"),
        "attention of another kind (--experimental-attention-variant)": (
            has("experimental_attention_variant") or has("linear_attention_freq")
        ),
        f"--softmax-type {softmax}": softmax not in (None, "vanilla"),
        "a model whose rates and scales follow its width (--use-mup)": has("use_mup"),
        "layers of a shape each (--heterogeneous-layers-config-path)": (
            has("heterogeneous_layers_config_path")
            or has("heterogeneous_layers_config_encoded_json")
        ),
    }
    return next((what for what, is_there in found.items() if is_there), None)


def _check_sizes(width: Width) -> None:
    small, large = width.small, width.large
    if not width.changed:
        raise UserError(
            f"--grow-width {width.operator}: the checkpoint has hidden size {small.hidden_size}, "
            f"feed-forward size {small.ffn_hidden_size} and {small.num_attention_heads} heads as "
            "the wide model has: raise --hidden-size, or leave --grow-width out"
        )
    if large.kv_channels != small.kv_channels:
        raise UserError(
            f"--grow-width keeps heads as large as they are, and the checkpoint's have "
            f"{small.kv_channels} channels and the wide model's {large.kv_channels}: change "
            f"--num-attention-heads, or give --kv-channels {small.kv_channels}"
        )
    for name in SIZES[:-1]:
        before, now = getattr(small, name), getattr(large, name)
        flag = f"--{name.replace('_', '-')}"
        if now < before:
            raise UserError(
                f"--grow-width makes a model wider, and {flag} {now} is less than the "
                f"checkpoint's {before}: raise it"
            )
        if width.operator == "direct" and now % before:
            raise UserError(
                f"--grow-width direct copies each unit as often as any other, and {flag} {now} is "
                f"no multiple of the checkpoint's {before}: change it, or give --grow-width zero"
            )
    heads, before = large.heads_per_group, small.heads_per_group
    if heads < before or (width.operator == "direct" and heads % before):
        raise UserError(
            f"--grow-width {width.operator} keeps heads together that share keys and values, and "
            f"{heads} a query group in the wide model cannot hold the checkpoint's {before}: "
            "change --num-query-groups or --num-attention-heads"
        )


def tensors_of(width: Width, args: Any, is_tied: bool) -> dict[str, Tensor]:
    """What becomes of each tensor, by its name within its layer, or its whole key outside.

    Args:
        width: of the two models.
        args: the checkpoint's arguments.
        is_tied: whether the output layer reads the table of embeddings.
    """
    small, large = width.small, width.large
    is_direct = width.operator == "direct"
    units = (small.ffn_hidden_size, large.ffn_hidden_size)
    hidden = _axis(is_direct, small.hidden_size, large.hidden_size)
    ffn = _axis(is_direct, *units)
    up = _beside(ffn, ffn) if getattr(args, "swiglu", False) or _is_quick_geglu(args) else ffn
    qkv, heads = _qkv(width), _heads(width)
    times = large.hidden_size / small.hidden_size
    # RMSNorm divides by the root of a mean over more units, of which the new ones are 0.
    of_norm = 1.0 if is_direct else times**-0.5
    found = {
        "self_attention.linear_qkv.weight": Tensor((qkv, hidden), reads=True),
        "self_attention.linear_qkv.bias": Tensor((qkv,)),
        "self_attention.linear_proj.weight": Tensor((hidden, heads), reads=True, writes=True),
        "self_attention.linear_proj.bias": Tensor((hidden,), writes=True),
        # One head's, for all of them.
        "self_attention.q_layernorm.weight": Tensor((None,)),
        "self_attention.q_layernorm.bias": Tensor((None,)),
        "self_attention.k_layernorm.weight": Tensor((None,)),
        "self_attention.k_layernorm.bias": Tensor((None,)),
        "mlp.linear_fc1.weight": Tensor((up, hidden), reads=True),
        "mlp.linear_fc1.bias": Tensor((up,)),
        "mlp.linear_fc2.weight": Tensor((hidden, ffn), reads=True, writes=True),
        "mlp.linear_fc2.bias": Tensor((hidden,), writes=True),
        "embedding.word_embeddings.weight": Tensor((None, hidden), writes=True),
        "embedding.position_embeddings.weight": Tensor((None, hidden), writes=True),
        "output_layer.weight": Tensor((None, hidden), reads=True),
    }
    for name in ("self_attention.linear_qkv.layer_norm_", "mlp.linear_fc1.layer_norm_"):
        found[f"{name}weight"] = Tensor((hidden,), is_norm=True, scale=of_norm)
        found[f"{name}bias"] = Tensor((hidden,))
    for name in ("input_layernorm", "pre_mlp_layernorm"):
        found[f"{name}.weight"] = Tensor((hidden,), is_norm=True, scale=of_norm)
        found[f"{name}.bias"] = Tensor((hidden,))
    # What reads copies is split among them; a table that gives copies cannot be, so that where it
    # is the output layer, too, it is given so much less to read.
    last = 1 / times if is_direct and is_tied else of_norm
    found["decoder.final_layernorm.weight"] = Tensor((hidden,), is_norm=True, scale=last)
    of_bias = last if is_direct else 1.0
    found["decoder.final_layernorm.bias"] = Tensor((hidden,), scale=of_bias)
    return found


def _is_quick_geglu(args: Any) -> bool:
    return bool(getattr(args, "quick_geglu", False))


def _axis(is_direct: bool, small: int, large: int) -> Axis:
    """Unit i copies unit i mod the small model's; or what is more than those is new."""
    return Axis(small, tuple(i % small if is_direct or i < small else NEW for i in range(large)))


def _beside(one: Axis, other: Axis) -> Axis:
    """The places of one axis, and then those of another."""
    shifted = (source if source == NEW else source + one.small for source in other.sources)
    return Axis(one.small + other.small, (*one.sources, *shifted))


def _groups(width: Width) -> list[tuple[int, list[int]]]:
    """Of each query group of the wide model its source, and the sources of its heads within it."""
    is_direct, per_group = width.operator == "direct", width.small.heads_per_group
    groups = _axis(is_direct, width.small.num_query_groups, width.large.num_query_groups)
    heads = _axis(is_direct, per_group, width.large.heads_per_group)
    return [
        (group, [NEW if group == NEW else head for head in heads.sources])
        for group in groups.sources
    ]


def _channels(head: int, size: int) -> list[int]:
    """Places of a head's channels, which stay together, as a rotation turns pairs of them."""
    return [NEW] * size if head == NEW else [head * size + channel for channel in range(size)]


def _heads(width: Width) -> Axis:
    """What the output projection reads: head after head."""
    small, size = width.small, width.small.kv_channels
    sources: list[int] = []
    for group, heads in _groups(width):
        for head in heads:
            place = NEW if head == NEW else group * small.heads_per_group + head
            sources += _channels(place, size)
    return Axis(small.num_attention_heads * size, tuple(sources))


def _qkv(width: Width) -> Axis:
    """What ``linear_qkv`` gives: of a query group its heads' queries, its keys, its values; then of
    the next (``get_query_key_value_tensors`` in megatron/core/transformer/attention.py).
    """
    small, size = width.small, width.small.kv_channels
    per_group = small.heads_per_group
    sources: list[int] = []
    for group, heads in _groups(width):
        for part in (*heads, *(NEW if group == NEW else per_group + one for one in range(2))):
            place = NEW if part == NEW else group * (per_group + 2) + part
            sources += _channels(place, size)
    return Axis(small.num_query_groups * (per_group + 2) * size, tuple(sources))


def in_words(changed: dict[str, list[int]]) -> str:
    """Such as ``hidden size 128 to 256``: the first of what grew.

    Args:
        changed: as `Width.changed` has it.
    """
    name = next(one for one in _WORDS if one in changed)
    before, now = changed[name]
    return _WORDS[name].format(f"{before} to {now}")


def small_in_words(changed: dict[str, list[int]]) -> str:
    """Such as ``hidden size 128``: what the model was that grew. As `in_words`."""
    name = next(one for one in _WORDS if one in changed)
    return _WORDS[name].format(changed[name][0])
