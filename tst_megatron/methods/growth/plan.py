"""A grown model's checkpoint, planned from a small model's, without a model and without a GPU.

The one idea: of a grown model nearly all is in the small checkpoint already, so that a list which
names a layer's chunks several times is the grown checkpoint. New are zeros, where a layer is to be
silent or moments begin anew, the matrices that noise is added to, and all of what is wider. A plan
is written to disk, or read by a run as if it were.
"""

import argparse
import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

from tst_megatron.checkpoints.derived import (
    Copied,
    Made,
    NewTensor,
    Piece,
    Plan,
    Zeros,
    begin_anew,
)
from tst_megatron.checkpoints.keyed_noise import name_of, noise
from tst_megatron.checkpoints.keys import Key, Shard, is_of_optimizer, key_of, shard_of
from tst_megatron.checkpoints.saved import COMMON, Saved
from tst_megatron.errors import UserError
from tst_megatron.methods.growth.flags import check_noise
from tst_megatron.methods.growth.layers import GrowthFlags, LayerMap, layer_map
from tst_megatron.methods.growth.noise import is_matrix, is_output, standard_deviation
from tst_megatron.methods.growth.widened import AsItIs, Source, Widened
from tst_megatron.methods.growth.width import SIZES, Width, width_between
from tst_megatron.stock.layer_kinds import pattern_of

_ZEROS = Zeros()
_MAIN, _PIPE = "/", "|"  # Of a hybrid pattern: ends its main part; parts it into stages.


def _of_every(number: int, layers: int, at: int, hit: int) -> list[int]:
    """A value for each layer, another for each n-th one of them, counted from ``at``."""
    return [hit if (layer - at) % number == 0 else 1 - hit for layer in range(layers)]


_BY_LAYER: dict[str, Callable[[int, int], list[int]]] = {
    # megatron/core/models/gpt/gpt_layer_specs.py
    "moe_layer_freq": lambda number, layers: _of_every(number, layers, 0, 1),
    # megatron/core/models/gpt/experimental_attention_variant_module_specs.py
    "linear_attention_freq": lambda number, layers: _of_every(number, layers, number - 1, 0),
    # megatron/core/transformer/utils.py, is_layer_window_attention
    "window_attn_skip_freq": lambda number, layers: _of_every(number, layers, number - 1, 0),
    # megatron/core/transformer/transformer_config.py, which asks for whole patterns
    "no_rope_freq": lambda number, layers: (
        _of_every(number, layers, number - 1, 1) if layers % number == 0 else []
    ),
}
"""Megatron's arguments that say something of each layer: a list, or a number n for each n-th layer;
how a number is meant, of n and of layers."""


def plan_of(saved: Saved, growth: GrowthFlags, has_optimizer: bool = True) -> Plan:
    """What the grown checkpoint will hold.

    Args:
        saved: the small model's.
        growth: how it grows.
        has_optimizer: whether there will be a state of the optimizer in it.

    Raises:
        UserError: it cannot grow so.
    """
    check_noise(growth.noise)
    args = saved.args
    small = getattr(args, "num_layers", None)
    if not small:
        raise UserError(
            f"{saved.folder} has no arguments of Megatron's, so that its layers cannot be told: "
            "save it with Megatron's own trainer"
        )
    _check_arguments(saved, args)
    layers = layer_map(growth.operator, small, growth.large)
    width = None
    if growth.width is not None:
        width = width_between(growth.width, args, growth.wide)
    _check_tensors(saved, small)
    if has_optimizer:
        _check_optimizer(saved)
    source: Source = AsItIs(saved)
    if width is not None:
        keeps = growth.keeps_optimizer
        source = Widened(saved, width, _seed(args, growth), keeps, has_optimizer)
    hidden_size = int(args.hidden_size) if width is None else width.large.hidden_size
    tensors = _Tensors(source, growth, layers, has_optimizer, _seed(args, growth), hidden_size)
    return Plan(
        saved,
        int(saved.common["iteration"]),
        tuple(tensors.grown()),
        dict(_objects(saved, layers, has_optimizer)),
        _common(saved.common, growth, layers, width),
    )


