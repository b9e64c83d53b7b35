"""A checkpoint of a model with experts, planned from a dense model's, or from one with fewer.

The one idea: all but the chosen MLPs is in the first checkpoint, and a list that names its
chunks is the new one. An expert's matrix is made of its MLP's; copies of one are made, and stored,
once. A norm in front of experts is listed under the key that Megatron's own layers ask for and
under that of Transformer Engine's, so that either reads the checkpoint.
"""

import copy
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties

from tst_megatron.checkpoints.derived import Copied, Made, NewTensor, Piece, Plan, Zeros, begin_anew
from tst_megatron.checkpoints.keys import (
    MASTERS,
    POWERS,
    Key,
    Shard,
    is_of_optimizer,
    key_of,
    other_norm,
    shard_of,
)
from tst_megatron.checkpoints.saved import COMMON, Saved
from tst_megatron.errors import UserError
from tst_megatron.methods.upcycling.experts import (
    OF_EXPERTS,
    Experts,
    Upcycling,
    experts_of,
    facts_of,
    made_of,
)
from tst_megatron.methods.upcycling.values import Values
from tst_megatron.stock.layer_kinds import are_numbered, pattern_of

_MLP = re.compile(r"mlp\.(?P<part>linear_fc[12])\.(?P<kind>weight|bias|_extra_state)")
_EXPERT = re.compile(r"mlp\.experts\.experts\.(?P<part>linear_fc[12])\.(?P<kind>\w+)")
_ROUTER = re.compile(r"mlp\.router\.(?P<what>\w+)")
_MTP = re.compile(r"(?P<block>mtp\.layers\.(?P<number>\d+)\.\w+\.)(?P<name>.+)")
_EXPERT_BIAS = "mlp.router.expert_bias"
_ZEROS = Zeros()
_MOST_READ = 2


@dataclass(frozen=True)
class _Place:
    """A tensor of one layer in the first checkpoint.

    Attributes:
        text: its key there.
        key: that, taken apart.
        block: what is in front of the name, without the number of a layer of the decoder.
        name: within the layer.
        layer: of the decoder, from 0; those of multi-token prediction are counted after them.
        is_of_decoder: whether it is one of the decoder's.
        index: where it is along an axis of layers; None where the key has the number.
        shape: of it.
        chunks: that it lies in, with the axis.
        properties: of the tensor.
    """

    text: str
    key: Key
    block: str
    name: str
    layer: int
    is_of_decoder: bool
    index: int | None
    shape: tuple[int, ...]
    chunks: tuple[ChunkStorageMetadata, ...]
    properties: TensorProperties


def plan_of(saved: Saved, args: Any, how: Upcycling, has_optimizer: bool = True) -> Plan:
    """What the checkpoint with experts will hold.

    Args:
        saved: the first model's.
        args: Megatron's arguments of the model with experts.
        how: they are made.
        has_optimizer: whether there will be a state of the optimizer in it.

    Raises:
        UserError: it cannot be made so.
    """
    if not getattr(saved.args, "num_layers", None):
        raise UserError(
            f"{saved.folder} has no arguments of Megatron's, so that its layers cannot be told: "
            "save it with Megatron's own trainer"
        )
    experts = experts_of(saved.args, args, how)
    _check_tensors(saved, has_optimizer)
    planned = _Planned(saved, args, experts, how, has_optimizer)
    return Plan(
        saved,
        int(saved.common["iteration"]),
        tuple(planned.tensors()),
        dict(planned.objects()),
        _common(saved, args, experts, how),
    )


def _check_tensors(saved: Saved, has_optimizer: bool) -> None:
    content = saved.common.get("content_metadata") or {}
    if content.get("singleton_local_shards"):
        raise UserError(
            f"{saved.folder} has gate and up under keys of their own, which is not read here: save "
            "it once without Megatron's FSDP"
        )
    if not any(_MLP.fullmatch(str(key_of(text).name)) for text in saved.tensors) and not any(
        _EXPERT.fullmatch(str(key_of(text).name)) for text in saved.tensors
    ):
        raise UserError(
            f"{saved.folder} has no mlp.linear_fc1 under decoder.layers, so that it is no GPTModel "
            "or HybridModel and cannot get experts"
        )
    keys = {text for text in saved.tensors if not is_of_optimizer(text)}
    for text in saved.tensors:
        if has_optimizer and is_of_optimizer(text) and key_of(text).own not in keys:
            kind = content.get("distrib_optim_sharding_type") or "of another kind"
            raise UserError(
                f"the optimizer's state in {saved.folder} is {kind}: cut into buckets and not by "
                "parameters, their full precision too, so that it cannot get experts here: save it "
                "once in its own layout with --dist-ckpt-optim-fully-reshardable, or give it "
                "experts as it is loaded, with pretrain --upcycle-from"
            )


