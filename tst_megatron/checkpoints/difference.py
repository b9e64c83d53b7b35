"""What differs between two checkpoints: arguments, keys, shapes, dtypes and values.

The one idea: two checkpoints of one model hold the same tensors, however their layouts cut them. So
tensors are compared box by box, where a box is a chunk of the one that is cut more coarsely, in the
memory of one chunk of each; what both have in the same place of the same file is not read at all.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

from tst_megatron.checkpoints.keys import is_of_model, is_of_optimizer, shard_of
from tst_megatron.checkpoints.saved import Saved, overlap
from tst_megatron.runs.flag_roles import Role

_BLOCK = 1 << 22
"""Elements that are compared at once, in float64."""
_COUNTS = ("iteration", "opt_param_scheduler", "optimizer", "num_floating_point_operations_so_far")
_RNG = "rng_state/"
_NOT_THERE = "not there"
_ASIDE = (Role.BOOKKEEPING, Role.CIRCUMSTANCES, Role.COMPUTATION)
"""Roles of arguments that make no other checkpoint: where, when and how the same was worked out."""


@dataclass(frozen=True)
class Values:
    """How far a tensor's values are apart.

    Attributes:
        absolute: the largest difference.
        relative: that, as a share of the largest value of either.
    """

    absolute: float
    relative: float


@dataclass
class Difference:
    """What differs.

    Attributes:
        arguments: by name both values, of those that matter.
        aside: likewise, of bookkeeping.
        state: likewise, of what is no tensor: the step, the schedule, the optimizer's groups.
        only: keys that only one has, of the first and of the second.
        shapes: by key both.
        dtypes: likewise.
        values: by key, of those above the tolerance.
        within: tensors with values that differ by less.
        objects: keys of random states that differ.
        compared: tensors of both with one shape.
    """

    arguments: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    aside: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    state: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    only: tuple[list[str], list[str]] = ([], [])
    shapes: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    dtypes: dict[str, tuple[str, str]] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    within: dict[str, Values] = field(default_factory=dict)
    objects: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def is_alike(self) -> bool:
        """Whether nothing differs but bookkeeping, and values within the tolerance."""
        found = (self.arguments, self.state, *self.only, self.shapes, self.dtypes)
        return not any((*found, self.values, self.objects))

    def as_json(self) -> dict[str, Any]:
        """All of it, with the verdict."""
        return {"is_alike": self.is_alike} | asdict(self)


def difference(
    one: Saved,
    other: Saved,
    tolerance: float = 0.0,
    model_only: bool = False,
    tell: Callable[[int], None] = lambda done: None,
) -> Difference:
    """Compare two checkpoints.

    Args:
        one: the first.
        other: the second.
        tolerance: relative difference up to which values are alike.
        model_only: leave the optimizer, random states, the step and the schedule out, and of the
            arguments all but the model's.
        tell: is given the bytes of the first one's tensors that are done.
    """
    found = Difference()
    _compare_arguments(found, one.args, other.args, model_only)
    if not model_only:
        found.state = _differing(_counts(one), _counts(other))
    keys, others = (_keys(saved, model_only) for saved in (one, other))
    found.only = (sorted(keys - others), sorted(others - keys))
    done = 0
    for key in (key for key in one.tensors if key in keys):
        if key in other.tensors:
            _compare_tensor(found, one, other, key, tolerance)
        done += bytes_of(one.tensors[key])
        tell(done)
    if not model_only:
        random = (key for key in one.objects if key.startswith(_RNG) and key in other.objects)
        found.objects = [key for key in random if one.object(key) != other.object(key)]
    return found


def _counts(saved: Saved) -> dict[str, Any]:
    return {name: saved.common.get(name) for name in _COUNTS}


def bytes_of(tensor: TensorStorageMetadata) -> int:
    """Of a tensor, whole."""
    return math.prod(tensor.size) * tensor.properties.dtype.itemsize


def _keys(saved: Saved, model_only: bool) -> set[str]:
    """Keys of tensors and, without their shards, of modules' extra states."""
    shards = (shard.key for text in saved.objects if (shard := shard_of(text)) is not None)
    return {
        key
        for key in (*saved.tensors, *shards)
        if is_of_model(f"{key}/") or (not model_only and is_of_optimizer(key))
    }


