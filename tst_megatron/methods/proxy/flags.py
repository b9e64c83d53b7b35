"""The ``--proxy-*`` flags, and what is wrong with them by themselves and beside Megatron's."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.proxy.schedule import (
    RateStage,
    ScheduleError,
    parse_length,
    parse_ratio,
    parse_schedule,
    stages_of,
)
from tst_megatron.stock.batch_sizes import BatchSizes

_IN_ORDER = "the form of a sample goes by its number in the run"

# (is it asked for, the flag, why not).
_UNSUPPORTED: tuple[tuple[Callable[[argparse.Namespace], Any], str, str], ...] = (
    (lambda a: a.mock_data, "--mock-data", "made-up tokens have one form"),
    (lambda a: a.sft, "--sft", "its data are packed conversations, in one form"),
    (lambda a: a.fim_data, "--fim-data", "its data set rewrites samples byte by byte"),
    (
        lambda a: a.per_dataset_sequences_path is not None,
        "--per-dataset-sequences-path",
        "it counts the documents of one form",
    ),
    (lambda a: a.dataloader_type == "cyclic", "--dataloader-type cyclic", _IN_ORDER),
    (lambda a: a.dataloader_type == "external", "--dataloader-type external", _IN_ORDER),
    (lambda a: a.phase_transition_iterations, "--phase-transition-iterations", _IN_ORDER),
    (
        lambda a: a.decrease_batch_size_if_needed,
        "--decrease-batch-size-if-needed",
        "the stages end between steps of the whole batch size",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--proxy-*`` group to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        "proxy compression",
        "Train on text in two forms, compressed and as bytes, and use the model on bytes (arXiv "
        "2602.04289). The corpora are of a tokenizer of compressor proxy.",
    )
    group.add_argument(
        "--proxy-schedule",
        metavar="RATE:LENGTH,...",
        help="the share of the text that is compressed, over the run, such as "
        "0.4-0.9:0.2,0.9: from 0.4 to 0.9 in the first fifth of the steps, then 0.9; a length is "
        "a share of the steps, or steps (10000steps); the last goes on to the end",
    )
    group.add_argument(
        "--proxy-pairs",
        metavar="LENGTH",
        help="for so long from the beginning, have what is of the rarer form come in pairs: a "
        "document in one form, then the same one in the other",
    )
    group.add_argument(
        "--proxy-ratio",
        metavar="K",
        help="bytes of text that a compressed token holds, as index build tells them: rates are "
        "of documents then, as the paper's are (default 1: rates are of tokens)",
    )


def is_on(args: argparse.Namespace) -> bool:
    """With ``--proxy-schedule``."""
    return getattr(args, "proxy_schedule", None) is not None


def check(args: argparse.Namespace) -> None:
    """Check the flags by themselves.

    Raises:
        UserError: they cannot be understood.
    """
    if is_on(args):
        _named("--proxy-schedule", lambda: parse_schedule(args.proxy_schedule))
    for flag, value, parse in (
        ("--proxy-pairs", getattr(args, "proxy_pairs", None), parse_length),
        ("--proxy-ratio", getattr(args, "proxy_ratio", None), parse_ratio),
    ):
        if value is None:
            continue
        if not is_on(args):
            raise UserError(f"{flag} does nothing without a rate: add --proxy-schedule")
        _named(flag, partial(parse, value))


def check_beside(args: argparse.Namespace) -> None:
    """Check what text in two forms asks of Megatron.

    Args:
        args: all of Megatron's, before or after its validation.

    Raises:
        UserError: it does not go with it.
    """
    for asked_for, flag, reason in _UNSUPPORTED:
        if asked_for(args):
            raise UserError(f"{flag} does not go with --proxy-schedule: {reason}")


def stages_of_steps(args: argparse.Namespace) -> Callable[[int], tuple[RateStage, ...]]:
    """The stages of a run, from checked flags, as a function of its steps.

    The function raises UserError where a piece rounds to 0 steps, or does not fit.
    """
    pieces = parse_schedule(args.proxy_schedule)
    pairs = None if args.proxy_pairs is None else parse_length(args.proxy_pairs)
    ratio = parse_ratio("1" if args.proxy_ratio is None else args.proxy_ratio)
    samples_of_steps = BatchSizes.from_args(args).samples_of_steps
    return lambda steps: _named(
        "--proxy-schedule", lambda: stages_of(pieces, pairs, steps, samples_of_steps, ratio)
    )


def _named[T](flag: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ScheduleError as error:
        raise UserError(f"{flag}: {error}") from None
