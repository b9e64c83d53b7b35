"""A checkpoint that is planned and not written, read by Megatron as if it were there.

The one idea: a run asks a checkpoint for boxes of tensors by name, and what answers goes by the
checkpoint's list. So a plan is a checkpoint: with its list and its chunks behind Megatron's reader,
every layout gets what it would have got from the written one, and both have the same bytes. A chunk
that several tensors have is read, or made, once a rank.
"""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.strategies import torch as strategy
from megatron.training import get_args
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from tst_megatron.checkpoints.derived import EMPTY, Copied, Made, Piece, Plan, Zeros
from tst_megatron.checkpoints.keys import key_of, other_norm
from tst_megatron.checkpoints.saved import COMMON, Saved
from tst_megatron.wrapped import check_takes

_READER = ("checkpoint_dir", "cache_metadata", "async_strategy")
PATCHED = {
    (strategy, "_get_filesystem_reader"): _READER,
    (serialization, "_get_filesystem_reader"): _READER,
    # The state that is no tensor was a file of its own before 0.19, and a plan has it in its list.
    (serialization, "_legacy_common_state_exists"): ("checkpoint_dir",),
}
"""What is wrapped while a planned checkpoint is loaded, and the first arguments, which this relies
on."""

_EMPTY_STATE = re.compile(r".*norm\._extra_state/shard_[\d._]+")
"""Of a norm, which has none worth keeping."""
_SCHEDULE = "opt_param_scheduler"


def load_planned(
    load: Callable[..., Any],
    make: Callable[[Saved], Plan],
    loads_optimizer: bool,
    ddp_model: Any,
    optimizer: Any,
    opt_param_scheduler: Any,
    *rest: Any,
    **options: Any,
) -> Any:
    """As Megatron's ``load_checkpoint``, of what a checkpoint would become.

    Args:
        load: Megatron's.
        make: plans the new checkpoint.
        loads_optimizer: whether it has a state of the optimizer. The schedule goes on without one,
            too, which Megatron forgets together with it.
        ddp_model: this rank's chunks, as the trainer gives them.
        optimizer: of them.
        opt_param_scheduler: of the run.
        rest: further arguments of ``load``.
        options: likewise.

    Returns:
        The iteration, and the FLOPs so far.

    Raises:
        RuntimeError: this version of Megatron has other functions.
        UserError: it cannot become that.
    """
    args = get_args()
    plans: dict[Path, Plan] = {}
    before = args.no_load_optim
    with _reading(make, plans):
        args.no_load_optim = before if loads_optimizer else True
        try:
            found = load(ddp_model, optimizer, opt_param_scheduler, *rest, **options)
        finally:
            args.no_load_optim = before
    if not loads_optimizer and opt_param_scheduler is not None:
        (plan,) = plans.values()
        opt_param_scheduler.load_state_dict(plan.common[_SCHEDULE])
    return found


@contextmanager
def _reading(make: Callable[[Saved], Plan], plans: dict[Path, Plan]) -> Iterator[None]:
    """Have Megatron read what is planned of any checkpoint.

    Args:
        make: plans it.
        plans: gets the plans, by the folder of what they are made of.
    """
    for (module, name), needed in PATCHED.items():
        check_takes(f"{module.__name__}.{name}", getattr(module, name), needed)

    def reader(checkpoint_dir: Any, *_: Any, **__: Any) -> PlanReader:
        folder = Path(checkpoint_dir)
        if folder not in plans:
            plans[folder] = make(Saved(folder, looks_at_files=False))
        return PlanReader(plans[folder])

    wrapped = dict.fromkeys(PATCHED, reader) | {
        (serialization, "_legacy_common_state_exists"): lambda checkpoint_dir: False
    }
    originals = {(module, name): getattr(module, name) for module, name in PATCHED}
    for (module, name), one in wrapped.items():
        setattr(module, name, one)
    try:
        yield
    finally:
        for (module, name), original in originals.items():
            setattr(module, name, original)


class _Listed(dict[str, Any]):
    """A list that Megatron's own layers and Transformer Engine's find all in that they ask for.

    They keep the weights of some norms under other keys; and Transformer Engine's norms ask for an
    extra state, where Megatron's save none: it is then one that says nothing.
    """

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or bool(
            self.other_name(str(key)) or _EMPTY_STATE.fullmatch(str(key))
        )

    def __missing__(self, key: str) -> Any:
        if other := self.other_name(key):
            return self[other]
        if not _EMPTY_STATE.fullmatch(key):
            raise KeyError(key)
        return BytesStorageMetadata()

    def other_name(self, key: str) -> str:
        """Under which a norm is there; empty of what is not there."""
        name = key_of(key).name
        other = None if name is None else other_norm(name)
        if name is None or other is None:
            return ""
        text = key.removesuffix(name) + other
        return text if super().__contains__(text) else ""


class PlanReader(FileSystemReader):
    """What torch's loading of checkpoints reads a plan by.

    Args:
        plan: of the checkpoint.
    """

    def __init__(self, plan: Plan) -> None:
        assert plan.saved is not None, "a run's plan is made of the checkpoint that it loads"
        super().__init__(plan.saved.folder)
        self._plan = plan
        self._saved = plan.saved
        self._listed = _Listed(plan.listed)
        self._listed.update({key: BytesStorageMetadata() for key in (COMMON, *plan.objects)})
        self._pieces = {
            MetadataIndex(tensor.key, piece.offsets): (tensor.properties.dtype, piece)
            for tensor in plan.tensors
            for piece in tensor.pieces
        }

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """The plan's list."""
        return Metadata(
            state_dict_metadata=self._listed,
            # As a stand-in: where chunks lie is the plan's to know.
            storage_data=dict.fromkeys(self._pieces),
            storage_meta=StorageMeta(load_id=self.load_id),
        )

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Give what is asked for, a chunk after the other."""
        wanted: dict[Hashable, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(self._object(item.storage_index.fqn)))
            else:
                wanted[self._same(item.storage_index)].append(item)
        for items in wanted.values():
            content = self._content(items[0].storage_index)
            for item in items:
                target = planner.resolve_tensor(item).detach()
                box = tuple(
                    slice(start, start + length)
                    for start, length in zip(item.storage_offsets, item.lengths, strict=True)
                )
                target.copy_(content[box])
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _object(self, key: str) -> bytes:
        if key != COMMON:
            source = self._plan.objects.get(key)
            return EMPTY if source is None else self._saved.object(source)
        content = io.BytesIO()
        torch.save([self._plan.common], content)
        return content.getvalue()

    def _same(self, index: MetadataIndex) -> Hashable:
        """What chunks of one content have in common."""
        dtype, piece = self._piece(index)
        match piece.content:
            case Copied(key, offsets):
                place = self._saved.place(key, offsets)
                return place.relative_path, place.offset
            case Zeros():
                return dtype, piece.sizes
            case Made(_, same):
                return index if same is None else same

    def _content(self, index: MetadataIndex) -> torch.Tensor:
        dtype, piece = self._piece(index)
        match piece.content:
            case Copied(key, offsets):
                return self._saved.chunk_at(key, offsets, piece.sizes)
            case Zeros():
                return torch.zeros((), dtype=dtype).expand(piece.sizes)
            case Made(make, _):
                return make()

    def _piece(self, index: MetadataIndex) -> tuple[torch.dtype, Piece]:
        # Without the number of the chunk in the list, which a reader may know or not.
        assert index.offset is not None
        found = self._pieces.get(MetadataIndex(index.fqn, index.offset))
        if found is None:
            found = self._pieces[MetadataIndex(self._listed.other_name(index.fqn), index.offset)]
        return found
