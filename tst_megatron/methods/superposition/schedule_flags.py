"""The ``--tst-*`` flags that say which text a run reads: its stages and its blend.

The one idea: training and ``tst-megatron index budget`` understand them here, in the same words; so
nothing of Megatron's is imported, which takes seconds.
"""

import argparse
from collections.abc import Callable
from typing import Any

from tst_megatron.corpora.parts import BAG_BOUNDARIES
from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.open_schedule import OpenSchedule, is_auto, parse_auto
from tst_megatron.methods.superposition.schedule import (
    BagSchedule,
    ScheduleError,
    Stage,
    parse_shares,
)
from tst_megatron.stock.batch_sizes import BatchSizes

DEFAULT_STEP_RATIO = 0.3  # arXiv 2605.06546, Section 4: 0.2 to 0.4 is best.
SUPERPOSE = ("both", "input", "output")


def add_schedule_arguments(group: Any) -> None:
    """Add the flags to a parser or to a group of one."""
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
        "--blend",
        metavar="FILE",
        help="a YAML of sources (path, weight, epochs), in place of Megatron's data paths",
    )
    group.add_argument(
        "--allow-repeats",
        action="store_true",
        help="go on although a stage reads some of its text more than once",
    )


def superposes(args: argparse.Namespace) -> bool:
    """Whether the flags ask for a superposition phase at all."""
    return args.tst_bag_size is not None or args.tst_schedule is not None


def bag_sizes(args: argparse.Namespace) -> tuple[int, ...]:
    """Bag sizes of the stages, in the order of training; checked flags are taken for granted."""
    if is_auto(args.tst_schedule):
        return parse_auto(args.tst_schedule).bag_size, 1
    if not superposes(args):
        return (1,)
    return *(bag_size for bag_size, _ in _shares(args)), 1


def check_schedule_flags(args: argparse.Namespace) -> None:
    """Check the stages that the flags name.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
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
    """The run's schedule as a function of its steps; one ordinary stage without bags.

    The function raises UserError where a stage rounds to 0 steps.
    """
    samples_of_steps = BatchSizes.from_args(args).samples_of_steps
    if not superposes(args):
        return lambda steps: BagSchedule((Stage(1, samples_of_steps(steps)),))
    return lambda steps: _schedule(args, steps, samples_of_steps)


def text_schedule(schedule: BagSchedule, superpose: str) -> BagSchedule:
    """The samples that text must be there for; more than the run has, where the switch is open."""
    # Single tokens are read on both sides of the switch, wherever it is.
    return data_schedule(schedule, superpose) if superpose == "output" else schedule.text


def data_schedule(schedule: BagSchedule, superpose: str) -> BagSchedule:
    """The schedule as the data see it: output superposition reads single tokens throughout."""
    if superpose != "output":
        return schedule
    return BagSchedule(tuple(Stage(1, stage.num_samples) for stage in schedule.stages))


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
