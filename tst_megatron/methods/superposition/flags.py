"""The ``--tst-*`` flags: what they are, what they mean together, and the schedule they name.

The one idea: training, planner and ``index budget`` understand them here, in the same words; so
nothing of Megatron's or torch is imported, which takes seconds.
"""

import argparse
from collections.abc import Callable

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.open_schedule import OpenSchedule, is_auto, parse_auto
from tst_megatron.methods.superposition.schedule import (
    BagSchedule,
    ScheduleError,
    parse_shares,
)
from tst_megatron.methods.superposition.settings import (
    BAG_BOUNDARIES,
    BAG_WEIGHTS,
    OBJECTIVES,
    SUPERPOSE,
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
        type=float,
        metavar="R",
        help=f"share of the steps in the superposition phase (default {DEFAULT_STEP_RATIO})",
    )
    group.add_argument(
        "--tst-schedule",
        metavar="S:R,...",
        help="several phases as bag size : share of the steps, such as 16:0.2,4:0.1; "
        "the rest is ordinary; or auto:S[:MIN,MAX], one phase that ends by measurement, between "
        "these shares (default 0.1,0.5)",
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


def superposes(args: argparse.Namespace) -> bool:
    """Whether the flags ask for a superposition phase at all."""
    return args.tst_bag_size is not None or args.tst_schedule is not None


def check_flags(args: argparse.Namespace) -> None:
    """Check the ``--tst-*`` flags that need nothing but themselves.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    _check_schedule(args)
    if superposes(args):
        _check_objective(args)
        return
    for flag, default in (
        ("superpose", "both"),
        ("bag_boundary", "any"),
        ("bag_weights", "uniform"),
        ("objective", "mce"),
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
        args.tst_bag_weights != "uniform" or args.tst_objective != "mce"
    ):
        raise UserError(
            "--tst-superpose input predicts single tokens: leave --tst-bag-weights and "
            "--tst-objective out"
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
        # A run long enough for any share, so that only the shares themselves can be at fault.
        _schedule(args, train_iters=10**9, samples_of_steps=lambda steps: steps)


def schedule_of_steps(args: argparse.Namespace) -> Callable[[int], BagSchedule]:
    """The schedule of a run that superposes, as a function of its steps.

    The function raises UserError where a stage rounds to 0 steps.
    """
    samples_of_steps = BatchSizes.from_args(args).samples_of_steps
    return lambda steps: _schedule(args, steps, samples_of_steps)


def _schedule(
    args: argparse.Namespace, train_iters: int, samples_of_steps: Callable[[int], int]
) -> BagSchedule:
    try:
        if is_auto(args.tst_schedule):
            return OpenSchedule(parse_auto(args.tst_schedule), train_iters, samples_of_steps)
        return BagSchedule.from_shares(_shares(args), train_iters, samples_of_steps)
    except ScheduleError as error:
        flag = (
            "--tst-schedule" if args.tst_schedule is not None else "--tst-bag-size/--tst-step-ratio"
        )
        raise UserError(f"{flag}: {error}") from None


def _shares(args: argparse.Namespace) -> tuple[tuple[int, float], ...]:
    if args.tst_schedule is not None:
        return parse_shares(args.tst_schedule)
    ratio = DEFAULT_STEP_RATIO if args.tst_step_ratio is None else args.tst_step_ratio
    return ((args.tst_bag_size, ratio),)
