"""A small model's checkpoint, loaded into a grown model by Megatron's own loading.

The one idea: a run asks a checkpoint for tensors by name and place, and Megatron reads them for any
layout. So what is changed is the question: each layer of the grown model asks for the layer that it
copies. A rank asks for each once and copies what it has several times. Optimizer states are asked
for under the parameters' names, so they follow.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import (
    LocalNonpersistentObject,
    ShardedBase,
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)
from megatron.training import checkpointing, get_args

from tst_megatron.checkpoints.keys import Key, key_of
from tst_megatron.methods.growth.layers import Growth, LayerMap
from tst_megatron.methods.growth.noise import (
    is_matrix,
    is_output,
    name_of,
    noise,
    standard_deviation,
)

_SCHEDULE = "opt_param_scheduler"
PATCHED = {
    (dist_checkpointing, "load"): ("sharded_state_dict", "checkpoint_dir", "sharded_strategy"),
    (checkpointing, "check_checkpoint_args"): ("checkpoint_args", "skip_args"),
}
"""What is wrapped while a small checkpoint is loaded, and the arguments that this relies on."""


@dataclass(frozen=True)
class _Asked:
    """An entry of the state dictionary that is asked of a layer.

    Attributes:
        path: of keys and places.
        layer: of the grown model.
        key: that it had, taken apart.
        pieces: the parts in which it lies in the checkpoint, as views of a tensor such as the
            entry's.
    """

    path: tuple[Any, ...]
    layer: int
    key: Key
    pieces: Callable[[torch.Tensor], list["_Piece"]]


@dataclass(frozen=True)
class _Piece:
    """A part of one layer's tensor.

    Attributes:
        data: a view.
        name: within the layer, with the expert's number.
        shape: of the whole, of all ranks.
        offset: of the part in it.
    """

    data: torch.Tensor
    name: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]


def load_grown(
    load: Callable[..., Any],
    growth: Growth,
    ddp_model: Any,
    optimizer: Any,
    opt_param_scheduler: Any,
    *rest: Any,
    **options: Any,
) -> Any:
    """As Megatron's ``load_checkpoint``, of a checkpoint whose model has other layers.

    Args:
        load: Megatron's.
        growth: how the layers become the model's.
        ddp_model: this rank's chunks, as the trainer gives them.
        optimizer: of them.
        opt_param_scheduler: which goes on where the checkpoint's was, whatever the optimizer does.
        rest: further arguments of ``load``.
        options: likewise.

    Returns:
        The iteration, and the FLOPs so far.

    Raises:
        RuntimeError: this version of Megatron has other functions.
    """
    args = get_args()
    loaded: dict[str, Any] = {}
    with _asking(growth, loaded):
        # Without its optimizer Megatron forgets the schedule too.
        before, args.no_load_optim = args.no_load_optim, not growth.keeps_optimizer or None
        try:
            found = load(ddp_model, optimizer, opt_param_scheduler, *rest, **options)
        finally:
            args.no_load_optim = before
    if not growth.keeps_optimizer and opt_param_scheduler is not None:
        opt_param_scheduler.load_state_dict(loaded[_SCHEDULE])
    return found


@contextmanager
def _asking(growth: Growth, loaded: dict[str, Any]) -> Iterator[None]:
    """Have Megatron ask for the layers that the model's copy.

    Args:
        growth: how.
        loaded: gets the state of the schedule, as it was loaded.
    """
    for (module, name), needed in PATCHED.items():
        found = tuple(signature(getattr(module, name)).parameters)
        if found[: len(needed)] != needed:
            raise RuntimeError(
                f"{module.__name__}.{name} takes {found}: install the megatron-core version in "
                "requirements/"
            )
    originals = {place: getattr(*place) for place in PATCHED}
    read, check = originals.values()

    def load(sharded_state_dict: Any, *rest: Any, **options: Any) -> Any:
        asked, copies = _ask(sharded_state_dict, growth.layers)
        # Not every layer is asked for, and some by several pipeline ranks.
        options["validate_access_integrity"] = False
        found = read(sharded_state_dict, *rest, **options)
        state = found[0] if isinstance(found, tuple) else found
        _copy(state, copies)
        with torch.no_grad():
            _change(state, asked, growth)
        loaded[_SCHEDULE] = state.get(_SCHEDULE)
        return found

    def check_others(checkpoint_args: Any, skip_args: set[str] | None = None) -> None:
        check(checkpoint_args, {*(skip_args or ()), "num_layers"})

    for place, wrapped in zip(PATCHED, (load, check_others), strict=True):
        setattr(*place, wrapped)
    try:
        yield
    finally:
        for place, original in originals.items():
            setattr(*place, original)


def _ask(
    state: Any, layers: LayerMap
) -> tuple[list[_Asked], dict[tuple[Any, ...], tuple[Any, ...]]]:
    """Turn what layers ask for to what they copy, in place.

    Returns:
        What was asked of layers, and by path the path of what a rank has asked for already.
    """
    asked: list[_Asked] = []
    first: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    copies: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for path, holder, entry in list(_entries(state, ())):
        key = key_of(entry.key)
        if key.name is None:
            continue
        layer = _layer_of(entry, key)
        pieces = partial(_pieces, entry, entry.build_fn if _is_factory(entry) else None, key)
        asked.append(_Asked(path, layer, key, pieces))
        source = layers.sources[layer]
        shard = (key.prefix, key.name, source, _rest_of(entry, key))
        if shard in first:
            copies[path] = first[shard]
            holder[path[-1]] = LocalNonpersistentObject(None)
            continue
        first[shard] = path
        _point(entry, key, source, layers.small)
    return asked, copies


def _entries(state: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Path, container and entry of all that is asked of a checkpoint."""
    if not isinstance(state, dict | list):
        return
    places = state.items() if isinstance(state, dict) else enumerate(state)
    for place, value in places:
        if isinstance(value, ShardedBase):
            yield (*path, place), state, value
        else:
            yield from _entries(value, (*path, place))