class _Planned:
    """The tensors and objects of the new checkpoint.

    Args:
        saved: the first one.
        args: of the new model.
        experts: of it.
        how: they are made.
        has_optimizer: as in `plan_of`.
    """

    def __init__(
        self, saved: Saved, args: Any, experts: Experts, how: Upcycling, has_optimizer: bool
    ) -> None:
        self._saved = saved
        self._args = args
        self._experts = experts
        self._how = how
        self._has_optimizer = has_optimizer
        self._values = Values(experts, how, _seed(saved.args, how))
        self._num_layers = int(saved.args.num_layers)
        self._has_numbers = are_numbered(args)
        # The optimizer's copy of each parameter, where it has one.
        self._masters = {
            key.own: text
            for text in (saved.tensors if has_optimizer else ())
            if (key := key_of(text)).state in MASTERS
        }
        # The last matrices that were read, which many experts are cut from.
        self._read: dict[Hashable, torch.Tensor] = {}

    def tensors(self) -> Iterator[NewTensor]:
        """All of them."""
        by_layer: dict[tuple[str, str, str], list[tuple[_Place, list[Piece], tuple[int, ...]]]]
        by_layer = defaultdict(list)
        for text, listed in self._saved.tensors.items():
            if not self._has_optimizer and is_of_optimizer(text):
                continue
            places = list(self._places(text))
            if not places:
                pieces = [
                    Piece(tuple(chunk.offsets), tuple(chunk.sizes), self._copied(text, chunk))
                    for chunk in listed.chunks
                ]
                yield NewTensor(text, listed.properties, tuple(listed.size), tuple(pieces))
            for place in places:
                for name, shape, pieces in self._of_place(place):
                    whose = (place.key.prefix, place.block, name)
                    by_layer[whose].append((place, pieces, shape))
        for (prefix, block, name), parts in by_layer.items():
            yield from self._with_layers(prefix, block, name, parts)

    def _with_layers(
        self,
        prefix: str,
        block: str,
        name: str,
        parts: list[tuple[_Place, list[Piece], tuple[int, ...]]],
    ) -> Iterator[NewTensor]:
        """A tensor with an axis of layers, or a tensor a layer."""
        place, _, shape = parts[0]
        if self._has_numbers or not place.is_of_decoder:
            for place, pieces, shape in parts:
                number = f"{place.layer}." if place.is_of_decoder else ""
                key = f"{prefix}{block}{number}{name}"
                yield NewTensor(key, _properties(place, name), shape, tuple(pieces))
            return
        pieces = [
            Piece((place.layer, *piece.offsets), (1, *piece.sizes), _with_axis(piece.content))
            for place, of_layer, _ in parts
            for piece in of_layer
        ]
        size = (self._num_layers, *shape)
        yield NewTensor(f"{prefix}{block}{name}", _properties(place, name), size, tuple(pieces))

    def _places(self, text: str) -> Iterator[_Place]:
        """The layers' parts of a tensor; none of one that is in no layer."""
        listed = self._saved.tensors[text]
        key = key_of(text)
        if key.name is None:
            found = _MTP.fullmatch(key.own)
            if found is not None:
                layer = self._num_layers + int(found.group("number"))
                yield _Place(
                    *(text, key, found.group("block"), found.group("name"), layer, False, None),
                    *(tuple(listed.size), tuple(listed.chunks), listed.properties),
                )
            return
        block = "decoder.layers."
        if key.layer is not None:
            yield _Place(
                *(text, key, block, key.name, key.layer, True, None, tuple(listed.size)),
                *(tuple(listed.chunks), listed.properties),
            )
            return
        chunks = self._saved.chunks_by_layer(text)
        for layer in range(listed.size[0]):
            yield _Place(
                *(text, key, block, key.name, layer, True, layer, tuple(listed.size[1:])),
                *(tuple(chunks[layer]), listed.properties),
            )

    def _is_chosen(self, place: _Place) -> bool:
        """Whether the layer gets experts; one of multi-token prediction is as the last one."""
        last = self._num_layers - 1
        return (place.layer if place.is_of_decoder else last) in self._experts.layers

    def _of_place(self, place: _Place) -> Iterator[tuple[str, tuple[int, ...], list[Piece]]]:
        """What becomes of a layer's tensor: names, shapes and pieces, without an axis of layers."""
        if self._is_chosen(place):
            source = _EXPERT if self._experts.copied_from else _MLP
            if found := source.fullmatch(place.name):
                yield from self._experts_of(place, *found.group("part", "kind"))
                return
            if self._experts.copied_from and (found := _ROUTER.fullmatch(place.name)):
                self._check_rows(place)
                yield place.name, (self._experts.total, *place.shape[1:]), [self._rows(place)]
                if found.group("what") == "weight" and not self._has(place, _EXPERT_BIAS):
                    yield from self._expert_bias(place)
                return
        pieces = [self._unchanged(place, chunk) for chunk in place.chunks]
        yield place.name, place.shape, pieces
        # Of a GPTModel's norms those before experts alone have two names.
        is_before_experts = self._is_chosen(place) and place.name.startswith(("mlp.", "pre_mlp"))
        if is_before_experts or pattern_of(self._args) is not None:
            other = other_norm(place.name)
            if other is not None and not self._has(place, other):
                yield other, place.shape, pieces

    def _check_rows(self, place: _Place) -> None:
        """A method may have given a router rows of no expert."""
        rows, experts = place.shape[0], self._experts.copied_from
        if rows != experts:
            raise UserError(
                f"{place.text} in {self._saved.folder} has {rows} rows for {experts} experts, as "
                "where there are no-op experts, of which none is copied: upcycle a model without "
                "them"
            )

    def _has(self, place: _Place, name: str) -> bool:
        """Whether the first checkpoint has a tensor of that name in the same layer, too."""
        return place.text.removesuffix(place.name) + name in self._saved.tensors

    def _experts_of(
        self, place: _Place, part: str, kind: str
    ) -> Iterator[tuple[str, tuple[int, ...], list[Piece]]]:
        """The experts' parameters, the shared ones', and with the first the router's."""
        shape = place.shape[1:] if self._experts.copied_from else place.shape
        one = tuple(self._cut(shape, part, kind, self._experts.size))
        pieces = [
            Piece((expert, *(0 for _ in one)), (1, *one), self._made(place, part, kind, expert))
            for expert in range(self._experts.total)
        ]
        yield f"mlp.experts.experts.{part}.{kind}", (self._experts.total, *one), pieces
        if self._experts.copied_from:
            return
        if self._experts.shared:
            size = self._experts.shared * self._experts.size
            one = tuple(self._cut(shape, part, kind, size))
            begin = tuple(0 for _ in one)
            content = self._of_moment(place) or self._shared(place, part, kind)
            yield f"mlp.shared_experts.{part}.{kind}", one, [Piece(begin, one, content)]
        if (part, kind) == ("linear_fc1", "weight"):
            yield from self._router(place)

    def _cut(self, shape: Sequence[int], part: str, kind: str, size: int) -> Iterator[int]:
        """The shape of a parameter of so many units."""
        times = 2 if part == "linear_fc1" and self._experts.is_gated else 1
        axis = {"linear_fc1": 0, "linear_fc2": 1}[part]
        for at, length in enumerate(shape):
            is_of_units = at == axis and not (part == "linear_fc2" and kind == "bias")
            yield times * size if is_of_units else length

    def _of_moment(self, place: _Place) -> Zeros | None:
        """Nothing, of a moment that begins anew."""
        return _ZEROS if place.key.is_moment and not self._how.keeps_optimizer else None

    def _made(self, place: _Place, part: str, kind: str, expert: int) -> Zeros | Made:
        if begins := self._of_moment(place):
            return begins
        experts, values, layer = self._experts, self._values, place.layer
        dtype = place.properties.dtype
        source = expert * experts.copied_from // experts.total if experts.copied_from else None
        if place.key.is_moment:
            power = POWERS.get(str(place.key.state))
            if power is None:
                raise UserError(
                    f"the optimizer in {self._saved.folder} has the state {place.key.state}, which "
                    "is not known to be one that an expert can keep: give --upcycle-optimizer new"
                )

            def make() -> torch.Tensor:
                whole = self._whole(place, source)
                return values.moment(whole, part, kind, layer, expert, power)

            is_alike = not self._how.drop
        else:
            is_copy = values.are_alike and experts.up == experts.down == 1

            def make() -> torch.Tensor:
                one = place if is_copy else self._in_full_precision(place)
                whole = self._whole(one, source)
                return values.of_expert(whole, part, kind, layer, expert)

            is_alike = values.are_alike
        of = source if experts.copied_from else experts.shard(expert)
        same: Hashable = (place.text, layer, of) if is_alike else None
        return Made(lambda: make()[None].to(dtype), same)

    def _shared(self, place: _Place, part: str, kind: str) -> Made:
        dtype = place.properties.dtype
        return Made(
            lambda: self._values.of_shared(self._whole(place, None), part, kind).to(dtype).clone()
        )

    def _router(self, place: _Place) -> Iterator[tuple[str, tuple[int, ...], list[Piece]]]:
        """New, beside the MLP's first matrix; so are its state and what goes with it."""
        total = self._experts.total
        shape = (total, place.shape[1])
        make = partial(self._values.router, place.layer, shape)
        dtype = place.properties.dtype
        is_moment = place.key.is_moment
        content = _ZEROS if is_moment else Made(lambda: make().to(dtype))
        yield "mlp.router.weight", shape, [Piece((0, 0), shape, content)]
        if getattr(self._args, "add_bias_linear", False):
            yield "mlp.router.bias", (total,), [Piece((0,), (total,), _ZEROS)]
        yield from self._expert_bias(place)

    def _expert_bias(self, place: _Place) -> Iterator[tuple[str, tuple[int, ...], list[Piece]]]:
        """Of loss-free balancing: new, of a layer of the model, and of no optimizer."""
        if place.key.state is None and getattr(self._args, "moe_router_enable_expert_bias", False):
            total = self._experts.total
            yield _EXPERT_BIAS, (total,), [Piece((0,), (total,), _ZEROS)]

    def _rows(self, place: _Place) -> Piece:
        """A router's tensor whose first axis counts experts."""
        shape = (self._experts.total, *place.shape[1:])
        begin = tuple(0 for _ in shape)
        if begins := self._of_moment(place):
            return Piece(begin, shape, begins)
        has_noise = place.name.endswith(".weight") and not place.key.is_moment

        def make() -> torch.Tensor:
            source = self._in_full_precision(place) if has_noise else place
            rows = self._values.more_rows(place.layer, self._whole(source, None), has_noise)
            return rows.to(place.properties.dtype)

        return Piece(begin, shape, Made(make))

    def _in_full_precision(self, place: _Place) -> _Place:
        """The optimizer's copy of a parameter, where there is one: what is drawn after it is then
        the same in both.
        """
        text = self._masters.get(place.key.own) if place.key.state is None else None
        if text is not None:
            return next(one for one in self._places(text) if one.layer == place.layer)
        return place

    def _whole(self, place: _Place, expert: int | None) -> torch.Tensor:
        """A layer's tensor, or an expert's of it, whole."""
        which = (place.text, place.layer, expert)
        if which not in self._read:
            while len(self._read) >= _MOST_READ:
                del self._read[next(iter(self._read))]
            lead = (() if place.index is None else (place.index,)) + (
                () if expert is None else (expert,)
            )
            shape = place.shape if expert is None else place.shape[1:]
            begin = (*lead, *(0 for _ in shape))
            sizes = (*(1 for _ in lead), *shape)
            found = self._saved.part(place.text, begin, sizes, place.chunks)
            self._read[which] = found.view(shape)
        return self._read[which]

    def _unchanged(self, place: _Place, chunk: ChunkStorageMetadata) -> Piece:
        """A chunk of a layer, as it is or with other axes in front."""
        axes = 0 if place.index is None else 1
        offsets, sizes = tuple(chunk.offsets[axes:]), tuple(chunk.sizes[axes:])
        if begins := self._of_moment(place):
            return Piece(offsets, sizes, begins)
        if bool(axes) == (place.is_of_decoder and not self._has_numbers):
            return Piece(offsets, sizes, Copied(place.text, tuple(chunk.offsets)))

        def make() -> torch.Tensor:
            return self._saved.chunk(place.text, chunk).view(sizes)

        return Piece(offsets, sizes, Made(make, (place.text, tuple(chunk.offsets))))

    def _copied(self, text: str, chunk: ChunkStorageMetadata) -> Copied | Zeros:
        if key_of(text).is_moment and not self._how.keeps_optimizer:
            return _ZEROS
        return Copied(text, tuple(chunk.offsets))

    def objects(self) -> Iterator[tuple[str, str | None]]:
        """Objects that are no tensors, such as a module's extra state, follow their layers."""
        for text in self._saved.objects:
            if text == COMMON or (not self._has_optimizer and is_of_optimizer(text)):
                continue
            shard = shard_of(text)
            key = None if shard is None else key_of(shard.key)
            if shard is None or key is None:
                yield text, text
                continue
            if key.name is not None:
                layer = shard.offset[0] if key.layer is None else key.layer
                rest = shard.offset[1:] if key.layer is None else shard.offset
                grid = shard.shape[1:] if key.layer is None else shard.shape
                for name, offset, shape in self._of_object(layer, key.name, rest, grid):
                    yield str(self._shard(layer, name, offset, shape)), text
            elif found := _MTP.fullmatch(key.own):
                block, own = found.group("block", "name")
                last = self._num_layers - 1
                for name, offset, shape in self._of_object(last, own, shard.offset, shard.shape):
                    yield str(Shard(f"{block}{name}", offset or (0,), shape or (1,))), text
            else:
                yield text, text
        for text in self._of_norms():
            if text not in self._saved.objects:
                yield text, None

    def _of_object(
        self, layer: int, name: str, offset: tuple[int, ...], grid: tuple[int, ...]
    ) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """What becomes of an object: names, and shards without an axis of layers."""
        total, before = self._experts.total, self._experts.copied_from
        found = (_EXPERT if before else _MLP).fullmatch(name)
        if layer not in self._experts.layers or found is None:
            yield name, offset, grid
            return
        part, kind = found.group("part", "kind")
        experts = range(total)
        if before:
            times = total // before
            experts = range(offset[0] * times, (offset[0] + 1) * times)
        for expert in experts:
            yield f"mlp.experts.experts.{part}.{kind}", (expert,), (total,)
        if self._experts.shared:
            yield f"mlp.shared_experts.{part}.{kind}", (), ()

    def _shard(
        self, layer: int, name: str, offset: tuple[int, ...], grid: tuple[int, ...]
    ) -> Shard:
        if self._has_numbers:
            key = f"decoder.layers.{layer}.{name}"
            return Shard(key, offset or (0,), grid or (1,))
        return Shard(f"decoder.layers.{name}", (layer, *offset), (self._num_layers, *grid))

    def _of_norms(self) -> Iterator[str]:
        """Extra states of norms that Transformer Engine's layers ask for. They say nothing, and are
        not there where Megatron's own layers were saved, or where the norm was one with a linear
        layer.
        """
        for name in ("final_layernorm", "final_norm"):
            yield f"decoder.{name}._extra_state/shard_0_1"
        for layer in sorted(self._experts.layers):
            yield str(self._shard(layer, "pre_mlp_layernorm._extra_state", (), ()))
        blocks = {found.group("block") for key in self._saved.tensors if (found := _MTP.match(key))}
        for block in sorted(blocks):
            yield f"{block}pre_mlp_layernorm._extra_state/shard_0_1"
            outer = block.rstrip(".").rpartition(".")[0]
            for name in ("enorm", "hnorm", "final_layernorm"):
                yield f"{outer}.{name}._extra_state/shard_0_1"


