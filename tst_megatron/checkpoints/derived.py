"""A checkpoint made of another, or of nothing that is one: a new list over the same files, and one
file of what is new.

The one idea: a list may name a place in a file as often as it likes. So what is copied is only
named, and its files are linked; zeros are written once for each shape; and what has other values
goes into one file more. The new folder has its own name when all of it is on the disk, and not
before.
"""

import errno
import io
import math
import os
import pickle
import shutil
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from tst_megatron.checkpoints.keys import is_of_optimizer
from tst_megatron.checkpoints.saved import COMMON, COMMON_FILE, Saved
from tst_megatron.checkpoints.steps import RELEASE, TRACKER, Checkpoint
from tst_megatron.checkpoints.wholeness import CONFIG, METADATA
from tst_megatron.errors import UserError
from tst_megatron.files import folder_when_whole, sync_folder

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES)
"""Another file system, one without links, or a file of somebody else's that may not be linked."""


_CONFIG = b'{"sharded_backend": "torch_dist", "sharded_backend_version": 1}'
"""As ``save_config`` in megatron/core/dist_checkpointing/core.py writes it."""


def _empty() -> bytes:
    content = io.BytesIO()
    torch.save([None], content)
    return content.getvalue()


EMPTY = _empty()
"""An object that says nothing, such as the extra state of a module that has none."""


@dataclass(frozen=True)
class Copied:
    """A chunk that is in the other checkpoint.

    Attributes:
        key: there.
        offsets: there.
    """

    key: str
    offsets: Sequence[int]


class Zeros:
    """A chunk of nothing but zeros."""


@dataclass(frozen=True)
class Made:
    """A chunk with values of its own.

    Attributes:
        make: gives it, in its dtype and shape.
        same: what chunks that are alike have in common, so that one is made and stored for all of
            them; None for one like no other.
    """

    make: Callable[[], torch.Tensor]
    same: Hashable = None


@dataclass(frozen=True)
class Piece:
    """One chunk of a tensor.

    Attributes:
        offsets: where it begins.
        sizes: of it.
        content: what is in it.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    content: Copied | Zeros | Made


@dataclass(frozen=True)
class NewTensor:
    """A tensor of the new checkpoint.

    Attributes:
        key: of it.
        properties: its dtype, and what else the list has.
        size: of the whole.
        pieces: the chunks that it is made of.
    """

    key: str
    properties: TensorProperties
    size: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Plan:
    """All that a new checkpoint will hold.

    Attributes:
        saved: what it is made of; None of one that is all new.
        step: its number; None of a release, whose weights alone are taken.
        tensors: in it.
        objects: by key the key in the other checkpoint, None of one that says nothing; without the
            common state.
        common: state.
    """

    saved: Saved | None
    step: int | None
    tensors: tuple[NewTensor, ...]
    objects: dict[str, str | None]
    common: dict[str, Any]

    @property
    def new_bytes(self) -> int:
        """Of tensors that have values of their own, about what is written."""
        sizes: dict[Hashable, int] = {}
        for tensor in self.tensors:
            for piece in tensor.pieces:
                if isinstance(piece.content, Made):
                    which = piece.content.same or (tensor.key, piece.offsets)
                    sizes[which] = math.prod(piece.sizes) * tensor.properties.dtype.itemsize
        return sum(sizes.values())

    @property
    def extra_flags(self) -> list[str]:
        """Megatron's that loading it takes, beside those of its model."""
        has_optimizer = any(is_of_optimizer(tensor.key) for tensor in self.tensors)
        return [] if has_optimizer else ["--no-load-optim"]

    @property
    def listed(self) -> dict[str, TensorStorageMetadata]:
        """Its tensors as a checkpoint's list has them, by key."""
        return {
            tensor.key: TensorStorageMetadata(
                tensor.properties,
                torch.Size(tensor.size),
                [
                    ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes))
                    for piece in tensor.pieces
                ],
            )
            for tensor in self.tensors
        }


@dataclass
class Written:
    """What became of a plan, in bytes.

    Attributes:
        linked: of files that both checkpoints have.
        copied: of files that could not be linked.
        new: of what was written anew.
    """

    linked: int = 0
    copied: int = 0
    new: int = 0


def begin_anew(state: Any) -> None:
    """Set an optimizer's counts of steps to 0, in place."""
    if isinstance(state, list | tuple):
        for one in state:
            begin_anew(one)
    elif isinstance(state, dict):
        for name, value in state.items():
            if name in ("step", "common_step"):
                state[name] = value * 0  # Of its type, a number or a tensor.
            else:
                begin_anew(value)


