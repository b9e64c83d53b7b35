"""The ``--tst-*`` flags: what they are, what they mean together, and the schedule they name.

The one idea: training, planner and ``index budget`` understand them here, in the same words; so
nothing of Megatron's or torch is imported, which takes seconds.
"""

import argparse
from collections.abc import Callable

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.open_schedule import OpenSchedule, is_auto, parse_auto
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.settings import (
    AUTO,
    BAG_BOUNDARIES,
    BAG_WEIGHTS,
    LOSS_IMPLEMENTATIONS,
    OBJECTIVES,
    SUPERPOSE,
)
from tst_megatron.methods.superposition.stage_lengths import (
    TOKENS,
    RunLength,
    ScheduleError,
    StageLength,
    check_lengths,
    parse_lengths,
)
from tst_megatron.stock.batch_sizes import BatchSizes

DEFAULT_STEP_RATIO = 0.3  # arXiv 2605.06546, Section 4: 0.2 to 0.4 is best.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--tst-*`` group to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        title="token superposition",
        description="Train the first part of the run on bags of tokens (arXiv 2605.06546).",
    )
    group.add_argument(
        "--tst-bag-size",
        type=int,
        metavar="S",
        help="tokens in a bag in the superposition phase; without this flag or --tst-schedule "
        "the run is ordinary",
    )
    group.add_argument(
        "--tst-step-ratio",
        type=_step_ratio,
        metavar="R",
        help=f"share of the steps in the superposition phase (default {DEFAULT_STEP_RATIO})",
    )
    group.add_argument(
        "--tst-schedule",
        metavar="S:LENGTH,...",
        help="several phases as bag size : length, such as 16:0.2,4:0.1; a length is a share of "
        "the steps, or steps or tokens of text, which stay where they are in a longer run: "
        "16:6000steps, 4:2Btokens; the rest is ordinary; or auto:S[:LEAST,MOST], one phase that "
        "ends by measurement, between these lengths (default 0.1,0.5)",
    )
    group.add_argument(
        "--tst-superpose",
        choices=SUPERPOSE,
        default="both",
        help="superpose both sides (default), or only one: output reads single tokens, predicts "
        "the next bag and consumes no extra data",
    )
    group.add_argument(
        "--tst-bag-boundary",
        choices=BAG_BOUNDARIES,
        default="any",
        help="cut bags from the running text (default), or end a bag with its document: the empty "
        "places of its last bag have no weight",
    )
    group.add_argument(
        "--tst-bag-weights",
        choices=BAG_WEIGHTS,
        default="uniform",
        help="weights of the places inside the target bag (default uniform)",
    )
    group.add_argument(
        "--tst-objective",
        choices=OBJECTIVES,
        default="mce",
        help="multi-hot cross-entropy (default) or the bag's total probability",
    )
    group.add_argument(
        "--tst-loss-implementation",
        choices=(AUTO, *LOSS_IMPLEMENTATIONS),
        default=AUTO,
        help="how the loss of bags passes over the logits: in a Triton kernel, compiled by torch, "
        "or operation by operation; auto (default) takes the first that runs on a GPU, and eager "
        "on a CPU. A run may go on under another",
    )
    group.add_argument(
        "--tst-logits-chunk-size",
        type=int,
        default=0,
        metavar="ROWS",
        help="let the loss make so many rows of logits at a time, forward and once more backward, "
        "in every stage: for large vocabularies (default 0: the output layer makes all of them)",
    )


def _step_ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share of the steps: write for example 0.3, or steps or tokens as "
            "--tst-schedule BAG_SIZE:6000steps"
        ) from None


def superposes(args: argparse.Namespace) -> bool:
    """Whether the flags ask for a superposition phase at all."""
    return args.tst_bag_size is not None or args.tst_schedule is not None


