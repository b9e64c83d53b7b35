"""What a run is refused for, before a process group is made: files, folders, data and resumes."""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.object_storage_utils import is_object_storage_path
from megatron.core.datasets.utils import Split, normalize
from megatron.training import get_tokenizer
from megatron.training.arguments import add_megatron_arguments
from megatron.training.checkpointing import get_checkpoint_name, get_checkpoint_tracker_filename
from megatron.training.utils import get_blend_and_blend_per_split

from tst_megatron.data import budget
from tst_megatron.data.phases import places_needed
from tst_megatron.errors import UserError
from tst_megatron.training.arguments import (
    Superposition,
    add_tst_arguments,
    check_flags,
    superposes,
    superposition_from_args,
)

logger = logging.getLogger(__name__)

# Tokenizers whose --tokenizer-model is a file on this machine.
_TOKENIZERS_IN_A_FILE = ("SentencePieceTokenizer", "Llama2Tokenizer", "TikTokenizer")


def check_before_validation(args: argparse.Namespace, on_gpu: bool) -> None:
    """Check what Megatron's own validation would trip over.

    Raises:
        UserError: a file is missing, a folder cannot be written, or a flag needs a GPU.
    """
    if not on_gpu:
        for is_set, flag, instead in _NEEDS_A_GPU:
            if is_set(args):
                raise UserError(f"{flag} needs a GPU, and there is none here: {instead}")
    if args.num_experts and args.tensor_model_parallel_size > 1 and not args.sequence_parallel:
        # Megatron's own refusal, which comes with the first forward pass (moe_layer.py).
        raise UserError(
            "--num-experts with --tensor-model-parallel-size needs --sequence-parallel: add it"
        )
    if args.tokenizer_type in _TOKENIZERS_IN_A_FILE:
        if args.tokenizer_model is None:
            raise UserError(f"--tokenizer-type {args.tokenizer_type} needs a --tokenizer-model")
        if not Path(args.tokenizer_model).is_file():
            raise UserError(f"--tokenizer-model {args.tokenizer_model} is missing: no such file")
    budget.check_files(_local_prefixes(args))
    for flag in ("save", "tensorboard_dir", "data_cache_path"):
        folder = getattr(args, flag)
        if folder is not None and not is_object_storage_path(folder):
            check_writable(Path(folder), f"--{flag.replace('_', '-')}")
    if args.tst_ledger is not None:
        check_writable(Path(args.tst_ledger).parent, "--tst-ledger")


_NEEDS_A_GPU: tuple[tuple[Callable[[argparse.Namespace], Any], str, str], ...] = (
    (
        lambda a: a.transformer_impl != "local",
        "--transformer-impl transformer_engine",
        "use --transformer-impl local",
    ),
    (
        lambda a: a.distributed_backend != "gloo",
        "--distributed-backend nccl",
        "use --distributed-backend gloo",
    ),
    (lambda a: a.fp8 is not None, "--fp8-format", "leave it out"),
    (lambda a: a.cuda_graph_impl != "none", "--cuda-graph-impl", "leave it out"),
    (
        lambda a: a.context_parallel_size > 1 and a.create_attention_mask_in_dataloader,
        "--context-parallel-size with the attention mask of the data loader",
        "add --no-create-attention-mask-in-dataloader",
    ),
    (
        lambda a: a.context_parallel_size > 1 and a.dataloader_inter_document_masking,
        "--context-parallel-size with --dataloader-inter-document-masking",
        "leave one of them out",
    ),
    (
        lambda a: a.context_parallel_size > 1 and a.window_size is not None,
        "--context-parallel-size with --window-size",
        "leave one of them out",
    ),
    (
        lambda a: a.context_parallel_size > 1 and a.softmax_type != "vanilla",
        "--context-parallel-size with --softmax-type",
        "leave one of them out",
    ),
    (
        lambda a: superposes(a) and a.cross_entropy_loss_fusion,
        "--cross-entropy-loss-fusion with bags",
        "torch compiles nothing in the CPU backend, so leave it out",
    ),
)


def check_after_validation(args: argparse.Namespace, superposition: Superposition | None) -> None:
    """Check data, vocabulary and checkpoint against the run's schedule.

    Raises:
        UserError: they do not fit.
    """
    _check_vocabulary(args)
    if superposition is not None:
        _check_budget(args, superposition)
    _check_validation(args, superposition)
    _check_resume(args, superposition)


def check_writable(folder: Path, flag: str) -> None:
    """Check that files can be made in a folder, making it.

    Raises:
        UserError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written: {error.strerror}") from None


def _local_prefixes(args: argparse.Namespace) -> list[str]:
    """Indexed corpora on this machine; Megatron's fine-tuning data are not indexed."""
    if args.sft:
        return []
    return [prefix for prefix in _all_prefixes(args) if not is_object_storage_path(prefix)]


def _all_prefixes(args: argparse.Namespace) -> list[str]:
    try:
        blend, blend_per_split = get_blend_and_blend_per_split(args)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"--per-split-data-args-path {args.per_split_data_args_path} is not JSON: {error}"
        ) from None
    blends = [blend, *(blend_per_split or [])]
    return [prefix for one in blends if one is not None for prefix in one[0]]


def _sources(args: argparse.Namespace, split: Split) -> list[budget.Source]:
    """The corpora that a split is drawn from; none where it has none."""
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    documents = (0.0, 1.0)
    if blend is None:
        blend = None if blend_per_split is None else blend_per_split[split.value]
    else:
        matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(args.split))
        documents = matrix[split.value] or (0.0, 0.0)
    if blend is None:
        return []
    prefixes, weights = blend
    if weights is None:
        # Megatron then draws from every source in proportion to its size.
        weights = [float(budget.document_lengths(p).sum()) for p in prefixes]
    return [
        budget.Source(prefix, weight, documents)
        for prefix, weight in zip(prefixes, normalize(weights), strict=True)
    ]


