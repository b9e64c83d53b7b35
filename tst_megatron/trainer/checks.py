"""What a run is refused for, before a process group is made: files, folders, data and resumes."""

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from megatron.training import get_tokenizer
from megatron.training.arguments import add_megatron_arguments

from tst_megatron.corpora import budget
from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import add_arguments, check_flags
from tst_megatron.trainer.ledger_header import header_of
from tst_megatron.trainer.live_comparison import OtherRun
from tst_megatron.trainer.memory import check_resume
from tst_megatron.trainer.other_length import check_learning_rate, check_order, steps_before
from tst_megatron.trainer.reading import check_validation, reading_from_args

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
    if _is_first_of_node():
        budget.check_files(_local_prefixes(args))
    for flag in ("save", "tensorboard_dir", "data_cache_path"):
        folder = getattr(args, flag)
        if folder is not None and not is_remote(folder):
            check_writable(Path(folder), f"--{flag.replace('_', '-')}")
    if args.ledger is not None:
        if Path(args.ledger).is_dir():
            raise UserError(f"--ledger {args.ledger} is a folder: name a file in it")
        check_writable(Path(args.ledger).parent, "--ledger")
    # Megatron ends in an assertion without the one, and in a TypeError without the other.
    if args.save is not None and args.save_interval is None:
        raise UserError("--save needs to know how often: add --save-interval")
    if args.eval_iters and args.eval_interval is None:
        raise UserError(
            "validation needs to know how often: add --eval-interval, or --eval-iters 0 for none"
        )


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
)


def check_after_validation(args: argparse.Namespace, run: Run) -> None:
    """Check data, vocabulary and checkpoint against what the run's methods make of it.

    Raises:
        UserError: they do not fit.
    """
    _check_vocabulary(args)
    run.check(args)
    # First: a run that goes on reads on in the documents that were its own before.
    saved = check_resume(args, run)
    if _is_first_of_node():
        if args.compare_with is not None:
            other = OtherRun(Path(args.compare_with))
            other.check_like(header_of(args, run, 0, None))
        _check_ids(args)
        if saved is not None:
            check_learning_rate(args, saved)
        _check_budget(args, run, saved)
        if not (args.mock_data or args.sft):
            # With full validation every data-parallel rank has a sample of its own.
            check_validation(args, args.data_parallel_size if args.full_validation else 1)


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


def _is_first_of_node() -> bool:
    """Whether this rank looks at the corpora for its node.

    One is enough, and all at once would each shuffle every document of every source. The others
    go on to the rendezvous, and are ended there by torchrun if this one refuses.
    """
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _local_prefixes(args: argparse.Namespace) -> list[str]:
    """Indexed corpora on this machine; Megatron's fine-tuning data are not indexed."""
    if args.sft:
        return []
    return [prefix for prefix in all_prefixes(args) if not is_remote(prefix)]


def _check_budget(args: argparse.Namespace, run: Run, saved: argparse.Namespace | None) -> None:
    """Of an ordinary run, only a blend of ours says how often its text may be read.

    Args:
        args: Megatron's validated arguments.
        run: what the run's methods make of it.
        saved: the arguments of the checkpoint that it goes on from, if there is one.
    """
    if args.mock_data or args.sft:
        return
    before = None
    if saved is not None and not args.allow_schedule_change:
        before = steps_before(args, saved)
    if not run.reads_text_once and args.blend is None:
        if before is not None:
            _tell_of_order(args, run, before)
        return
    reading = reading_from_args(args, run)
    if any(source.is_remote for source in reading.sources):
        return
    found = budget.Budget(reading)
    if before is not None:
        check_order(args, found, before, must_be_kept=run.reads_text_once)
    if args.allow_repeats:
        budget.check_no_empty_stage(found.stages)
    else:
        budget.check_budget(found)


def _tell_of_order(args: argparse.Namespace, run: Run, before: int) -> None:
    """Of a run that Megatron trains as it is, so that what is wrong with its data is Megatron's to
    say."""
    with suppress(UserError):
        reading = reading_from_args(args, run)
        if not any(source.is_remote for source in reading.sources):
            check_order(args, budget.Budget(reading), before, must_be_kept=False)


def repeat_free_steps(flags: list[str], train_iters: int) -> int:
    """The most steps, up to ``train_iters``, in which a run reads no text twice.

    Args:
        flags: the run's command line, with its data and schedule.
        train_iters: steps wanted.

    Raises:
        UserError: a flag is wrong, or the corpus is missing.
    """
    parser = add_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    args = parser.parse_args([*flags, f"--train-iters={train_iters}"])
    check_flags(args)
    budget.check_files(_local_prefixes(args))
    return budget.Budget(reading_from_args(args)).steps_that_fit(train_iters)


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


def _check_ids(args: argparse.Namespace) -> None:
    for prefix in _local_prefixes(args):
        largest = budget.largest_id(prefix)
        if largest >= args.padded_vocab_size:
            raise UserError(
                f"the corpus {prefix} holds token id {largest} and the vocabulary ends at "
                f"{args.padded_vocab_size - 1}: it was indexed with another tokenizer"
            )
