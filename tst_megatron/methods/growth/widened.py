"""A small model's checkpoint as if its model had been wider.

The one idea: growth in depth copies layers of a checkpoint, and asks it for its list, for what is
in a chunk and for numbers. What answers may be the checkpoint as it is, or this view of it, in
which every tensor has the wide model's shape. So either growth stands by itself, and both are one.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

from tst_megatron.checkpoints.derived import Copied, Made
from tst_megatron.checkpoints.keyed_noise import name_of
from tst_megatron.checkpoints.keys import MASTERS, POWERS, Key, is_of_optimizer, key_of
from tst_megatron.checkpoints.saved import Saved
from tst_megatron.errors import UserError
from tst_megatron.methods.growth.wider import Wider
from tst_megatron.methods.growth.width import Tensor, Width, tensors_of

_ROWS = 4096
"""Of a table that are made at a time."""
_OUTSIDE = -1
"""In place of a layer's number, of what is in none."""


class Source(Protocol):
    """What growth in depth copies layers of."""

    @property
    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """By key, as a checkpoint's list has them."""
        ...

    def content(self, text: str, chunk: ChunkStorageMetadata) -> Copied | Made:
        """Of a chunk of the list."""
        ...

    def part(
        self,
        text: str,
        offsets: Sequence[int],
        sizes: Sequence[int],
        chunks: Sequence[ChunkStorageMetadata],
    ) -> torch.Tensor:
        """A layer's matrix, or an expert's, in the chunks that it lies in."""
        ...


class AsItIs:
    """The checkpoint itself.

    Args:
        saved: that.
    """

    def __init__(self, saved: Saved) -> None:
        self.tensors = saved.tensors
        self.part = saved.part

    def content(self, text: str, chunk: ChunkStorageMetadata) -> Copied:
        """As `Source.content`."""
        return Copied(text, tuple(chunk.offsets))