def _properties(place: _Place, name: str) -> TensorProperties:
    """Of what becomes of a tensor: its own, but for a bias of loss-free balancing."""
    if name.endswith("router.expert_bias"):
        return replace(place.properties, dtype=torch.float32)
    return place.properties


def _with_axis(content: Copied | Zeros | Made) -> Copied | Zeros | Made:
    """The same behind one more axis, where it is made without."""
    if isinstance(content, Made):
        make = content.make
        return Made(lambda: make()[None], content.same)
    return content


def _seed(args: Namespace, how: Upcycling) -> int:
    return int(args.seed) if how.seed is None else how.seed


def _common(saved: Saved, args: Any, experts: Experts, how: Upcycling) -> dict[str, Any]:
    """What is no tensor: the arguments are of the model with experts; all that counts goes on."""
    made = copy.deepcopy(dict(saved.common))
    own = made["args"]
    for name in OF_EXPERTS:
        if hasattr(args, name):
            setattr(own, name, getattr(args, name))
    methods = dict(getattr(own, "methods", None) or {})
    facts: dict[str, Any] = {
        **facts_of(how),
        **made_of(experts),
        "step": made["iteration"],
        "samples": int(getattr(own, "consumed_train_samples", 0)),
        "seed": _seed(saved.args, how),
    }
    if earlier := methods.get("upcycling"):
        facts["before"] = earlier["facts"]
    own.methods = methods | {"upcycling": {"stages": [], "facts": facts}}
    if not how.keeps_optimizer:
        begin_anew(made.get("optimizer"))
    return made
