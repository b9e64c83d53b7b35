"""A GPTModel's checkpoint as that of its twin, the HybridModel of the same blocks.

The one idea: a block of a ``GPTModel`` is attention and then an MLP or experts, and a
``HybridModel`` counts the two as layers (``*-``, ``*E``), with the same tensors and the same order
of computation. So the twin's checkpoint is the same tensors under other names, planned and not
written, and a run goes on in it with its optimizer, its schedule and its losses.

Megatron does the like of it (megatron/core/dist_checkpointing/gpt_checkpoint_interop.py), and is
left to where it can: with Transformer Engine's layers, of one kind of MLP. Its own layers have some
norms under another key in either model, and experts in some blocks alone it does not take.
"""

import argparse
import copy
from collections.abc import Iterator
from typing import Any

from megatron.core.optimizer import DistributedOptimizer
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from tst_megatron.checkpoints.derived import Copied, Made, NewTensor, Piece, Plan
from tst_megatron.checkpoints.keys import Shard, is_of_optimizer, key_of, shard_of
from tst_megatron.checkpoints.saved import COMMON, TORCH_DIST, Saved
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods
from tst_megatron.stock.layer_kinds import WITH_EXPERTS, are_numbered, kinds_of, pattern_of

_FINAL_NORMS = ("decoder.final_layernorm.", "decoder.final_norm.")
"""What the keys of the last norm begin with, of either model."""
_OF_ATTENTION = ("self_attention.", "input_layernorm.")
_PIPE, _MAIN = "|", "/"
_OF_BLOCKS = ("*", "-", "E", _PIPE, _MAIN)
# Arguments that say something of each layer, which are other ones there.
_BY_LAYER = ("no_rope_freq", "window_attn_skip_freq", "linear_attention_freq")
_OTHERWISE = ("multi_latent_attention", "experimental_attention_variant")


def goes_on_as_hybrid(saved: argparse.Namespace, args: argparse.Namespace) -> bool:
    """Whether a checkpoint is a GPTModel's and the run's model a HybridModel of such blocks alone.

    One with other layers, which begin anew, is Megatron's to load.

    Args:
        saved: the checkpoint's arguments.
        args: Megatron's, of the run.
    """
    pattern = pattern_of(args)
    return (
        pattern is not None
        and not set(pattern).difference(_OF_BLOCKS)
        and pattern_of(saved) is None
        and getattr(saved, "num_layers", None) is not None
        and (getattr(saved, "ckpt_format", None) or TORCH_DIST) == TORCH_DIST
    )


def is_loaded_here(saved: argparse.Namespace, args: argparse.Namespace) -> bool:
    """Likewise, and Megatron's own way of loading it cannot.

    Args:
        saved: the checkpoint's arguments.
        args: Megatron's, of the run.
    """
    is_stock = args.transformer_impl == "transformer_engine" and not are_numbered(saved)
    return goes_on_as_hybrid(saved, args) and not is_stock


def pattern_of_twin(saved: argparse.Namespace) -> str:
    """The pattern of a GPTModel's twin, such as ``*-*E``.

    Args:
        saved: its arguments.
    """
    return "".join("*E" if kind in WITH_EXPERTS else "*-" for kind in kinds_of(saved))


def check_goes_on(
    saved: argparse.Namespace, args: argparse.Namespace, where: str, optimizer: str | None
) -> None:
    """Check that the run's model is the twin of the checkpoint's, and can take its state.

    Args:
        saved: the checkpoint's arguments.
        args: Megatron's, of the run.
        where: the checkpoint, as its user calls it.
        optimizer: how its distributed optimizer's state is cut; None where none is read.

    Raises:
        UserError: it is not, or cannot.
    """
    begin = f"the checkpoint in {where} is a GPTModel's, and this run's model is a HybridModel"
    leave_out = "so go on without --hybrid-layer-pattern"
    if starting := [one for one in methods() if one.starts_from_another and one.is_on(args)]:
        raise UserError(
            f"{begin}: to become another model ({starting[0].name}) it has to be a GPTModel, "
            f"{leave_out} and become a HybridModel afterwards"
        )
    for name in (*_BY_LAYER, *_OTHERWISE):
        if getattr(saved, name, None) or getattr(args, name, None):
            flag = name.replace("_", "-")
            raise UserError(f"{begin}: --{flag} means other layers there, {leave_out}")
    pattern = str(pattern_of(args))
    if _MAIN in pattern or getattr(saved, "mtp_num_layers", None):
        raise UserError(
            f"{begin}: heads of multi-token prediction are saved otherwise there, {leave_out}"
        )
    if pattern.replace(_PIPE, "") != (wanted := pattern_of_twin(saved)):
        raise UserError(
            f"{begin} of other layers: its twin has --hybrid-layer-pattern '{wanted}' (with "
            f"'{_PIPE}' where its pipeline is cut)"
        )
    for method in methods():
        if method.works_on_blocks and method.remembered(saved) is not None:
            raise UserError(
                f"{begin}: {method.name} works on blocks, whose halves are layers of their own "
                f"there, {leave_out}"
            )
    formats = DistributedOptimizer.checkpoint_fully_reshardable_formats
    if optimizer is not None and optimizer not in formats:
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
        for layer, own in sorted(saved.chunks_by_layer(text).items()):
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
        if text == COMMON:
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
