"""The command line of a run, read and checked as its GPUs would, on a machine without any.

The one idea: Megatron's parser and validation decide what the flags mean. What they ask of the
machine (compute capability, Transformer Engine's version, an environment variable) is answered for
the GPU of the plan; what they would open (corpora, folders, checkpoints) is not touched.
"""

import argparse
import contextlib
import copy
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from megatron.core.num_microbatches_calculator import (
    destroy_num_microbatches_calculator,
    get_current_global_batch_size,
    init_num_microbatches_calculator,
    update_num_microbatches,
)
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer, vocab_size_with_padding
from megatron.training.arguments import add_megatron_arguments, validate_args

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import add_arguments
from tst_megatron.planner.countable import check_planned
from tst_megatron.planner.hardware import Gpu
from tst_megatron.recipes.keys import no_flag
from tst_megatron.stock.layout import check_layout
from tst_megatron.stock.refusals import check_vocab_size, refusals_as_sentences
from tst_megatron.trainer.command_line import defaults_of
from tst_megatron.trainer.gpt2_tokenizer import (
    DEFAULT_TOKENIZER,
    GPT2,
    GPT2_VOCABULARY,
    read_gpt2_from_its_files,
)


@contextmanager
def planned_args(flags: Sequence[str], num_gpus: int, gpu: Gpu) -> Iterator[argparse.Namespace]:
    """Megatron's validated arguments of a run, ours among them, as rank 0 would get them.

    Megatron's count of micro-batches is set up inside, for batch-size schedules.

    Args:
        flags: the run's command line, without ``--recipe``.
        num_gpus: the world size.
        gpu: what the run would find under it.

    Raises:
        UserError: a flag is unknown, the layout does not divide, or Megatron refuses the flags.
    """
    with _counting(validated(parse(flags), num_gpus, gpu)) as args:
        if args.step_batch_size_schedule is not None:
            # Megatron leaves one micro-batch a rank here; plans are of the full batch.
            update_num_microbatches(sys.maxsize, consistency_check=False)
            args.global_batch_size = get_current_global_batch_size()
            update_num_microbatches(0, consistency_check=False)
        yield args


@contextmanager
def run_args(parsed: argparse.Namespace, num_gpus: int, gpu: Gpu) -> Iterator[argparse.Namespace]:
    """Likewise, of a run with its text, its tokenizer and its checkpoint.

    Args:
        parsed: by `read_as_run`.
        num_gpus: the world size.
        gpu: what the run would find under it.

    Raises:
        UserError: the layout does not divide, a tokenizer cannot be read, or Megatron refuses the
            flags.
    """
    flags = argparse.Namespace(**vars(parsed))
    for name, value in defaults_of(flags).items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    flags.num_tokens = _num_tokens(flags)
    with _counting(validated(flags, num_gpus, gpu)) as args:
        yield args


