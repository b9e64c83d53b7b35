"""What checkpoints remember of a run: Megatron's arguments, which carry what its methods say too.

The one idea: a resume under other settings is told from the same run before any process group, by
the arguments that were saved; there is nothing else to save or to compare.
"""

import argparse
import logging
import zipfile
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.optimizer import DistributedOptimizer
from megatron.training.checkpointing import find_checkpoint_rank_0

from tst_megatron.checkpoints.steps import Checkpoint
from tst_megatron.checkpoints.wholeness import has_file_a_rank
from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import check_weights, methods
from tst_megatron.trainer.as_hybrid import check_goes_on, goes_on_as_hybrid, is_loaded_here
from tst_megatron.trainer.checkpoint_choice import checkpoint_of
from tst_megatron.trainer.same_tokenizer import check_same_tokenizer, remembered_tokenizer

logger = logging.getLogger(__name__)


def remember(args: argparse.Namespace, run: Run) -> None:
    """Let every later checkpoint carry what the methods are at now, and from what other models the
    run was made, if without those methods' flags now.
    """
    starts = {method.name for method in methods() if method.starts_from_another}
    earlier = getattr(args, "methods", None) or {}
    args.methods = {name: one for name, one in earlier.items() if name in starts} | {
        part.name: {
            "stages": [stage.as_json() for stage in part.stages],
            "facts": part.saved(),
            "has_weights": part.has_weights,
        }
        for part in run.parts
    }


def check_resume(args: argparse.Namespace, run: Run) -> argparse.Namespace | None:
    """Let every method go on from the checkpoint that is to be loaded, if there is one.

    Args:
        args: Megatron's validated arguments.
        run: what the run's methods make of it.

    Returns:
        The checkpoint's arguments; None where there is none, or one that the run begins anew from.

    Raises:
        UserError: the model is of another shape or was trained with another tokenizer, or a method
            says that it is not the same run.
    """
    chosen = checkpoint_of(args)
    if chosen is None:
        return None
    saved: argparse.Namespace | None = saved_state(chosen).get("args")
    if saved is None:
        return None
    is_twin = goes_on_as_hybrid(saved, args)
    if is_twin:
        begins_anew = chosen.is_pretrained or args.finetune or args.no_load_optim
        is_read = not begins_anew and not getattr(saved, "no_save_optim", False)
        content = saved_state(chosen).get("content_metadata") or {}
        kind = content.get("distrib_optim_sharding_type") if is_read else None
        check_goes_on(saved, args, str(chosen.root), kind)
    if chosen.is_pretrained or args.finetune:
        check_weights(args, saved, run, None)
        return None
    parts = {part.name: part for part in run.parts}
    remembered = {method.name: method.remembered(saved) for method in methods()}
    step = chosen.step or 0
    may_differ = {
        name for part in run.parts for name in part.other_model(saved, remembered[part.name], step)
    }
    check_weights(args, saved, run, step if may_differ else None)
    _check_shape(args, chosen, saved, may_differ, is_twin)
    if all(part.reads_optimizer for part in run.parts):
        _check_optimizer(args, chosen, saved)
    args.methods = getattr(saved, "methods", None)
    if chosen.step:
        # Of a release the arguments are a converter's, which need not know.
        args.flops_so_far = getattr(saved, "flops_so_far", None)
        one, other = remembered_tokenizer(saved), remembered_tokenizer(args)
        check_same_tokenizer(one, other, f"the checkpoint in {chosen.root} was trained")
    for method in methods():
        before = remembered[method.name]
        if method.name in parts:
            parts[method.name].resume(args, before, step)
        elif before is not None and args.rank == 0:
            # Without the method's flags the run is Megatron's own, and so may be meant.
            logger.warning("The checkpoint in %s %s.", args.load, method.goes_on_without(before))
    return saved if chosen.step else None


def loads_twin(args: argparse.Namespace) -> bool:
    """Whether the checkpoint that a checked run loads becomes its twin's here (`as_hybrid`).

    Args:
        args: Megatron's validated arguments.
    """
    chosen = checkpoint_of(args)
    saved = None if chosen is None else saved_state(chosen).get("args")
    return saved is not None and is_loaded_here(saved, args)


