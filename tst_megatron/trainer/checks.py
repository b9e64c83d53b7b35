"""What a run is refused for, before a process group is made: files, folders, data and resumes."""

import argparse
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from tst_megatron.corpora import budget
from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import add_arguments, check_flags
from tst_megatron.stock.layout import check_layout
from tst_megatron.stock.refusals import check_vocab_size
from tst_megatron.stock.unheeded import say_unheeded
from tst_megatron.trainer.checkpoint_choice import check_load
from tst_megatron.trainer.gpt2_tokenizer import DEFAULT_TOKENIZER, GPT2, check_gpt2_files
from tst_megatron.trainer.live_comparison import OtherRun
from tst_megatron.trainer.mlflow_place import check_flags as check_mlflow
from tst_megatron.trainer.other_length import check_learning_rate, check_order, steps_before
from tst_megatron.trainer.places import check_places, has_scheme
from tst_megatron.trainer.reading import (
    check_data_flags,
    check_held_out,
    check_some_text,
    reading_from_args,
)
from tst_megatron.trainer.validation_sets import check_sets

# Tokenizers whose --tokenizer-model is a file on this machine.
_TOKENIZERS_IN_A_FILE = (
    "SentencePieceTokenizer",
    "GPTSentencePieceTokenizer",
    "Llama2Tokenizer",
    "TikTokenizer",
)
_TOKENIZERS_WITHOUT_FILES = ("NullTokenizer", "NullMultimodalTokenizer")

logger = logging.getLogger(__name__)


def check_before_validation(args: argparse.Namespace) -> None:
    """Check what Megatron's own validation would trip over.

    It is asked before torch is imported, and again of Megatron's own parser.

    Raises:
        UserError: a file is missing, a folder cannot be written, or a flag needs another.
    """
    if args.num_experts and args.tensor_model_parallel_size > 1 and not args.sequence_parallel:
        # Megatron's own refusal, which comes with the first forward pass (moe_layer.py).
        raise UserError(
            "--num-experts with --tensor-model-parallel-size needs --sequence-parallel: add it"
        )
    if args.num_experts and args.moe_router_topk > args.num_experts:
        # torch's, likewise.
        raise UserError(
            f"--moe-router-topk {args.moe_router_topk} is more than the {args.num_experts} of "
            "--num-experts: lower it"
        )
    if not args.use_checkpoint_args:
        check_layout(args, int(os.environ.get("WORLD_SIZE", "1")))
    _check_full_validation(args)
    check_data_flags(args)
    check_sets(args)
    _check_tokenizer_files(args)
    _check_asked(args)
    check_places(args)
    _check_object_storage(args)
    if _is_first_of_node():
        budget.check_files(_local_prefixes(args))
    can_be_written = check_writable if args.dry_run is None else check_may_be_made
    for flag in ("save", "tensorboard_dir", "wandb_save_dir", "data_cache_path"):
        folder = getattr(args, flag)
        if folder is not None and not has_scheme(folder):
            can_be_written(Path(folder), f"--{flag.replace('_', '-')}")
    if args.ledger is not None:
        if Path(args.ledger).is_dir():
            raise UserError(f"--ledger {args.ledger} is a folder: name a file in it")
        can_be_written(Path(args.ledger).parent, "--ledger")
    if args.wandb_project and args.save is None and args.wandb_save_dir is None:
        raise UserError("--wandb-project needs a folder of this machine: add --wandb-save-dir")
    if args.wandb_project and not args.wandb_exp_name:
        raise UserError("--wandb-project needs a name for the run: add --wandb-exp-name")
    check_mlflow(args)
    if args.use_pytorch_profiler and args.tensorboard_dir is None:
        # Megatron writes beside that folder, and without it into one that is called None.
        raise UserError("--use-pytorch-profiler writes beside --tensorboard-dir: add that")
    # Megatron ends in an assertion without the one, and in a TypeError without the other.
    if args.save is not None and args.save_interval is None:
        raise UserError("--save needs to know how often: add --save-interval")
    if args.eval_iters and args.eval_interval is None:
        raise UserError(
            "validation needs to know how often: add --eval-interval, or --eval-iters 0 for none"
        )


def _check_full_validation(args: argparse.Namespace) -> None:
    """Megatron's sampler of a full validation gives a sequence at a time, and its schedules and
    broadcasts are told of micro-batches."""
    micro = args.eval_micro_batch_size or args.micro_batch_size or 1
    split = args.tensor_model_parallel_size > 1 or args.pipeline_model_parallel_size > 1
    if args.full_validation and split and micro > 1:
        raise UserError(
            f"--full-validation reads one sequence at a time, and ranks that share a model would "
            f"wait for micro-batches of {micro}: add --eval-micro-batch-size 1, and an "
            "--eval-global-batch-size of as many as there are data-parallel ranks"
        )


def _check_tokenizer_files(args: argparse.Namespace) -> None:
    if args.use_checkpoint_args and args.use_tokenizer_model_from_checkpoint_args:
        # Megatron takes it from there, whatever the flags say.
        return
    kind = args.tokenizer_type or DEFAULT_TOKENIZER
    if kind in _TOKENIZERS_IN_A_FILE:
        if args.tokenizer_model is None:
            raise UserError(f"--tokenizer-type {kind} needs a --tokenizer-model")
        if not Path(args.tokenizer_model).is_file():
            raise UserError(f"--tokenizer-model {args.tokenizer_model} is missing: no such file")
    if kind in _TOKENIZERS_WITHOUT_FILES and args.vocab_size is None:
        raise UserError(f"--tokenizer-type {kind} needs a --vocab-size")
    if kind == GPT2:
        check_gpt2_files(args)