class Widened:
    """The checkpoint's tensors in the shapes of a wider model.

    Args:
        saved: the small model's.
        width: how it becomes wider.
        seed: of what is drawn.
        keeps_optimizer: whether moments are kept.
        has_optimizer: whether there will be a state of the optimizer.

    Raises:
        UserError: a tensor is not known to widen, or has another shape than its model.
    """

    def __init__(
        self, saved: Saved, width: Width, seed: int, keeps_optimizer: bool, has_optimizer: bool
    ) -> None:
        self._saved = saved
        self._has_optimizer = has_optimizer
        args = saved.args
        is_tied = "output_layer.weight" not in saved.tensors
        self._kinds = tensors_of(width, args, is_tied)
        deviation = getattr(args, "init_method_std", None)
        self._wider = Wider(
            width.operator == "direct",
            seed,
            0.02 if deviation is None else float(deviation),
            0.0 if _keeps_weights_less_1(args) else 1.0,
        )
        self.tensors = dict(self._listed(keeps_optimizer))

    def _listed(self, keeps_optimizer: bool) -> Iterator[tuple[str, TensorStorageMetadata]]:
        for text, listed in self._saved.tensors.items():
            key = key_of(text)
            # Random states and such are of the run, not of a model.
            if key.state is None and not key.own.startswith(("decoder.", "embedding.", "output_")):
                yield text, listed
                continue
            if is_of_optimizer(text) and not self._has_optimizer:
                continue
            kind = self._kind(text, key, listed)
            if kind.is_as_it_was:
                yield text, listed
                continue
            if key.is_moment and keeps_optimizer and key.state not in POWERS:
                raise UserError(
                    f"the optimizer in {self._saved.folder} has the state {key.state}, which is "
                    "not known to be one that a wider model can keep: give --grow-optimizer new"
                )
            layers = listed.size[0] if key.has_layer_axis else None
            own = listed.size[len(_lead(key, 0)) :]
            shape = tuple(
                length if axis is None else len(axis.sources)
                for length, axis in zip(own, kind.axes, strict=True)
            )
            chunks = [
                ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
                for layer in range(layers or 1)
                for offsets, sizes in _chunks(kind, _lead(key, layer), shape)
            ]
            size = torch.Size((*(() if layers is None else (layers,)), *shape))
            yield text, replace(listed, size=size, chunks=chunks)

    def _kind(self, text: str, key: Key, listed: TensorStorageMetadata) -> Tensor:
        kind = self._kinds.get(key.own if key.name is None else key.name)
        if kind is None:
            raise UserError(
                f"{text} in {self._saved.folder} is of a kind that is not known to widen: grow in "
                "depth, with --grow, or train the wide model from the start"
            )
        own = listed.size[len(_lead(key, 0)) :]
        if len(own) != len(kind.axes) or any(
            axis is not None and axis.small != length
            for length, axis in zip(own, kind.axes, strict=True)
        ):
            raise UserError(
                f"{text} in {self._saved.folder} is of shape {list(own)}, which its model's sizes "
                "do not have, so that it cannot be widened: save it with Megatron's own trainer"
            )
        return kind

    def content(self, text: str, chunk: ChunkStorageMetadata) -> Copied | Made:
        """As `Source.content`."""
        if self.tensors[text] is self._saved.tensors[text]:
            return Copied(text, tuple(chunk.offsets))
        return Made(partial(self._made, text, chunk), (text, tuple(chunk.offsets)))

    def part(
        self,
        text: str,
        offsets: Sequence[int],
        sizes: Sequence[int],
        chunks: Sequence[ChunkStorageMetadata],
    ) -> torch.Tensor:
        """As `Source.part`: a layer's matrix is one chunk here, where it is another than it was."""
        if self.tensors[text] is self._saved.tensors[text]:
            return self._saved.part(text, offsets, sizes, chunks)
        (chunk,) = chunks
        return self._made(text, chunk)

    def _made(self, text: str, chunk: ChunkStorageMetadata) -> torch.Tensor:
        """The wide tensor's chunk, in its dtype."""
        key = key_of(text)
        kind = self._kinds[key.own if key.name is None else key.name]
        layer = _OUTSIDE
        if key.name is not None:
            layer = int(chunk.offsets[0]) if key.layer is None else key.layer
        lead = _lead(key, layer)
        first, rows = chunk.offsets[len(lead)], chunk.sizes[len(lead)]
        dtype = self._saved.tensors[text].properties.dtype
        if key.is_moment:
            own = self._own(text, lead, kind, first, rows)
            made = self._wider.moment(own, kind, POWERS[str(key.state)])
        else:
            own = self._own(self._in_full_precision(text, key), lead, kind, first, rows)
            name = key.own if key.name is None else name_of(key)
            name = f"{name}.rows{first}" if kind.axes[0] is None else name
            made = self._wider.parameter(own, kind, layer, name)
        return made.to(dtype).view(tuple(chunk.sizes))

    def _own(
        self, text: str, lead: tuple[int, ...], kind: Tensor, first: int, rows: int
    ) -> torch.Tensor:
        """What a chunk is made of: the small model's tensor of a layer, or rows of a table."""
        shape = list(self._saved.tensors[text].size[len(lead) :])
        begin = [0] * len(shape)
        if kind.axes[0] is None:
            begin[0], shape[0] = first, rows
        sizes = (*(1 for _ in lead), *shape)
        # A layer's chunks alone are read: others do not meet the box.
        return self._saved.part(text, (*lead, *begin), sizes).view(shape)

    def _in_full_precision(self, text: str, key: Key) -> str:
        """The key of the optimizer's copy of a parameter, where there is one: the parameter is then
        that of the wide model's, rounded.
        """
        for state in MASTERS if self._has_optimizer and key.state is None else ():
            if (master := f"optimizer.state.{state}.{text}") in self._saved.tensors:
                return master
        return text


def _lead(key: Key, layer: int) -> tuple[int, ...]:
    """Offsets in front of a layer's own: along an axis of layers."""
    return (layer,) if key.has_layer_axis else ()


def _chunks(
    kind: Tensor, lead: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of the chunks that a tensor is made in: whole, or a table some rows."""
    before, rest = tuple(1 for _ in lead), shape[1:]
    step = _ROWS if kind.axes[0] is None else max(shape[0], 1)
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        yield (*lead, first, *(0 for _ in rest)), (*before, rows, *rest)


def _keeps_weights_less_1(args: argparse.Namespace) -> bool:
    """Whether norms keep their weights as what these are more than 1 (``--apply-layernorm-1p``)."""
    names = ("layernorm_zero_centered_gamma", "apply_layernorm_1p")
    return any(getattr(args, name, False) for name in names)