def ledger_before(args: argparse.Namespace) -> Path:
    """Where the run that this one goes on from has its ledger.

    Args:
        args: Megatron's, of a run that goes on from a checkpoint in ``load``.

    Returns:
        The ledger beside the checkpoint; where there is none, and the run starts from another
        model, the one that the checkpoint's arguments name. A branch of one run has none of them.
    """
    beside = Path(args.load) / "ledger.jsonl"
    starts = any(method.starts_from_another and method.is_on(args) for method in methods())
    if beside.exists() or not starts or (chosen := checkpoint_of(args)) is None:
        return beside
    named = getattr(saved_state(chosen).get("args"), "ledger", None)
    return Path(named) if named is not None and Path(named).is_file() else beside


def _check_shape(
    args: argparse.Namespace,
    chosen: Checkpoint,
    saved: Any,
    may_differ: Collection[str],
    is_twin: bool,
) -> None:
    """What Megatron fails over in a resume once all ranks are up: what it asserts
    (``check_checkpoint_args``), and what decides the shapes of tensors.

    Args:
        args: Megatron's validated arguments.
        chosen: the checkpoint.
        saved: its arguments.
        may_differ: names in which a method makes up for a difference.
        is_twin: whether the run's is a HybridModel of the same blocks.
    """
    names = [*_asserted(args), *_shapes(args, saved, is_twin)]
    if has_file_a_rank(chosen.folder):
        names += _OF_A_RANK
    for name in names:
        if name in may_differ:
            continue
        before, now = _value(saved, name), _value(args, name)
        if before in (None, now):
            continue
        raise UserError(
            f"the checkpoint in {chosen.root} is of a model with {name} {before} and this run has "
            f"{now}: use the model's flags, or name another folder"
        )


# A file a rank has its tensors as this layout cut them.
_OF_A_RANK = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "padded_vocab_size",
)


def _asserted(args: argparse.Namespace) -> list[str]:
    names = ["hidden_size", "num_attention_heads", "add_position_embedding"]
    # A stock model may go on as a hybrid one, whose layers are counted otherwise.
    if not args.hybrid_layer_pattern:
        names.append("num_layers")
    if args.vocab_file:
        names += ["max_position_embeddings", "make_vocab_size_divisible_by", "tokenizer_type"]
    if args.data_parallel_random_init:
        names.append("data_parallel_random_init")
    if args.phase_transition_iterations:
        names.append("global_batch_size")
    return names


def _shapes(args: argparse.Namespace, saved: Any, is_twin: bool) -> list[str]:
    """What decides shapes beyond that, where the model has such tensors."""
    names = ["untie_embeddings_and_output_weights"]
    if args.position_embedding_type == "learned_absolute":
        names.append("max_position_embeddings")
    # A hybrid pattern may be without attention, or without an MLP.
    if args.hybrid_layer_pattern and not is_twin:
        return names
    names.append("swiglu")
    if not (args.multi_latent_attention or getattr(saved, "multi_latent_attention", False)):
        names += ["num_query_groups", "kv_channels"]
    if not args.moe_use_upcycling:
        names += ["num_experts", "moe_ffn_hidden_size" if args.num_experts else "ffn_hidden_size"]
    return names


def _value(args: Any, name: str) -> Any:
    """As Megatron's validation leaves it; None where the arguments are of before it was there."""
    if name == "num_query_groups" and not getattr(args, "group_query_attention", False):
        # The flag is then not read, and every head has keys of its own.
        name = "num_attention_heads"
    if name == "num_experts" and hasattr(args, name):
        # None is a dense model.
        return args.num_experts or 0
    return getattr(args, name, True if name == "add_position_embedding" else None)


