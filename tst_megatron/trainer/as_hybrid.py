"""A GPTModel's checkpoint as that of its twin, the HybridModel of the same blocks.

The one idea: a block of a ``GPTModel`` is attention and then an MLP or experts, and a
``HybridModel`` counts the two as layers (``*-``, ``*E``), with the same tensors and the same order
of computation. So the twin's checkpoint is the same tensors under other names, planned and not
written, and a run goes on in it with its optimizer, its schedule and its losses. Megatron's main
does the like of it (megatron/core/dist_checkpointing/gpt_checkpoint_interop.py).
"""

import argparse
import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from tst_megatron.checkpoints.derived import Copied, Made, NewTensor, Piece, Plan
from tst_megatron.checkpoints.keys import Shard, is_of_optimizer, key_of, shard_of
from tst_megatron.checkpoints.saved import COMMON, Saved
from tst_megatron.errors import UserError
from tst_megatron.stock.layer_kinds import WITH_EXPERTS, kinds_of, pattern_of

_FINAL_NORMS = ("decoder.final_layernorm.", "decoder.final_norm.")
"""What the keys of the last norm begin with, of either model."""
_OF_ATTENTION = ("self_attention.", "input_layernorm.")
_HEADS = "mtp."
_PIPE, _MAIN = "|", "/"


def goes_on_as_hybrid(saved: argparse.Namespace, args: argparse.Namespace) -> bool:
    """Whether a checkpoint is a GPTModel's and the run's model is a HybridModel.

    Args:
        saved: the checkpoint's arguments.
        args: Megatron's, of the run.
    """
    return (
        pattern_of(args) is not None
        and pattern_of(saved) is None
        and getattr(saved, "num_layers", None) is not None
    )


def pattern_of_twin(saved: argparse.Namespace) -> str:
    """The pattern of a GPTModel's twin, such as ``*-*E``.

    Args:
        saved: its arguments.
    """
    return "".join("*E" if kind in WITH_EXPERTS else "*-" for kind in kinds_of(saved))


def check_goes_on(saved: argparse.Namespace, args: argparse.Namespace, where: str) -> None:
    """Check that the run's model is the twin of the checkpoint's, and can take its state.

    Args:
        saved: the checkpoint's arguments.
        args: Megatron's, of the run.
        where: the checkpoint, as its user calls it.

    Raises:
        UserError: it is not, or cannot.
    """
    pattern = str(pattern_of(args))
    wanted = pattern_of_twin(saved)
    begin = f"the checkpoint in {where} is a GPTModel's, and this run's model is a HybridModel"
    if set(kinds_of(saved)) - {"-", "E"}:
        raise UserError(
            f"{begin}: layers of linear attention have no twin there, so leave out "
            "--hybrid-layer-pattern"
        )
    if _MAIN in pattern or getattr(saved, "mtp_num_layers", None):
        raise UserError(
            f"{begin}: heads of multi-token prediction are other modules there, so go on without "
            "--hybrid-layer-pattern"
        )
    if pattern.replace(_PIPE, "") != wanted:
        raise UserError(
            f"{begin} of other layers: its twin has --hybrid-layer-pattern '{wanted}' (with "
            f"'{_PIPE}' where its pipeline is cut)"
        )
    told = getattr(saved, "methods", None) or {}
    if "depths" in told:
        raise UserError(
            f"{begin}: a routed block is attention and MLP together, and they are layers of their "
            "own there, so go on without --hybrid-layer-pattern"
        )
    kind = getattr(saved, "ckpt_format", None) or "torch_dist"
    if kind != "torch_dist":
        raise UserError(
            f"{begin}: of --ckpt-format {kind} that cannot be read as such, so convert it once "
            "with --ckpt-convert-format torch_dist"
        )
    flat = getattr(saved, "use_distributed_optimizer", False) and not getattr(
        saved, "dist_ckpt_optim_fully_reshardable", False
    )
    if flat and not args.no_load_optim and not args.finetune:
        raise UserError(
            f"{begin}: the optimizer's state there is cut into buckets and not by layers, so save "
            "it once with --dist-ckpt-optim-fully-reshardable, as a GPTModel"
        )