def flags_of(common: Mapping[str, Any], before: argparse.Namespace) -> list[str]:
    """The flags of the model that the grown checkpoint needs and the small one did not.

    Args:
        common: state of the grown checkpoint.
        before: arguments of the small one.
    """
    args = common["args"]
    pattern = getattr(args, "hybrid_layer_pattern", None)
    flags = [
        f"--num-layers {args.num_layers}" if not pattern else f"--hybrid-layer-pattern '{pattern}'"
    ]
    for name in SIZES:
        # What it would be by itself, from the others, is another now.
        if getattr(args, name) != getattr(before, name) or (
            name == "kv_channels"
            and args.kv_channels * args.num_attention_heads != args.hidden_size
        ):
            flags.append(f"--{name.replace('_', '-')} {getattr(args, name)}")
    grouped = "group_query_attention"
    if getattr(args, grouped, False) and not getattr(before, grouped, False):
        flags.append("--group-query-attention")
    for name in _BY_LAYER:
        value = getattr(args, name, None)
        if value != getattr(before, name, None):
            flags.append(f"--{name.replace('_', '-')} '{value}'".replace(", ", ","))
    return flags


def _check_arguments(saved: Saved, args: argparse.Namespace) -> None:
    pattern = pattern_of(args)
    if pattern is not None and _PIPE in pattern:
        raise UserError(
            f"the hybrid pattern {pattern} of {saved.folder} is cut into pipeline stages by "
            f"'{_PIPE}', and where they would be cut in a deeper model is not known: save it once "
            "with a --hybrid-layer-pattern without them"
        )
    for name in ("heterogeneous_layers_config_path", "heterogeneous_layers_config_encoded_json"):
        if getattr(args, name, None):
            raise UserError(
                f"{saved.folder} has a shape of its own for each layer (--{name.replace('_', '-')})"
                ", which does not grow"
            )


def _check_tensors(saved: Saved, small: int) -> None:
    """Each tensor is of a layer, or of none."""
    numbered = {key.layer for key in map(key_of, saved.tensors) if key.layer is not None}
    has_axis = any(key_of(text).has_layer_axis for text in saved.tensors)
    if not has_axis and numbered != set(range(small)):
        raise UserError(
            f"{saved.folder} has not the {small} layers of its --num-layers under decoder.layers, "
            "so that it is no GPTModel or HybridModel and does not grow"
        )
    for text, listed in saved.tensors.items():
        if not key_of(text).has_layer_axis:
            continue
        if listed.size[0] != small or any(chunk.sizes[0] != 1 for chunk in listed.chunks):
            raise UserError(
                f"{text} in {saved.folder} is not stored layer by layer, as Megatron 0.19 does: "
                "load and save it once with that"
            )


def _check_optimizer(saved: Saved) -> None:
    """Each state is of a parameter."""
    keys = {text for text in saved.tensors if not is_of_optimizer(text)}
    objects = (shard.key if (shard := shard_of(text)) else text for text in saved.objects)
    for text in (*saved.tensors, *objects):
        if is_of_optimizer(text) and ((key := key_of(text)).state is None or key.own not in keys):
            content = saved.common.get("content_metadata") or {}
            kind = content.get("distrib_optim_sharding_type") or "of another kind"
            raise UserError(
                f"the optimizer's state in {saved.folder} is {kind}: cut into buckets and not by "
                "layers, the parameters' full precision too, so that it cannot grow here, with "
                "--grow-optimizer new neither: save it once in its own layout with "
                "--dist-ckpt-optim-fully-reshardable, or grow it as it is loaded, with pretrain "
                "--grow and --grow-optimizer new"
            )