def _is_factory(entry: Any) -> bool:
    return isinstance(entry, ShardedTensorFactory)


def _layer_of(entry: Any, key: Key) -> int:
    """The grown model's layer that an entry is of."""
    if key.layer is not None:
        return key.layer
    if _is_factory(entry):
        (_, _, part), *_ = _entries({"parts": entry.build()}, ())
        return int(part.global_offset[0])
    return int(entry.global_offset[0])


def _rest_of(entry: Any, key: Key) -> tuple[Any, ...]:
    """What tells an entry from others of its name and layer on one rank: which expert's it is."""
    behind = 1 if key.has_layer_axis else 0
    parts = [entry]
    if _is_factory(entry):
        parts = [part for _, _, part in _entries({"parts": entry.build()}, ())]
    return tuple(tuple(part.global_offset[behind:]) for part in parts)


def _point(entry: Any, key: Key, source: int, small: int) -> None:
    """Let an entry ask for a layer of the small model."""
    if key.layer is not None:
        entry.key = key.of_layer(source)
    elif _is_factory(entry):
        entry.build_fn = partial(_build_pointed, entry.build_fn, source, small)
    else:
        _point_axis(entry, source, small)


def _build_pointed(build: Any, source: int, small: int, *given: Any) -> Any:
    built = build(*given)
    for _, _, part in _entries({"parts": built}, ()):
        _point_axis(part, source, small)
    return built


def _point_axis(entry: ShardedTensor | ShardedObject, source: int, small: int) -> None:
    entry.global_shape = (small, *entry.global_shape[1:])
    entry.global_offset = (source, *entry.global_offset[1:])
    if isinstance(entry, ShardedTensor):
        entry.axis_fragmentations = (small, *entry.axis_fragmentations[1:])


def _pieces(entry: Any, build: Any, key: Key, data: torch.Tensor) -> list[_Piece]:
    """The parts of a loaded tensor as they lie in the checkpoint."""
    if isinstance(entry, ShardedObject):
        return []
    if build is None:
        parts = [(entry, data)]
    else:
        built = build(entry.key, data, entry.replica_id, entry.flattened_range)
        parts = [(part, part.data) for _, _, part in _entries({"parts": built}, ())]
    return [_piece(part, key, view) for part, view in parts]


def _piece(part: ShardedTensor, key: Key, view: torch.Tensor) -> _Piece:
    axes = part.prepend_axis_num
    # In front of the matrix: layers, unless the key has their number, and experts likewise.
    experts = part.global_offset[1 if key.has_layer_axis else 0 : axes]
    return _Piece(
        view,
        name_of(key_of(part.key), experts[0] if experts else None),
        tuple(part.global_shape[axes:]),
        tuple(part.global_offset[axes:]),
    )


def _copy(state: Any, copies: dict[tuple[Any, ...], tuple[Any, ...]]) -> None:
    for path, source in copies.items():
        value = _at(state, source)
        holder = _at(state, path[:-1])
        # What an optimizer takes as it is must not be one tensor under two names.
        holder[path[-1]] = value.clone() if isinstance(value, torch.Tensor) else value


def _at(state: Any, path: tuple[Any, ...]) -> Any:
    for place in path:
        state = state[place]
    return state


def _change(state: Any, asked: list[_Asked], growth: Growth) -> None:
    """Silence what is to be silent, and add noise to what repeats."""
    layers = growth.layers
    for one in asked:
        name = str(one.key.name)
        is_silent = one.layer in layers.silent and is_output(name)
        is_noisy = (
            growth.noise > 0
            and not one.key.is_moment
            and layers.first[one.layer] != one.layer
            and one.layer not in layers.silent
        )
        if not (is_silent or is_noisy):
            continue
        for piece in one.pieces(_at(state, one.path)):
            if is_silent:
                piece.data.zero_()
            elif is_matrix(name, piece.shape):
                _add_noise(piece, one.layer, growth)


def _add_noise(piece: _Piece, layer: int, growth: Growth) -> None:
    whole = noise(growth.seed, layer, piece.name, piece.shape)
    part = whole[
        tuple(
            slice(start, start + length)
            for start, length in zip(piece.offset, piece.data.shape, strict=True)
        )
    ]
    deviation = standard_deviation(piece.name, growth.hidden_size, len(growth.layers.sources))
    share = growth.noise
    old = piece.data.float()
    new = (1 - share) * old + share * deviation * part.to(old.device)
    piece.data.copy_(new)