def plan_of(saved: Saved) -> Plan:
    """The twin's checkpoint.

    Args:
        saved: the GPTModel's.

    Raises:
        UserError: it has a tensor that the twin has no place for.
    """
    return Plan(
        saved,
        int(saved.common["iteration"]) if "iteration" in saved.common else None,
        tuple(_tensors(saved)),
        dict(_objects(saved)),
        _common(saved.common),
    )


def _tensors(saved: Saved) -> Iterator[NewTensor]:
    for text, listed in saved.tensors.items():
        key = key_of(text)
        if key.own.startswith(_HEADS):
            continue
        if key.name is None or key.layer is not None:
            name = _renamed(text) if key.name is None else key.numbered(_place(key.layer, key.name))
            yield NewTensor(
                name,
                listed.properties,
                tuple(listed.size),
                tuple(
                    Piece(tuple(chunk.offsets), tuple(chunk.sizes), Copied(text, chunk.offsets))
                    for chunk in listed.chunks
                ),
            )
            continue
        chunks: dict[int, list[ChunkStorageMetadata]] = defaultdict(list)
        for chunk in listed.chunks:
            if chunk.sizes[0] != 1:
                raise UserError(
                    f"{text} in {saved.folder} is not stored layer by layer, as Megatron 0.19 "
                    "does: load and save it once with that"
                )
            chunks[chunk.offsets[0]].append(chunk)
        for layer, own in sorted(chunks.items()):
            yield NewTensor(
                key.numbered(_place(layer, key.name)),
                listed.properties,
                tuple(listed.size[1:]),
                tuple(_of_layer(saved, text, chunk) for chunk in own),
            )


def _of_layer(saved: Saved, text: str, chunk: ChunkStorageMetadata) -> Piece:
    """A chunk of one layer, without the axis of layers."""
    sizes = tuple(chunk.sizes[1:])
    return Piece(
        tuple(chunk.offsets[1:]), sizes, Made(lambda: saved.chunk(text, chunk).view(sizes))
    )


def _objects(saved: Saved) -> Iterator[tuple[str, str | None]]:
    # A GPTModel leaves out this one, which says nothing (gpt_model.py, sharded_state_dict).
    yield str(Shard("output_layer._extra_state", (0,), (1,))), None
    for text in saved.objects:
        shard = shard_of(text)
        key = None if shard is None else key_of(shard.key)
        if text == COMMON or (key is not None and key.own.startswith(_HEADS)):
            continue
        if shard is None or key is None or key.name is None:
            yield (text if is_of_optimizer(text) else _renamed(text)), text
        elif key.layer is not None:
            own = key.numbered(_place(key.layer, key.name))
            yield str(Shard(own, shard.offset, shard.shape)), text
        else:
            own = key.numbered(_place(shard.offset[0], key.name))
            # A grid has an axis at least.
            rest = (shard.offset[1:], shard.shape[1:]) if shard.offset[1:] else ((0,), (1,))
            yield str(Shard(own, *rest)), text


def _place(layer: int | None, name: str) -> int:
    """The twin's layer of what a block has."""
    assert layer is not None
    return 2 * layer + (not name.startswith(_OF_ATTENTION))


def _renamed(text: str) -> str:
    """What is in no layer, under the twin's name."""
    return text.replace(*_FINAL_NORMS)


def _common(common: dict[str, Any]) -> dict[str, Any]:
    """What is no tensor, with the twin's arguments."""
    found = copy.deepcopy(common)
    args = found["args"]
    pattern = pattern_of_twin(args)
    args.hybrid_layer_pattern = pattern
    args.num_layers = len(pattern)
    if getattr(args, "encoder_num_layers", None):
        args.encoder_num_layers = len(pattern)
    return found