class _Tensors:
    """The grown checkpoint's tensors.

    Args:
        source: the small one, as wide as the grown one.
        growth: how it grows.
        layers: where its layers come from.
        has_optimizer: as in `plan_of`.
        seed: of the noise.
        hidden_size: of the grown model.
    """

    def __init__(
        self,
        source: Source,
        growth: GrowthFlags,
        layers: LayerMap,
        has_optimizer: bool,
        seed: int,
        hidden_size: int,
    ) -> None:
        self._source = source
        self._has_optimizer = has_optimizer
        self._growth = growth
        self._layers = layers
        self._first = layers.first
        self._seed = seed
        self._hidden_size = hidden_size

    def grown(self) -> Iterator[NewTensor]:
        """All of them."""
        copies = defaultdict(list)
        for layer, source in enumerate(self._layers.sources):
            copies[source].append(layer)
        for text, listed in self._source.tensors.items():
            if not self._has_optimizer and is_of_optimizer(text):
                continue
            key = key_of(text)
            if key.has_layer_axis:
                yield self._with_axis(text, key, listed)
            elif key.layer is not None:
                for layer in copies[key.layer]:
                    pieces = self._of_layer(text, key, listed.chunks, layer, listed.size, ())
                    yield NewTensor(
                        key.of_layer(layer), listed.properties, tuple(listed.size), tuple(pieces)
                    )
            else:
                pieces = [self._copied(text, key, chunk, ()) for chunk in listed.chunks]
                yield NewTensor(text, listed.properties, tuple(listed.size), tuple(pieces))

    def _with_axis(self, text: str, key: Key, listed: TensorStorageMetadata) -> NewTensor:
        chunks = defaultdict(list)
        for chunk in listed.chunks:
            chunks[chunk.offsets[0]].append(chunk)
        pieces = [
            piece
            for layer, source in enumerate(self._layers.sources)
            for piece in self._of_layer(
                text, key, chunks[source], layer, listed.size[1:], (source, layer)
            )
        ]
        size = (len(self._layers.sources), *listed.size[1:])
        return NewTensor(text, listed.properties, size, tuple(pieces))

    def _of_layer(
        self,
        text: str,
        key: Key,
        chunks: Sequence[ChunkStorageMetadata],
        layer: int,
        shape: Sequence[int],
        axis: tuple[int, ...],
    ) -> list[Piece]:
        """The chunks of one grown layer's tensor.

        Args:
            text: key of the small model's tensor.
            key: that, taken apart.
            chunks: the source layer's.
            layer: of the grown model.
            shape: of one layer's tensor.
            axis: where layers are an axis, the source layer and the grown one.
        """
        assert key.name is not None
        if layer in self._layers.silent:
            if is_output(key.name):
                return [_piece(chunk, axis, _ZEROS) for chunk in chunks]
        elif self._growth.noise and self._first[layer] != layer and not key.is_moment:
            one = tuple(shape[1:] if key.has_expert_axis else shape)
            if is_matrix(key.name, one):
                return list(self._noisy(text, key, chunks, layer, shape, axis))
        return [self._copied(text, key, chunk, axis) for chunk in chunks]

    def _copied(
        self, text: str, key: Key, chunk: ChunkStorageMetadata, axis: tuple[int, ...]
    ) -> Piece:
        if key.is_moment and not self._growth.keeps_optimizer:
            return _piece(chunk, axis, _ZEROS)
        return _piece(chunk, axis, self._source.content(text, chunk))

    def _noisy(
        self,
        text: str,
        key: Key,
        chunks: Sequence[ChunkStorageMetadata],
        layer: int,
        shape: Sequence[int],
        axis: tuple[int, ...],
    ) -> Iterator[Piece]:
        """One matrix a piece: a layer's, or an expert's of it. As `_of_layer`."""
        assert key.name is not None
        experts = range(shape[0]) if key.has_expert_axis else [None]
        by_expert = defaultdict(list)
        for chunk in chunks:
            first = chunk.offsets[len(axis[:1])]
            last = first + chunk.sizes[len(axis[:1])]
            for expert in range(first, last) if key.has_expert_axis else [None]:
                by_expert[expert].append(chunk)
        matrix = tuple(shape[1:] if key.has_expert_axis else shape)
        for expert in experts:
            where = () if expert is None else (expert,)
            begin = (*axis[:1], *where, *(0 for _ in matrix))
            sizes = (*(1 for _ in (*axis[:1], *where)), *matrix)
            read = partial(self._source.part, text, begin, sizes, by_expert[expert])
            name = name_of(key, expert)
            make = partial(self._with_noise, read, layer, name, matrix)
            yield Piece((*axis[1:], *begin[len(axis[:1]) :]), sizes, Made(make))

    def _with_noise(
        self, read: Callable[[], torch.Tensor], layer: int, name: str, matrix: tuple[int, ...]
    ) -> torch.Tensor:
        """``(1 - A) W + A std noise``, worked out in float32."""
        own = read()
        share = self._growth.noise
        deviation = standard_deviation(name, self._hidden_size, len(self._layers.sources))
        added = noise(self._seed, layer, name, matrix).view(own.shape)
        return ((1 - share) * own.float() + share * deviation * added).to(own.dtype)