def _check_asked(args: argparse.Namespace) -> None:
    """What ``--evaluate-at`` asks, as far as flags and files tell; the rest once the run's
    tokenizer is there (`run_evaluations.questions_of`)."""
    if not args.evaluate_at:
        return
    # Not of every run: what reads text takes its time.
    from tst_megatron.evaluation.asked import FIELD, TASKS_FLAG, TEXT_FLAG
    from tst_megatron.evaluation.held_out import find_texts
    from tst_megatron.evaluation.tasks import check_files, check_harness

    kind = args.tokenizer_type or DEFAULT_TOKENIZER
    if kind in _TOKENIZERS_WITHOUT_FILES:
        raise UserError(
            f"--evaluate-at asks in text, and --tokenizer-type {kind} reads ids alone: leave it "
            "out, or train with a tokenizer of text"
        )
    if args.evaluate_tasks:
        check_harness(TASKS_FLAG, TEXT_FLAG)
        check_files(args.evaluate_tasks)
    if args.evaluate_text and _is_first():
        find_texts(args.evaluate_text, FIELD, TEXT_FLAG)


def _check_object_storage(args: argparse.Namespace) -> None:
    for flag in ("save", "load"):
        path = getattr(args, flag)
        if path is None or not is_remote(path):
            continue
        if not (args.enable_msc and path.startswith("msc://")):
            raise UserError(
                f"--{flag} {path} would be a folder of that name on this machine: Megatron keeps "
                "checkpoints in msc:// with --enable-msc, or in a folder"
            )
    remote = [prefix for prefix in all_prefixes(args) if is_remote(prefix)]
    if remote and args.object_storage_cache_path is None:
        raise UserError(
            f"{remote[0]} is read from object storage: add --object-storage-cache-path, a folder "
            "for its index"
        )


def check_checkpoint(args: argparse.Namespace) -> None:
    """Check that the run can go on from what ``--load`` names, and say which flags nothing heeds.

    Once a start: with a look at every file of a checkpoint it is long for its many files.

    Raises:
        UserError: it cannot.
    """
    if _is_first():
        say_unheeded(args)
    if _is_first_of_node():
        check_load(args, looks_at_files=_is_first())


def check_after_validation(args: argparse.Namespace, run: Run, tokens: int) -> None:
    """Check data, vocabulary and checkpoint against what the run's methods make of it.

    Args:
        args: Megatron's validated arguments.
        run: what its methods make of it.
        tokens: of the tokenizer.

    Raises:
        UserError: they do not fit.
    """
    from tst_megatron.trainer.ledger_header import header_of
    from tst_megatron.trainer.memory import check_resume

    _check_vocabulary(args, tokens)
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
            check_held_out(args, args.data_parallel_size if args.full_validation else 1)


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


def check_may_be_made(folder: Path, flag: str) -> None:
    """Likewise, and make nothing; a folder of which this machine has nothing is another's.

    Raises:
        UserError: they cannot.
    """
    places = (folder.absolute(), *folder.absolute().parents)
    there = next((place for place in places if _is_there(place)), places[-1])
    if there == places[-1]:
        print(f"tst-megatron: {flag} {folder} is not of this machine, and was not looked at")
    elif not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        why = "Permission denied" if there.is_dir() else f"{there} is no folder"
        raise UserError(f"{flag} {folder} cannot be written: {why}")


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # In a folder that may not be searched, and so is there.
        return True


def _is_first_of_node() -> bool:
    """Whether this rank looks at the corpora for its node.

    One is enough, and all at once would each shuffle every document of every source. The others
    go on to the rendezvous, and are ended there by torchrun if this one refuses.
    """
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _is_first() -> bool:
    """Whether this rank speaks for all, and looks at every file of a checkpoint.

    All nodes share those: a look at each of 10,000 from every node would see the same, and is what
    file servers choke on. That the folder is mounted, the first rank of each node sees.
    """
    return os.environ.get("RANK", "0") == "0"


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
        if run.stages[0].samples:
            check_some_text(args)
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
    from megatron.training.arguments import add_megatron_arguments

    parser = add_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    args = parser.parse_args([*flags, f"--train-iters={train_iters}"])
    check_flags(args)
    budget.check_files(_local_prefixes(args))
    return budget.Budget(reading_from_args(args)).steps_that_fit(train_iters)


def _check_vocabulary(args: argparse.Namespace, size: int) -> None:
    check_vocab_size(args.vocab_size, size)
    if args.vocab_size not in (None, size) and args.rank == 0:
        # As in Megatron, whose scripts give it beside tokenizers, rounded up perhaps.
        logger.warning(
            "--vocab-size %s is not used: the tokenizer has %s tokens, padded to %s; "
            "--padded-vocab-size sets the model's.",
            args.vocab_size,
            size,
            args.padded_vocab_size,
        )
    if args.padded_vocab_size is None:
        # Megatron then pads it in the model alone, and fails when it counts operations.
        raise UserError("--no-pad-vocab-size leaves the size open: add --padded-vocab-size")
    if args.padded_vocab_size % args.tensor_model_parallel_size:
        raise UserError(
            f"--padded-vocab-size {args.padded_vocab_size} cannot be split by "
            f"--tensor-model-parallel-size {args.tensor_model_parallel_size}: use a multiple of it"
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
