"""One step in Megatron's ``torch_dist``: what it lists, what it says of itself, and its tensors.

The one idea: a checkpoint is a list of tensors, each a grid of chunks, and of places in files where
the chunks lie. All that reads one goes by the list and takes a chunk at a time, so that a
checkpoint of any size is read in the memory of its largest chunk. No code that is in a checkpoint
is run.
"""

import io
import pickle
from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.utils import _create_file_view

from tst_megatron.backends import prepare_to_import
from tst_megatron.checkpoints.wholeness import CONFIG, METADATA, Ignored, fault_of, has_file_a_rank
from tst_megatron.errors import UserError

COMMON = "common_state/shard_0_1"
"""Of what is no tensor: one object since Megatron 0.19, a file of its own before."""
COMMON_FILE = "common.pt"

TORCH_DIST = "torch_dist"
"""Megatron's ``--ckpt-format``, and what is read here."""

type Numbers = Sequence[int]


class Saved:
    """A whole step in ``torch_dist``.

    Args:
        folder: of the step.
        looks_at_files: whether to hold every file against the list first; a run's first rank has
            done that when the others read.

    Raises:
        UserError: it is not whole, is of another format, or cannot be read.
    """

    def __init__(self, folder: Path, looks_at_files: bool = True) -> None:
        self.folder = folder
        if format_of(folder) != TORCH_DIST:
            raise UserError(
                f"{folder} is not of --ckpt-format torch_dist, which alone has tensors by name: "
                "convert it with --ckpt-convert-format torch_dist"
            )
        if looks_at_files and (fault := fault_of(folder)):
            raise UserError(f"the checkpoint {folder} is not whole: {fault}")
        self.metadata = read_list(folder / METADATA)

    @cached_property
    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """What the list has of tensors, by key."""
        listed = self.metadata.state_dict_metadata
        return {key: one for key, one in listed.items() if isinstance(one, TensorStorageMetadata)}

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """Keys of all else."""
        return tuple(key for key in self.metadata.state_dict_metadata if key not in self.tensors)

    @cached_property
    def common(self) -> dict[str, Any]:
        """What is no tensor, the same for all ranks: arguments, schedule, the optimizer's groups.

        Raises:
            UserError: it cannot be read.
        """
        prepare_to_import()
        from megatron.core.safe_globals import register_safe_globals

        register_safe_globals()
        try:
            if (self.folder / COMMON_FILE).exists():
                found = torch.load(self.folder / COMMON_FILE, map_location="cpu", weights_only=True)
            else:
                found = torch.load(io.BytesIO(self.object(COMMON)), weights_only=True)[0]
        # What is of another version, or no checkpoint of Megatron's, fails in any way.
        except Exception as error:
            raise UserError(
                f"the checkpoint {self.folder} cannot be read: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        return dict(found)

    @property
    def args(self) -> Namespace:
        """Megatron's arguments of the run; empty where it has none."""
        found = self.common.get("args")
        return found if isinstance(found, Namespace) else Namespace()

    def place(self, key: str, offsets: Numbers | None = None) -> filesystem._StorageInfo:
        """Where an object lies, or the chunk of a tensor that begins at the offsets."""
        return self.metadata.storage_data[MetadataIndex(key, offsets)]

    def object(self, key: str) -> bytes:
        """An object, as it was written."""
        place = self.place(key)
        with (self.folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            return file.read(place.length)

    def chunk(self, key: str, chunk: ChunkStorageMetadata) -> torch.Tensor:
        """One chunk of a tensor, whole.

        Raises:
            UserError: it is not what the list says.
        """
        return self.chunk_at(key, chunk.offsets, chunk.sizes)

    def chunks_by_layer(self, key: str) -> dict[int, list[ChunkStorageMetadata]]:
        """Chunks of a tensor with an axis of layers, by the layer.

        Raises:
            UserError: one is of several layers, as an older Megatron saved them.
        """
        found: dict[int, list[ChunkStorageMetadata]] = {}
        for chunk in self.tensors[key].chunks:
            if chunk.sizes[0] != 1:
                raise UserError(
                    f"{key} in {self.folder} is not stored layer by layer, as Megatron 0.19 does: "
                    "load and save it once with that"
                )
            found.setdefault(chunk.offsets[0], []).append(chunk)
        return found

    def chunk_at(self, key: str, offsets: Numbers, sizes: Numbers) -> torch.Tensor:
        """The chunk of a tensor that begins at the offsets, and is so large, whole.

        Raises:
            UserError: it is not what the list says.
        """
        place = self.place(key, offsets)
        if place.transform_descriptors:
            raise UserError(
                f"{key} in {self.folder} is stored as {', '.join(place.transform_descriptors)}, "
                "which is not read here"
            )
        with (self.folder / place.relative_path).open("rb") as file:
            view = _create_file_view(file, place.offset, place.length)
            try:
                found = torch.load(view, map_location="cpu", weights_only=True)
            except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
                raise UserError(
                    f"{key} cannot be read from {self.folder / place.relative_path}: {error}"
                ) from None
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != tuple(sizes):
            raise UserError(
                f"{key} in {self.folder / place.relative_path} has not the listed shape"
            )
        return found.detach()

    def part(
        self,
        key: str,
        offsets: Numbers,
        sizes: Numbers,
        chunks: Sequence[ChunkStorageMetadata] | None = None,
    ) -> torch.Tensor:
        """A box of a tensor, put together from the chunks that it meets.

        Args:
            key: of the tensor.
            offsets: where it begins.
            sizes: of it.
            chunks: those that it can meet; default all.
        """
        listed = self.tensors[key]
        found = torch.empty(tuple(sizes), dtype=listed.properties.dtype)
        for chunk in listed.chunks if chunks is None else chunks:
            both = overlap(offsets, sizes, chunk.offsets, chunk.sizes)
            if both is not None:
                ours, theirs = both
                found[ours] = self.chunk(key, chunk)[theirs]
        return found


def format_of(folder: Path) -> str:
    """A step's ``--ckpt-format``, as far as the files in it tell.

    Raises:
        UserError: it is no checkpoint.
    """
    if has_file_a_rank(folder):
        return "torch"
    if (folder / CONFIG).exists():
        return TORCH_DIST
    if (folder / METADATA).exists():
        return "torch_dcp or fsdp_dtensor"
    raise UserError(f"{folder} is no checkpoint: it has neither {METADATA} nor a file a rank")


def overlap(
    offsets: Numbers, sizes: Numbers, other_offsets: Numbers, other_sizes: Numbers
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """What two boxes of one tensor share, as slices of each; None where they do not meet."""
    ours, theirs = [], []
    for begin, size, other, other_size in zip(
        offsets, sizes, other_offsets, other_sizes, strict=True
    ):
        start, end = max(begin, other), min(begin + size, other + other_size)
        if start >= end:
            return None
        ours.append(slice(start - begin, end - begin))
        theirs.append(slice(start - other, end - other))
    return tuple(ours), tuple(theirs)


def read_list(file: Path) -> Metadata:
    """The list that a checkpoint keeps of itself, read without running code of its own.

    Raises:
        UserError: it is none.
    """
    with file.open("rb") as opened:
        try:
            found = _Unpickler(opened).load()
        # Garbled bytes are any program for the pickle machine, and so fail in any way.
        except Exception as error:
            raise UserError(f"{file} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(found, Metadata):
        raise UserError(f"{file} is no list of a checkpoint")
    return found


class _Unpickler(pickle.Unpickler):
    """Knows the classes of a list, which hold values; all else is a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        if module == metadata.__name__ and isinstance(getattr(metadata, name, None), type):
            return getattr(metadata, name)
        if (module, name) == (filesystem.__name__, "_StorageInfo"):
            return filesystem._StorageInfo
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout
        if module == "torch":
            found = getattr(torch, name, None)
            if found is torch.Size or isinstance(found, torch.dtype):
                return found
        return Ignored