def _check_optimizer(args: argparse.Namespace, chosen: Checkpoint, saved: Any) -> None:
    """What Megatron refuses of a sharded optimizer once all ranks are up (``load_checkpoint``)."""
    before, now = _model_parallel_sizes(saved), _model_parallel_sizes(args)
    if before == now or not args.use_distributed_optimizer or args.no_load_optim:
        return
    if getattr(saved, "no_save_optim", False) or chosen.step is None:
        return
    content = saved_state(chosen).get("content_metadata") or {}
    kind = content.get("distrib_optim_sharding_type")
    if kind is None or kind in DistributedOptimizer.checkpoint_fully_reshardable_formats:
        return
    raise UserError(
        f"the optimizer's state in {chosen.folder} is cut for tensor x pipeline parallelism "
        f"{before[0]} x {before[1]} and this run has {now[0]} x {now[1]}: save it once in its own "
        "layout with --dist-ckpt-optim-fully-reshardable, or begin its state anew with "
        "--no-load-optim"
    )


def _model_parallel_sizes(args: Any) -> tuple[int, int]:
    names = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    return getattr(args, names[0], 1), getattr(args, names[1], 1)


def keep_vocabulary(args: argparse.Namespace, given: int | None, tokens: int) -> None:
    """Keep the padded size of a checkpoint's vocabulary, which another layout would pad anew.

    Megatron pads to a multiple of ``--make-vocab-size-divisible-by`` times the tensor-parallel
    size, and fills rows that a checkpoint does not have with noise, which takes its share of every
    softmax.

    Args:
        args: Megatron's validated arguments, whose ``padded_vocab_size`` is set.
        given: ``--padded-vocab-size`` as the user gave it.
        tokens: of the tokenizer.

    Raises:
        UserError: this layout, or the tokenizer, cannot have that size.
    """
    chosen = checkpoint_of(args)
    if chosen is None:
        return
    size = getattr(saved_state(chosen).get("args"), "padded_vocab_size", None)
    if size in (None, args.padded_vocab_size):
        return
    if given is not None:
        if args.rank == 0:
            logger.warning(
                "--padded-vocab-size %d: the vocabulary of the checkpoint in %s has %d rows, so "
                "that the loss goes on at another level.",
                *(given, chosen.root, size),
            )
        return
    otherwise = "or give --padded-vocab-size, and the loss goes on at another level"
    ranks = args.tensor_model_parallel_size
    if size < tokens:
        raise UserError(
            f"the vocabulary of the checkpoint in {chosen.root} has {size} rows and the tokenizer "
            f"{tokens} tokens: use the tokenizer that it was trained with, {otherwise}"
        )
    if size % ranks:
        raise UserError(
            f"the vocabulary of the checkpoint in {chosen.root} has {size} rows, which "
            f"--tensor-model-parallel-size {ranks} cannot split: use one that divides them, "
            f"{otherwise}"
        )
    if args.rank == 0:
        logger.warning(
            "The vocabulary stays padded to %d, as in the checkpoint in %s; flags and layout would "
            "make it %s.",
            *(size, chosen.root, args.padded_vocab_size),
        )
    args.padded_vocab_size = size


@cache
def saved_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says of itself, without a tensor: ``args`` are Megatron's arguments, where
    it has them.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return _read_state(checkpoint)
    # What is cut short or of another version fails in any way, on ranks that do not look first.
    except Exception as error:
        raise UserError(
            f"the checkpoint {checkpoint.folder} cannot be read: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; name another with --ckpt-step"
        ) from None


def _read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    folder = str(checkpoint.folder)
    if dist_checkpointing.check_is_distributed_checkpoint(folder):
        state = dist_checkpointing.load_common_state_dict(folder)
        return {name: state.get(name) for name in ("args", "content_metadata")}
    file = find_checkpoint_rank_0(
        str(checkpoint.root), checkpoint.step or 0, release=checkpoint.step is None
    )
    if file is not None:
        # Mapped, so that no tensor is read; a bare pickle, of long ago, cannot be.
        if not zipfile.is_zipfile(file):
            return {}
        return {"args": torch.load(file, map_location="cpu", mmap=True).get("args")}
    state = {"args": None}
    torch.distributed.checkpoint.load(state, checkpoint_id=folder, no_dist=True)
    return state
