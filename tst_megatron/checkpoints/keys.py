"""What a key of a distributed checkpoint names: a tensor of the model, or a state kept of one.

The one idea: Megatron keeps an optimizer's state under the parameter's own key behind a prefix, and
the layers of a model either as one tensor with an axis of layers, where all are alike, or under a
number each. What a key says of state, layer and name within it is read here and nowhere else.
"""

import re
from dataclasses import dataclass

# chained_…: of several optimizers in one, where Megatron is told to number them.
_STATE = re.compile(
    r"(?P<prefix>(?:chained_\d+\.)?optimizer\.state\.(?P<state>[^.]+)\.)(?P<own>.+)"
)
_OPTIMIZER = re.compile(r"(?:chained_\d+\.)?optimizer\.")
_LAYER = re.compile(r"(?P<before>decoder\.layers\.)(?:(?P<number>\d+)\.)?(?P<name>.+)")
_EXPERT = re.compile(r"(?:^|\.)experts\.experts\.(?:(?P<number>\d+)\.)?")
_SHARD = re.compile(r"(?P<key>.+)/shard_(?P<offset>[\d.]+)_(?P<shape>[\d.]+)")
_ROUTINE = ("common_state/", "rng_state/", "rerun_state_machine_state/")

MASTERS = ("fp32_param", "param")
"""States that are the parameter itself in full precision: of Megatron's plain optimizer with bf16
or fp16 parameters, and of its distributed one."""

POWERS = {"exp_avg": 1, "exp_avg_sq": 2}
"""Moments that follow a parameter through a change of scale: which power of its gradient they are
means of.
"""

_NORMS = (
    ("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."),
    ("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
    ("mixer.in_proj.layer_norm_", "norm."),
)
"""What the keys of a layer's norms begin with: where it is one with the linear layer behind it, and
where it stands apart."""

_BUFFERS = ("expert_bias", "local_tokens_per_expert")
"""Tensors of a model that no optimizer steps."""


@dataclass(frozen=True)
class Key:
    """A key, taken apart.

    Attributes:
        prefix: in front of the parameter's own key; empty of the model's tensors.
        state: of the optimizer, such as ``exp_avg``; None of the model's tensors.
        own: the model's key.
        layer: number of the decoder's layer; None where the tensor has an axis of layers.
        name: within its layer; None of what is in no layer of the decoder.
    """

    prefix: str
    state: str | None
    own: str
    layer: int | None
    name: str | None

    @property
    def has_layer_axis(self) -> bool:
        """Whether the first axis counts the decoder's layers."""
        return self.name is not None and self.layer is None

    @property
    def is_moment(self) -> bool:
        """Whether it is a state that is no copy of the parameter."""
        return self.state is not None and self.state not in MASTERS

    @property
    def is_parameter(self) -> bool:
        """Whether it is a tensor of the model that an optimizer steps."""
        return self.state is None and self.own.rpartition(".")[2] not in _BUFFERS

    @property
    def has_expert_axis(self) -> bool:
        """Whether the first axis, behind that of layers, counts experts."""
        found = _EXPERT.search(self.own)
        return found is not None and found.group("number") is None

    @property
    def expert(self) -> int | None:
        """Number of the expert, where the key has it."""
        found = _EXPERT.search(self.own)
        return None if found is None or not found.group("number") else int(found.group("number"))

    def of_layer(self, layer: int) -> str:
        """The whole key, of another layer; the same where layers are an axis."""
        return f"{self.prefix}{self.own}" if self.layer is None else self.numbered(layer)

    def numbered(self, layer: int) -> str:
        """The whole key, of a layer of the decoder's under its number."""
        return f"{self.prefix}{self._before}{layer}.{self.name}"

    @property
    def with_axis(self) -> str:
        """The whole key, where layers are an axis."""
        return f"{self.prefix}{self._before}{self.name}"

    @property
    def _before(self) -> str:
        """What is in front of the name, without the number."""
        assert self.name is not None
        number = "" if self.layer is None else f"{self.layer}."
        return self.own.removesuffix(f"{number}{self.name}")


def key_of(text: str) -> Key:
    """A key of a tensor, or of an object without its shard."""
    state = _STATE.fullmatch(text)
    own = text if state is None else state.group("own")
    layer = _LAYER.fullmatch(own)
    return Key(
        prefix="" if state is None else state.group("prefix"),
        state=None if state is None else state.group("state"),
        own=own,
        layer=None
        if layer is None or layer.group("number") is None
        else int(layer.group("number")),
        name=None if layer is None else layer.group("name"),
    )


def other_norm(name: str) -> str | None:
    """The key of a norm in layers of the other kind, Megatron's own or Transformer Engine's.

    Args:
        name: within the layer.

    Returns:
        None of what is no such norm.
    """
    for pair in (*_NORMS, *(pair[::-1] for pair in _NORMS)):
        if name.startswith(pair[0]):
            return pair[1] + name.removeprefix(pair[0])
    return None


def is_of_optimizer(text: str) -> bool:
    """Whether a key is of an optimizer's state, by parameter or not."""
    return _OPTIMIZER.match(text) is not None


def is_of_model(text: str) -> bool:
    """Whether a key is of the model: neither of its optimizer nor of the run."""
    return not is_of_optimizer(text) and not text.startswith(_ROUTINE)


@dataclass(frozen=True)
class Shard:
    """Which part of a sharded object a key names.

    Attributes:
        key: without it.
        offset: place in the grid.
        shape: of the grid.
    """

    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """As ``ShardedObject.unique_key`` in megatron/core/dist_checkpointing/mapping.py."""
        places = (".".join(map(str, numbers)) for numbers in (self.offset, self.shape))
        return f"{self.key}/shard_{'_'.join(places)}"


def shard_of(text: str) -> Shard | None:
    """The shard that an object's key names; None of other keys."""
    found = _SHARD.fullmatch(text)
    if found is None:
        return None
    offset, shape = (
        tuple(int(number) for number in found.group(name).split("."))
        for name in ("offset", "shape")
    )
    return Shard(found.group("key"), offset, shape)