def _surplus(args: argparse.Namespace) -> float | None:
    """What Megatron adds to the samples of every source of a weighted blend."""
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    blend = blend or (blend_per_split or [None])[Split.train.value]
    return None if blend is None or blend[1] is None else float(args.mid_level_dataset_surplus)


def _check_budget(args: argparse.Namespace, superposition: Superposition) -> None:
    sources = _sources(args, Split.train)
    if not sources:
        raise UserError("there is no training data: add --data-path or --train-data-path")
    if any(is_object_storage_path(source.prefix) for source in sources):
        return
    schedule = superposition.data_schedule
    stages = budget.budget(
        schedule,
        args.seq_length,
        sources,
        args.seed,
        _surplus(args),
        superposition.bag_boundary,
    )
    train_iters = args.train_iters or args.train_samples // args.global_batch_size
    if args.tst_allow_repeats:
        budget.check_no_empty_stage(stages)
    else:
        budget.check_budget(stages, train_iters)


def _check_validation(args: argparse.Namespace, superposition: Superposition | None) -> None:
    """Megatron counts epochs of an empty split for ever."""
    if not args.eval_iters or args.mock_data or args.sft:
        return
    schedule = None if superposition is None else superposition.data_schedule
    bag_size = 1 if schedule is None else max(stage.bag_size for stage in schedule.stages)
    # With full validation every data-parallel rank has a sample of its own.
    num_samples = args.data_parallel_size if args.full_validation else 1
    boundary = "any" if superposition is None else superposition.bag_boundary
    needed = places_needed(num_samples, args.seq_length, bag_size, boundary)
    for source in _sources(args, Split.valid):
        if not is_object_storage_path(source.prefix):
            budget.check_validation(source, needed, bag_size, boundary)


def repeat_free_steps(flags: list[str], train_iters: int) -> int:
    """The most steps, up to ``train_iters``, in which a superposed run reads no text twice.

    Args:
        flags: the run's command line, with its data and schedule.
        train_iters: steps wanted.

    Raises:
        UserError: a flag is wrong, or the corpus is missing.
    """
    parser = add_tst_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    args = parser.parse_args(flags)
    check_flags(args)
    budget.check_files(_local_prefixes(args))
    sources = _sources(args, Split.train)
    while train_iters > 0:
        args.train_iters = train_iters
        superposition = superposition_from_args(args)
        assert superposition is not None, "the run is superposed"
        stages = budget.budget(
            superposition.data_schedule,
            args.seq_length,
            sources,
            args.seed,
            _surplus(args),
            superposition.bag_boundary,
        )
        if all(stage.is_met for stage in stages):
            break
        train_iters = min(train_iters - 1, budget.steps_that_fit(stages, train_iters))
    return train_iters


def _check_vocabulary(args: argparse.Namespace) -> None:
    tokenizer = get_tokenizer()
    size = int(tokenizer.vocab_size)
    if "Null" not in args.tokenizer_type and args.vocab_size not in (None, size):
        raise UserError(
            f"--vocab-size {args.vocab_size} does not match the tokenizer, which has {size} "
            "tokens: leave --vocab-size out"
        )
    if args.padded_vocab_size < size:
        raise UserError(
            f"--padded-vocab-size {args.padded_vocab_size} is below the tokenizer's {size} tokens"
        )
    for prefix in _local_prefixes(args):
        largest = budget.largest_id(prefix)
        if largest >= args.padded_vocab_size:
            raise UserError(
                f"the corpus {prefix} holds token id {largest} and the vocabulary ends at "
                f"{args.padded_vocab_size - 1}: it was indexed with another tokenizer"
            )


def _check_resume(args: argparse.Namespace, superposition: Superposition | None) -> None:
    """A superposed run goes on under the schedule it was started with.

    A checkpoint carries Megatron's arguments, ours among them; there is nothing else to compare.
    """
    if args.load is None or args.finetune or args.tst_allow_schedule_change:
        return
    saved = _saved_arguments(args)
    if saved is None:
        return
    before = getattr(saved, "tst_superposition", None)
    if superposition is None:
        # Without a --tst- flag the run is Megatron's own, and so may be meant.
        if before is not None and args.rank == 0:
            logger.warning(
                "The checkpoint in %s was trained under the schedule %s, and this run goes on "
                "without one: its data begin anew.",
                args.load,
                json.dumps(before),
            )
        return
    if before is not None:
        # Of a checkpoint saved before there was a choice.
        before = before | {"bag_boundary": before.get("bag_boundary", "any")}
    now = superposition.as_saved()
    # Lists come back as tuples or the other way about; JSON has one of them.
    before_text, now_text = json.dumps(before), json.dumps(now)
    if before_text != now_text:
        raise UserError(
            f"the checkpoint in {args.load} was trained under the schedule {before_text} and this "
            f"run has {now_text}: use the same flags, or add --tst-allow-schedule-change"
        )


def _saved_arguments(args: argparse.Namespace) -> Any:
    """Arguments in the checkpoint that Megatron would load, or None where there is none."""
    tracker = Path(get_checkpoint_tracker_filename(args.load))
    if not tracker.is_file():
        return None
    text = tracker.read_text().strip()
    iteration = int(args.ckpt_step) if args.ckpt_step else (int(text) if text.isdigit() else 0)
    folder = get_checkpoint_name(
        args.load, iteration, release=text == "release", return_base_dir=True
    )
    if not Path(folder).is_dir() or not dist_checkpointing.check_is_distributed_checkpoint(folder):
        return None
    return dist_checkpointing.load_common_state_dict(folder).get("args")