def _compare_arguments(
    found: Difference, one: Namespace, other: Namespace, model_only: bool
) -> None:
    for name, values in _differing(vars(one), vars(other)).items():
        # Of a nested value the argument's own name.
        own = name.partition(".")[0]
        matters = Role.MODEL.has(own) or own == "padded_vocab_size"
        if not model_only:
            matters = matters or not any(role.has(own) for role in _ASIDE)
        (found.arguments if matters else found.aside)[name] = values


def _differing(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Places in nested values where they differ, by path."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = [*one, *(name for name in other if name not in one)]
        pairs = [(name, one.get(name, _NOT_THERE), other.get(name, _NOT_THERE)) for name in names]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return {path: (one, other)}
        pairs = [(place, *both) for place, both in enumerate(zip(one, other, strict=True))]
    else:
        return {} if _same(one, other) else {path: (one, other)}
    found: dict[str, tuple[Any, Any]] = {}
    for name, ours, theirs in pairs:
        found |= _differing(ours, theirs, f"{path}.{name}" if path else str(name))
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return str(one) == str(other)


def _compare_tensor(
    found: Difference, one: Saved, other: Saved, key: str, tolerance: float
) -> None:
    ours, theirs = one.tensors[key], other.tensors[key]
    if ours.size != theirs.size:
        found.shapes[key] = list(ours.size), list(theirs.size)
        return
    found.compared += 1
    dtypes = tuple(str(each.properties.dtype).removeprefix("torch.") for each in (ours, theirs))
    if dtypes[0] != dtypes[1]:
        found.dtypes[key] = dtypes[0], dtypes[1]
    absolute = largest = 0.0
    for left, right in _boxes(one, other, key):
        for start in range(0, left.numel(), _BLOCK):
            apart, most = _apart(left[start : start + _BLOCK], right[start : start + _BLOCK])
            absolute, largest = max(absolute, apart), max(largest, most)
    if not absolute:
        return
    values = Values(absolute, absolute / largest if largest else math.inf)
    (found.within if values.relative <= tolerance else found.values)[key] = values


def _boxes(one: Saved, other: Saved, key: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Parts of a tensor as both have them, ``[elements]``; not what is one place in one file."""
    coarse, fine = one, other
    if len(one.tensors[key].chunks) > len(other.tensors[key].chunks):
        coarse, fine = other, one
    parts = {tuple(part.offsets): part for part in fine.tensors[key].chunks}
    for chunk in coarse.tensors[key].chunks:
        same = parts.get(tuple(chunk.offsets))
        meeting = [same] if same is not None and same == chunk else []
        if meeting and _is_one_place(one, other, key, chunk):
            continue
        meeting = meeting or [part for part in parts.values() if _meet(chunk, part)]
        whole = coarse.chunk(key, chunk)
        for part in meeting:
            both = overlap(chunk.offsets, chunk.sizes, part.offsets, part.sizes)
            assert both is not None
            own, others = both
            yield whole[own].reshape(-1), fine.chunk(key, part)[others].reshape(-1)


def _meet(one: ChunkStorageMetadata, other: ChunkStorageMetadata) -> bool:
    return overlap(one.offsets, one.sizes, other.offsets, other.sizes) is not None


def _is_one_place(one: Saved, other: Saved, key: str, chunk: ChunkStorageMetadata) -> bool:
    ours, theirs = (saved.place(key, chunk.offsets) for saved in (one, other))
    if (ours.offset, ours.length) != (theirs.offset, theirs.length):
        return False
    return (one.folder / ours.relative_path).samefile(other.folder / theirs.relative_path)


def _apart(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """The largest difference, and the largest value of either; a number is endlessly far from none.

    Args:
        one: ``[elements]``.
        other: likewise.
    """
    left, right = one.double(), other.double()
    apart = (left - right).abs()
    # Not numbers, or infinite, in both.
    apart[(left == right) | (left.isnan() & right.isnan())] = 0.0
    apart.nan_to_num_(nan=math.inf, posinf=math.inf)
    most = torch.maximum(left.abs(), right.abs()).nan_to_num_(nan=0.0, posinf=0.0)
    return float(apart.max()), float(most.max())