def _piece(
    chunk: ChunkStorageMetadata, axis: tuple[int, ...], content: Copied | Zeros | Made
) -> Piece:
    offsets = tuple(chunk.offsets) if not axis else (axis[1], *chunk.offsets[1:])
    return Piece(offsets, tuple(chunk.sizes), content)


def _objects(
    saved: Saved, layers: LayerMap, has_optimizer: bool
) -> Iterator[tuple[str, str | None]]:
    """Objects that are no tensors, such as a module's extra state, follow their layers."""
    for text in saved.objects:
        shard = shard_of(text)
        key = None if shard is None else key_of(shard.key)
        if text == COMMON or (not has_optimizer and is_of_optimizer(text)):
            continue
        if shard is None or key is None or key.name is None:
            yield text, text
            continue
        for layer, source in enumerate(layers.sources):
            if key.has_layer_axis and shard.offset[0] == source:
                offset = (layer, *shard.offset[1:])
                shape = (len(layers.sources), *shard.shape[1:])
                yield str(Shard(shard.key, offset, shape)), text
            elif key.layer == source:
                yield str(Shard(key.of_layer(layer), shard.offset, shard.shape)), text


def _common(
    common: Mapping[str, Any], growth: GrowthFlags, layers: LayerMap, width: Width | None
) -> dict[str, Any]:
    """What is no tensor: the arguments are the grown model's; all that counts goes on."""
    grown = copy.deepcopy(dict(common))
    args = grown["args"]
    before = copy.copy(args)
    args.num_layers = len(layers.sources)
    if getattr(args, "encoder_num_layers", None):
        args.encoder_num_layers = len(layers.sources)
    pattern = pattern_of(args)
    if pattern is not None:
        main, separator, rest = pattern.partition(_MAIN)
        main = "".join(main[source] for source in layers.sources)
        for name in ("hybrid_layer_pattern", "hybrid_override_pattern"):
            if getattr(args, name, None):
                setattr(args, name, f"{main}{separator}{rest}")
    for name, by_number in _BY_LAYER.items():
        if value := getattr(args, name, None):
            setattr(args, name, _by_layer(value, by_number, layers))
    if width is not None:
        _widen(args, width)
    methods = dict(getattr(args, "methods", None) or {})
    facts = {
        "operator": growth.operator,
        "noise": growth.noise,
        "optimizer": "keep" if growth.keeps_optimizer else "new",
        "width": growth.width,
        "layers": [layers.small, len(layers.sources)],
        **({} if width is None else {"sizes": width.changed}),
        "step": grown["iteration"],
        "samples": int(getattr(args, "consumed_train_samples", 0)),
        "seed": _seed(before, growth),
    }
    if earlier := methods.get("growth"):
        facts["before"] = earlier["facts"]
    args.methods = methods | {"growth": {"stages": [], "facts": facts}}
    if not growth.keeps_optimizer:
        begin_anew(grown.get("optimizer"))
    return grown


def _widen(args: argparse.Namespace, width: Width) -> None:
    """The arguments of a wider model, in place."""
    is_grouped = getattr(args, "group_query_attention", False)
    for name in SIZES:
        if name != "num_query_groups":
            setattr(args, name, getattr(width.large, name))
    if is_grouped or width.large.heads_per_group > 1:
        args.group_query_attention = True
        args.num_query_groups = width.large.num_query_groups


def _by_layer(value: Any, by_number: Callable[[int, int], list[int]], layers: LayerMap) -> Any:
    """A value for each layer, grown; a number stays one where it says the same of the layers."""
    whole = list(value) if isinstance(value, list | tuple) else by_number(value, layers.small)
    grown = [whole[source] for source in layers.sources]
    is_number = isinstance(value, int)
    return value if is_number and by_number(value, len(grown)) == grown else grown


def _seed(args: argparse.Namespace, growth: GrowthFlags) -> int:
    return int(args.seed) if growth.seed is None else growth.seed