def check_flags(args: argparse.Namespace) -> None:
    """Check the ``--tst-*`` flags that need nothing but themselves.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    _check_schedule(args)
    if args.tst_logits_chunk_size < 0:
        raise UserError(
            f"--tst-logits-chunk-size {args.tst_logits_chunk_size} is no number of rows: use 1 or "
            "more, or 0 for all of them"
        )
    if superposes(args):
        _check_objective(args)
        return
    for flag, default in (
        ("superpose", "both"),
        ("bag_boundary", "any"),
        ("bag_weights", "uniform"),
        ("objective", "mce"),
        ("loss_implementation", AUTO),
        ("logits_chunk_size", 0),
    ):
        if getattr(args, f"tst_{flag}") != default:
            raise UserError(
                f"--tst-{flag.replace('_', '-')} does nothing without a superposition phase: "
                "add --tst-bag-size or --tst-schedule"
            )


def _check_objective(args: argparse.Namespace) -> None:
    if args.tst_objective == "mce-alt" and args.tst_bag_weights != "uniform":
        raise UserError(
            "--tst-objective mce-alt takes no weights: leave --tst-bag-weights out or use mce"
        )
    if args.tst_superpose == "input" and (
        args.tst_bag_weights != "uniform"
        or args.tst_objective != "mce"
        or (args.tst_loss_implementation != AUTO and not args.tst_logits_chunk_size)
    ):
        raise UserError(
            "--tst-superpose input predicts single tokens: leave --tst-bag-weights, "
            "--tst-objective and --tst-loss-implementation out"
        )


def _check_schedule(args: argparse.Namespace) -> None:
    if args.tst_schedule is not None and (
        args.tst_bag_size is not None or args.tst_step_ratio is not None
    ):
        raise UserError(
            "--tst-schedule and --tst-bag-size/--tst-step-ratio are two forms of one thing: use one"
        )
    if args.tst_step_ratio is not None and args.tst_bag_size is None:
        raise UserError("--tst-step-ratio needs a bag size: add --tst-bag-size")
    if superposes(args):
        _named(args, _check_lengths)


def _check_lengths(args: argparse.Namespace) -> None:
    if is_auto(args.tst_schedule):
        parse_auto(args.tst_schedule)
    else:
        check_lengths(lengths(args))


def schedule_of_steps(args: argparse.Namespace) -> Callable[[int], BagSchedule]:
    """The schedule of a run that superposes, as a function of its steps.

    The function raises UserError where a stage rounds to 0 steps, or does not fit.
    """
    samples_of_steps = BatchSizes.from_args(args).samples_of_steps

    def schedule_of(steps: int) -> BagSchedule:
        run = RunLength(steps, samples_of_steps, tokens_of_sample(args))
        return _named(args, lambda args: _schedule(args, run))

    return schedule_of


def _schedule(args: argparse.Namespace, run: RunLength) -> BagSchedule:
    if is_auto(args.tst_schedule):
        return OpenSchedule(parse_auto(args.tst_schedule), run)
    return BagSchedule.from_lengths(lengths(args), run)


def _named[T](args: argparse.Namespace, of_flags: Callable[[argparse.Namespace], T]) -> T:
    """What is made of the flags; an error names them."""
    try:
        return of_flags(args)
    except ScheduleError as error:
        flag = (
            "--tst-schedule" if args.tst_schedule is not None else "--tst-bag-size/--tst-step-ratio"
        )
        raise UserError(f"{flag}: {error}") from None


def lengths(args: argparse.Namespace) -> tuple[tuple[int, StageLength], ...]:
    """Bag size and length of every stage, as they are given; not of ``auto``."""
    if args.tst_schedule is not None:
        return parse_lengths(args.tst_schedule)
    ratio = DEFAULT_STEP_RATIO if args.tst_step_ratio is None else args.tst_step_ratio
    return ((args.tst_bag_size, StageLength(ratio)),)


def loss_implementation(args: argparse.Namespace) -> str | None:
    """How the loss of bags is computed, where it is named."""
    named: str = args.tst_loss_implementation
    return None if named == AUTO else named


def tokens_of_sample(args: argparse.Namespace) -> Callable[[int], int] | None:
    """Tokens that a sample of some bag size reads; None where the sequence length is not known."""
    seq_length = getattr(args, "seq_length", None)
    if not seq_length:
        return None
    return lambda bag_size: seq_length * (1 if args.tst_superpose == "output" else bag_size)


def rounded_stages(args: argparse.Namespace, schedule: BagSchedule) -> list[str]:
    """Stages given in tokens that are no whole number of steps, in words.

    Args:
        args: of a run whose sequence length is known.
        schedule: of the run.
    """
    of_sample = tokens_of_sample(args)
    if is_auto(args.tst_schedule) or of_sample is None:
        return []
    words = []
    for (bag_size, length), stage in zip(lengths(args), schedule.stages, strict=False):
        reads = stage.num_samples * of_sample(bag_size)
        if length.unit == TOKENS and reads != length.amount:
            words.append(
                f"--tst-schedule: {bag_size}:{length} is no whole number of steps, and the nearest "
                f"reads {reads:,} tokens in {stage.num_samples:,} samples"
            )
    return words
