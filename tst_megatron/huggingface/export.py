"""A checkpoint's weights as a folder of Hugging Face's.

The one idea: no model is built. A weight is rows of a chunk on disk (`weights`), so the memory that
it takes is the largest tensor's and a chunk's, in whatever layout the checkpoint was written. The
folder has another name until all of it is there; what a stopped export has written whole, the same
command goes on from.
"""

import fcntl
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from tst_megatron.checkpoints.derived import check_is_free
from tst_megatron.checkpoints.keys import is_of_model, key_of, other_norm
from tst_megatron.checkpoints.saved import Saved
from tst_megatron.errors import UserError
from tst_megatron.files import sync_folder, write_whole
from tst_megatron.huggingface.families import Family, config_of, family_of
from tst_megatron.huggingface.own_code import files_of
from tst_megatron.huggingface.own_model import own_models_of, own_weights, with_own
from tst_megatron.huggingface.safetensors_file import DTYPES, Listed, write
from tst_megatron.huggingface.shape import Shape, shape_of
from tst_megatron.huggingface.weights import EMBEDDING, OUTPUT, Place, Places, Weight, weights_of
from tst_megatron.methods.own_model import OwnModel
from tst_megatron.stock.layer_kinds import pattern_of

INDEX = "model.safetensors.index.json"
_PLAN = "plan.json"
_LOCK = ".lock"
_PARTIAL = ".partial"
_HEADS = "mtp."
_STATE = "._extra_state"
_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Model:
    """A checkpoint's model, as it can be written.

    Attributes:
        saved: the checkpoint.
        shape: of the model.
        family: that it is of.
        places: of its weights.
        padding: rows of its embedding that stand for no token, and are left out.
        has_heads: whether it has heads of multi-token prediction, which are left out.
        owns: what it has beside the family's, by method.
    """

    saved: Saved
    shape: Shape
    family: Family
    places: Places
    padding: int
    has_heads: bool
    owns: tuple[OwnModel, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Of its embedding, as it is saved."""
        found = self.saved.tensors[EMBEDDING].properties.dtype
        assert isinstance(found, torch.dtype)
        return found

    @property
    def title(self) -> str:
        """As people call it."""
        own = " and ".join(one.title for one in self.owns)
        return f"{self.family.title} with {own}" if own else self.family.title

    def weights(self) -> Iterator[Weight]:
        """All of it, the family's first."""
        yield from weights_of(self.shape, self.family.spelling)
        yield from own_weights(self.owns)

    def config(self, dtype: str, ids: Mapping[str, int | None]) -> dict[str, Any]:
        """Its ``config.json``: arguments as of `config_of`."""
        found = config_of(self.shape, dtype, ids)
        return with_own(found, self.family, self.owns) if self.owns else found

    def code(self) -> dict[str, bytes]:
        """Files of code that it needs, by name; none of a family's own model."""
        return files_of([one.code for one in self.owns], self.family) if self.owns else {}


def model_of(saved: Saved, tokens: int | None) -> Model:
    """What a checkpoint's model is.

    Args:
        saved: the checkpoint.
        tokens: that the tokenizer has; None where that is not known, so that all rows are kept.

    Raises:
        UserError: no family has such a model, or its tensors are not what its arguments say.
    """
    args = saved.args
    if getattr(args, "num_layers", None) is None:
        raise UserError(
            f"{saved.folder} has no arguments of Megatron's, so that its model cannot be told: "
            "save it with Megatron's own trainer"
        )
    if EMBEDDING not in saved.tensors:
        raise UserError(
            f"{saved.folder} has no {EMBEDDING}: it is no checkpoint of a GPTModel or a HybridModel"
        )
    owns = own_models_of(saved)
    rows = int(saved.tensors[EMBEDDING].size[0])
    if tokens is not None and tokens > rows:
        raise UserError(
            f"the tokenizer has {tokens} tokens and {saved.folder} has rows for {rows}: it is not "
            "the one that the model was trained with"
        )
    shape = shape_of(args, rows if tokens is None else tokens, OUTPUT not in saved.tensors)
    found = Model(
        saved,
        shape,
        family_of(shape),
        Places(saved.tensors, pattern_of(args) is not None),
        rows - shape.vocab_size,
        any(key.startswith(_HEADS) for key in saved.tensors),
        owns,
    )
    _check_whole(found)
    return found


def _check_whole(model: Model) -> None:
    """That the model is all that the checkpoint's tensors are, but for padding and heads.

    A tensor that would be left out, or of which a part would, is of another model than the
    arguments say: what is written would load and compute something else.

    Raises:
        UserError: a tensor is of another size or number, is missing, or is one too many.
    """
    saved = model.saved
    unties = getattr(saved.args, "untie_embeddings_and_output_weights", None)
    if unties is not None and unties == model.shape.ties_embeddings:
        said = (
            "output has a matrix of its own"
            if unties
            else ("embedding is the output's matrix, too")
        )
        raise UserError(
            f"{saved.folder} has {'no ' if unties else ''}{OUTPUT}, and its arguments say that its "
            f"{said}: it is another model's, or was cut short"
        )
    covered: dict[Place, int] = {}
    widths: dict[Place, tuple[int, ...]] = {}
    for weight in model.weights():
        place = model.places[weight]
        covered[place] = covered.get(place, 0) + sum(end - begin for begin, end in weight.rows)
        widths[place] = weight.shape[1:]
    for place, rows in covered.items():
        own = tuple(saved.tensors[place.key].size[len(place.offsets) :])
        free = model.padding if place.key in (EMBEDDING, OUTPUT) else 0
        if own != (rows + free, *widths[place]):
            raise UserError(
                f"{place.key} in {saved.folder} is of {list(own)}, and the checkpoint's "
                f"arguments say {[rows + free, *widths[place]]}: it is not this model's"
            )
    _check_numbers(saved, covered)
    read = frozenset(itertools.chain.from_iterable(one.read for one in model.owns))
    _check_nothing_is_left(saved, {*read, *(place.key for place in covered)})


def _check_numbers(saved: Saved, places: Iterable[Place]) -> None:
    """That tensors of layers and experts have as many as there are, in numbers that are weights."""
    numbers: dict[str, int] = {}
    axes: dict[str, int] = {}
    for place in places:
        numbers[place.key] = numbers.get(place.key, 0) + 1
        axes[place.key] = len(place.offsets)
    for key, number in numbers.items():
        listed = saved.tensors[key]
        there = math.prod(listed.size[: axes[key]])
        if there != number:
            raise UserError(
                f"{saved.folder} has {there} of {key}, and its arguments say {number}: it is not "
                "this model's"
            )
        if listed.properties.dtype not in DTYPES:
            raise UserError(
                f"{key} in {saved.folder} is of {listed.properties.dtype}, which has scales beside "
                "it that are not read: save the checkpoint without --fp8-param-gather"
            )


def _check_nothing_is_left(saved: Saved, read: Collection[str]) -> None:
    for key in saved.tensors:
        name = key_of(key).name
        # A norm may stand there under both of its names, for either kind of layers.
        other = None if name is None else other_norm(name)
        twin = key if other is None or name is None else key.removesuffix(name) + other
        is_read = key in read or twin in read
        if not is_read and is_of_model(key) and not key.startswith(_HEADS) and _STATE not in key:
            raise UserError(
                f"{saved.folder} has {key}, which its arguments do not say that its model has: it "
                "would be lost, and what is left would be another model"
            )


class Weights:
    """Reads a model's weights, one chunk in memory.

    Args:
        model: whose.
        dtype: of what is read.
    """

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        self._model = model
        self._dtype = dtype
        # Queries, keys and values are rows of one chunk, and gate and up.
        self._last: tuple[object, torch.Tensor] | None = None
        self._chunks: dict[str, dict[tuple[int, ...], list[ChunkStorageMetadata]]] = {}

    def read(self, weight: Weight) -> torch.Tensor:
        """A weight, in its shape.

        Raises:
            UserError: it cannot be read.
        """
        place = self._model.places[weight]
        listed = self._model.saved.tensors[place.key]
        ones = (1,) * len(place.offsets)
        behind = tuple(listed.size[len(place.offsets) :])
        chunks = self._chunks_of(place)
        parts = []
        for begin, end in weight.rows:
            offsets = (*place.offsets, begin, *(0 for _ in behind[1:]))
            sizes = (*ones, end - begin, *behind[1:])
            parts.append(self._part(place.key, offsets, sizes, chunks))
        found = parts[0] if len(parts) == 1 else torch.cat(parts, dim=len(ones))
        return found.reshape(weight.shape).to(self._dtype)

    def _chunks_of(self, place: Place) -> Sequence[ChunkStorageMetadata]:
        """Chunks of one layer or expert, of which a model has many thousands."""
        if place.key not in self._chunks:
            found: dict[tuple[int, ...], list[ChunkStorageMetadata]] = {}
            for chunk in self._model.saved.tensors[place.key].chunks:
                axes = zip(chunk.offsets, chunk.sizes, strict=True)
                spans = [range(begin, begin + size) for begin, size in axes]
                for leading in itertools.product(*spans[: len(place.offsets)]):
                    found.setdefault(leading, []).append(chunk)
            self._chunks[place.key] = found
        return self._chunks[place.key].get(place.offsets, [])

    def _part(
        self,
        key: str,
        offsets: Sequence[int],
        sizes: Sequence[int],
        chunks: Sequence[ChunkStorageMetadata],
    ) -> torch.Tensor:
        """A box: a view of the one chunk that holds it, or put together from several."""
        for chunk in chunks:
            starts = [ours - theirs for ours, theirs in zip(offsets, chunk.offsets, strict=True)]
            if all(
                start >= 0 and start + size <= own
                for start, size, own in zip(starts, sizes, chunk.sizes, strict=True)
            ):
                whole = self._chunk(key, chunk)
                return whole[
                    tuple(
                        slice(start, start + size)
                        for start, size in zip(starts, sizes, strict=True)
                    )
                ]
        self._last = None
        return self._model.saved.part(key, offsets, sizes, chunks)

    def _chunk(self, key: str, chunk: ChunkStorageMetadata) -> torch.Tensor:
        which = (key, tuple(chunk.offsets))
        if self._last is None or self._last[0] != which:
            # Gone before the next is there.
            self._last = None
            self._last = which, self._model.saved.chunk(key, chunk)
        return self._last[1]


@dataclass(frozen=True)
class Shard:
    """A file of weights.

    Attributes:
        name: of the file.
        weights: in it.
    """

    name: str
    weights: tuple[Weight, ...]


def shards_of(model: Model, dtype: torch.dtype, most: int) -> tuple[Shard, ...]:
    """How a model is cut into files.

    Args:
        model: of which.
        dtype: of the weights.
        most: bytes of a file, where one weight alone is not larger.
    """
    cuts: list[list[Weight]] = [[]]
    size = 0
    for weight in model.weights():
        own = Listed(weight.name, weight.shape, dtype).size
        if cuts[-1] and size + own > most:
            cuts.append([])
            size = 0
        cuts[-1].append(weight)
        size += own
    if len(cuts) == 1:
        return (Shard("model.safetensors", tuple(cuts[0])),)
    return tuple(
        Shard(f"model-{number:05d}-of-{len(cuts):05d}.safetensors", tuple(cut))
        for number, cut in enumerate(cuts, start=1)
    )


def bytes_of(text: str) -> int:
    """A size such as ``5GB``, in bytes.

    Raises:
        UserError: it is none.
    """
    number, unit = text[:-2].strip(), text[-2:].upper()
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if unit not in _BYTES or not 0 < value < float("inf") or value * _BYTES[unit] < 1:
        raise UserError(f"--shard-size {text} is no size: write one such as 5GB or 500MB")
    return int(value * _BYTES[unit])


@contextmanager
def begun(out: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The folder that a new one is written in, which the same export goes on in.

    Args:
        out: the name that it will have.
        settings: what makes an export the same one.

    Raises:
        UserError: something is there, another export has begun there, or one is at work.
    """
    check_is_free(out)
    partial = out.with_name(f"{out.name}{_PARTIAL}")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another export to {out} is at work: wait for it, or name another folder"
                ) from None
            check_is_free(out)  # Another may have ended since.
            _check_is_same(partial, settings)
            yield partial
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from None


def _check_is_same(partial: Path, settings: Mapping[str, Any]) -> None:
    plan = partial / _PLAN
    text = json.dumps(settings, indent=2, sort_keys=True, default=str)
    if not plan.exists():
        left = [path.name for path in partial.iterdir() if path.name != _LOCK]
        if left:
            raise UserError(
                f"{partial} is in the way, and is no export that was stopped: move it away"
            )
        write_whole(plan, text)
    elif plan.read_text() != text:
        raise UserError(
            f"{partial} is what another export has left, of other settings: end that one with its "
            "own command, or remove the folder"
        )


def name_it(partial: Path, out: Path) -> None:
    """Give a folder its own name, now that all of it is there.

    What says which export it is goes last: one that is stopped before has it and goes on.

    Raises:
        UserError: something has that name by now.
        OSError: it cannot have it.
    """
    check_is_free(out)
    sync_folder(partial)
    partial.rename(out)
    for name in (_PLAN, _LOCK):
        (out / name).unlink()
    sync_folder(out)
    sync_folder(out.parent)


def write_weights(
    model: Model,
    folder: Path,
    dtype: torch.dtype,
    shards: Sequence[Shard],
    tell: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the files of weights that are not there yet, and their index.

    Args:
        model: whose.
        folder: where to.
        dtype: of the weights.
        shards: the files.
        tell: is given the bytes that are done.

    Raises:
        UserError: the checkpoint cannot be read.
        OSError: a file cannot be written.
    """
    reader = Weights(model, dtype)
    done = 0

    def told(weights: Sequence[Weight]) -> Iterator[torch.Tensor]:
        nonlocal done
        for weight in weights:
            yield reader.read(weight)
            done += Listed(weight.name, weight.shape, dtype).size
            tell(done)

    for shard in shards:
        listed = [Listed(weight.name, weight.shape, dtype) for weight in shard.weights]
        path = folder / shard.name
        if path.exists():  # Whole, as it has its name.
            done += sum(one.size for one in listed)
            tell(done)
        else:
            write(path, listed, told(shard.weights))
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": done},
            "weight_map": {one.name: shard.name for shard in shards for one in shard.weights},
        }
        write_whole(folder / INDEX, json.dumps(index, indent=2) + "\n")


def identity_of(saved: Saved) -> str:
    """What tells a checkpoint from every other: its list, which has an id of its own."""
    return sha256((saved.folder / ".metadata").read_bytes()).hexdigest()


def dtype_of(name: str | None, model: Model) -> torch.dtype:
    """The dtype that a model is written in.

    Args:
        name: as the user wrote it; None for the checkpoint's own.
        model: of the checkpoint.

    Raises:
        UserError: it is saved in one that cannot be written.
    """
    found = model.dtype if name is None else getattr(torch, name)
    if found not in DTYPES:
        raise UserError(
            f"{model.saved.folder} has weights of {found}: give --dtype bfloat16, float16 or "
            "float32"
        )
    return found