@contextmanager
def _counting(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """With Megatron's count of micro-batches."""
    init_num_microbatches_calculator(
        rank=1,  # Rank 0 logs.
        global_batch_size=args.global_batch_size,
        micro_batch_size=args.micro_batch_size,
        data_parallel_size=args.data_parallel_size,
        decrease_batch_size_if_needed=args.decrease_batch_size_if_needed,
        step_batch_size_schedule=args.step_batch_size_schedule,
        seq_length=args.seq_length,
    )
    try:
        yield args
    finally:
        destroy_num_microbatches_calculator()


def parse(flags: Sequence[str]) -> argparse.Namespace:
    """A command line as Megatron's parser and ours read it, before validation.

    Raises:
        UserError: a flag or its value is unknown, or is not counted.
    """
    args = read_as_run(flags)
    check_planned(args)
    # Training's, where there are files of it; a plan by itself needs none.
    default = DEFAULT_TOKENIZER if args.vocab_file is not None else "NullTokenizer"
    args.tokenizer_type = args.tokenizer_type or default
    # Once: every layout of a sweep pads it anew.
    args.num_tokens = _num_tokens(args) if args.padded_vocab_size is None else None
    return args


def read_as_run(flags: Sequence[str]) -> argparse.Namespace:
    """A command line as Megatron's parser and ours read it.

    Raises:
        UserError: a flag or its value is unknown.
    """
    with quiet():
        parser = _Parser(allow_abbrev=False)
        add_arguments(add_megatron_arguments(parser))
        args, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise UserError(no_flag(unknown[0], parser._option_string_actions))
    return args


def validated(parsed: argparse.Namespace, num_gpus: int, gpu: Gpu) -> argparse.Namespace:
    """Arguments after Megatron's validation for a number of GPUs; what was parsed stays as it is.

    Args:
        parsed: by `parse`.
        num_gpus: the world size.
        gpu: what the run would find under it.

    Raises:
        UserError: the layout does not divide, or Megatron refuses the flags.
    """
    args = copy.deepcopy(parsed)
    args.rank, args.world_size = 0, num_gpus
    args._is_global_batch_size_explicitly_specified = args.global_batch_size is not None
    args.enable_msc = False
    with quiet():
        if args.fp8 and not gpu.fp8_flops:
            raise UserError(
                f"the {gpu.name} has no FP8: leave --fp8-format out or plan another GPU"
            )
        check_layout(args, num_gpus, "--gpus")
        _validate(args, gpu)
        if args.padded_vocab_size is None:
            padded = vocab_size_with_padding(args.num_tokens, args, logging_enabled=False)
            args.padded_vocab_size = int(padded)
    return args


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong flag: Megatron's usage is a thousand lines."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"Megatron does not take these flags: {message}")


def _validate(args: argparse.Namespace, gpu: Gpu) -> None:
    answers: tuple[tuple[str, Any], ...] = (
        ("megatron.training.arguments.is_te_min_version", lambda *args, **kwargs: True),
        ("megatron.training.arguments.get_device_arch_version", lambda: gpu.capability[0]),
        ("torch.cuda.get_device_capability", lambda *args: gpu.capability),
    )
    with ExitStack() as stack:
        for target, answer in answers:
            stack.enter_context(patch(target, answer))
        stack.enter_context(patch.dict(os.environ, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}))
        printed = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            with refusals_as_sentences():
                validate_args(args)
        except SystemExit:
            # Of flags that are gone Megatron prints what replaces them, and leaves.
            said = printed.getvalue().strip().rpartition("\n")[2]
            raise UserError(f"Megatron refuses these flags: {said}") from None


def _num_tokens(args: argparse.Namespace) -> int:
    """The tokenizer's own, where it is here, as in training; else ``--vocab-size``."""
    told: int | None = args.vocab_size
    if args.tokenizer_type == GPT2:
        if not _has_gpt2_files(args):
            # GPT-2's own have always as many.
            return told or GPT2_VOCABULARY
        with refusals_as_sentences():
            size = _num_read(args)
        check_vocab_size(told, size)
        return size
    model: str | None = args.tokenizer_model
    is_here = model is not None and Path(model).exists()
    if model is not None and (told is None or is_here):
        try:
            size = _num_read(args)
        except Exception as error:  # Each tokenizer library has errors of its own.
            # Of one that is elsewhere its size is enough; training would not read this one either.
            instead = "name another, or give --vocab-size alone" if is_here else "add --vocab-size"
            raise UserError(
                f"--tokenizer-model {model} cannot be read here ({type(error).__name__}): {instead}"
            ) from None
        check_vocab_size(told, size)
        return size
    if told is None:
        raise UserError(
            "the size of the vocabulary is not known: add --vocab-size or --tokenizer-model"
        )
    return told


def _num_read(args: argparse.Namespace) -> int:
    return int(tokenizer_of(args).vocab_size)


def tokenizer_of(args: argparse.Namespace) -> Any:
    """A run's tokenizer, as Megatron builds it."""
    read_gpt2_from_its_files()
    # It writes the padded size to what it is given.
    given = argparse.Namespace(**(vars(args) | {"rank": 1}))
    with quiet():
        return build_tokenizer(given)


def _has_gpt2_files(args: argparse.Namespace) -> bool:
    files = (args.vocab_file, args.merge_file)
    return all(file is not None and Path(file).is_file() for file in files)


def assumes_gpt2(args: argparse.Namespace) -> bool:
    """Whether validated arguments have the size of a vocabulary that nobody has told or read."""
    is_asked = args.tokenizer_type == GPT2 and args.num_tokens is not None
    return is_asked and args.vocab_size is None and not _has_gpt2_files(args)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Megatron prints: a plan's output is the plan."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