def check_is_free(out: Path) -> None:
    """Check that a new folder can have a name.

    Raises:
        UserError: something is there, or it can have no folder.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is there and is no folder: name another")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is there and not empty: name a new folder, or move it away")


def write(
    plan: Plan,
    out: Path,
    tell: Callable[[int], None] = lambda done: None,
    beside: Callable[[Path], None] = lambda folder: None,
) -> Written:
    """Write a checkpoint into a new folder, with the tracker that names it.

    Args:
        plan: what it holds.
        out: folder of all steps; what is not empty is left alone.
        tell: is given the bytes of what is new that are done.
        beside: writes what else is in that folder, and is given it.

    Raises:
        UserError: it cannot be written; nothing of it is left.
    """
    check_is_free(out)
    written = Written()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with folder_when_whole(out) as partial:
            folder = Checkpoint(partial, plan.step).folder
            folder.mkdir(parents=True)
            _Writing(plan, folder, written).run(str(Checkpoint(out, plan.step).folder), tell)
            with (partial / TRACKER).open("xb") as file:
                file.write((RELEASE if plan.step is None else str(plan.step)).encode())
                _sync(file)
            beside(partial)
            sync_folder(partial)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror or error}; nothing of it is left"
        ) from None
    return written


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@dataclass
class _Writing:
    """One folder of a step, as it is written."""

    plan: Plan
    folder: Path
    written: Written
    places: dict[MetadataIndex, _StorageInfo] = field(default_factory=dict)
    # Chunks that several tensors have, by what they have in common.
    shared: dict[Hashable, _StorageInfo] = field(default_factory=dict)

    def run(self, identity: str, tell: Callable[[int], None]) -> None:
        """Write all files; the list is the last.

        Args:
            identity: of the checkpoint, for the list.
            tell: as in `write`.
        """
        saved = self.plan.saved
        has_common_file = saved is not None and (saved.folder / COMMON_FILE).exists()
        name = _new_name(saved)
        with (self.folder / name).open("xb") as file:
            for tensor in self.plan.tensors:
                for piece in tensor.pieces:
                    index = MetadataIndex(tensor.key, piece.offsets)
                    self.places[index] = self._place(tensor, piece, file)
                    tell(file.tell())
            for key, source in self.plan.objects.items():
                index = MetadataIndex(key)
                if source is not None:
                    assert saved is not None
                    self.places[index] = saved.place(source)
                    continue
                if EMPTY not in self.shared:
                    self.shared[EMPTY] = _appended(file, memoryview(EMPTY))
                self.places[index] = self.shared[EMPTY]
            if not has_common_file:
                content = io.BytesIO()
                torch.save([self.plan.common], content)
                self.places[MetadataIndex(COMMON)] = _appended(file, content.getbuffer())
            _sync(file)
            self.written.new += file.tell()
        if not self.written.new:
            (self.folder / name).unlink()
        if has_common_file:
            with (self.folder / COMMON_FILE).open("xb") as file:
                torch.save(self.plan.common, file)
                _sync(file)
        for own in sorted({place.relative_path for place in self.places.values()} - {name}):
            self._take(own)
        with (self.folder / CONFIG).open("xb") as file:
            file.write(_CONFIG if saved is None else (saved.folder / CONFIG).read_bytes())
            _sync(file)
        with (self.folder / METADATA).open("xb") as file:
            pickle.dump(self._list(identity), file)
            _sync(file)
        sync_folder(self.folder)

    def _place(self, tensor: NewTensor, piece: Piece, file: BinaryIO) -> _StorageInfo:
        match piece.content:
            case Copied(key, offsets):
                assert self.plan.saved is not None
                return self.plan.saved.place(key, offsets)
            case Zeros():
                shape = (tensor.properties.dtype, piece.sizes)
                if shape not in self.shared:
                    zeros = torch.zeros(piece.sizes, dtype=tensor.properties.dtype)
                    self.shared[shape] = _appended_tensor(file, zeros)
                return self.shared[shape]
            case Made(make, same):
                if same is not None and same in self.shared:
                    return self.shared[same]
                made = make()
                assert (made.dtype, tuple(made.shape)) == (tensor.properties.dtype, piece.sizes)
                place = _appended_tensor(file, made)
                if same is not None:
                    self.shared[same] = place
                return place

    def _take(self, name: str) -> None:
        """Link a file of the other checkpoint, or copy it where there are no links."""
        assert self.plan.saved is not None
        source, target = self.plan.saved.folder / name, self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # The file itself, where the name is a link to it: links are of one folder's structure.
        source = source.resolve()
        try:
            os.link(source, target)
            self.written.linked += target.stat().st_size
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, target)
            with target.open("rb+") as file:
                _sync(file)
            self.written.copied += target.stat().st_size

    def _list(self, identity: str) -> Metadata:
        listed: dict[str, Any] = dict(self.plan.listed)
        objects = (index.fqn for index in self.places if index.fqn not in listed)
        listed |= {key: BytesStorageMetadata() for key in objects}
        return Metadata(
            state_dict_metadata=listed,
            storage_data=self.places,
            storage_meta=StorageMeta(checkpoint_id=identity, save_id=str(uuid4())),
            version=CURRENT_DCP_VERSION,
        )


def _appended_tensor(file: BinaryIO, tensor: torch.Tensor) -> _StorageInfo:
    begin = file.tell()
    # A view would bring all that it is a view of.
    torch.save(tensor.contiguous().clone() if tensor._is_view() else tensor, file)
    return _StorageInfo(Path(file.name).name, begin, file.tell() - begin)


def _appended(file: BinaryIO, content: memoryview) -> _StorageInfo:
    begin = file.tell()
    file.write(content)
    return _StorageInfo(Path(file.name).name, begin, len(content))


def _new_name(saved: Saved | None) -> str:
    """Of the file of what is new: none that the other checkpoint has, which may be such a one."""
    number = 0
    while saved is not None and (saved.folder / f"__new_{number}.distcp").exists():
        number += 1
    return f"__new_{number}.distcp"
