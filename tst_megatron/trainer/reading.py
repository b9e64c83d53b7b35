"""From flags to what decides which text a run reads; without Megatron, as the budget needs it."""

import argparse
from collections.abc import Callable

from tst_megatron.corpora import budget
from tst_megatron.corpora.budget import Reading
from tst_megatron.corpora.parts import places_needed
from tst_megatron.corpora.sources import check_sources, sources_of_split
from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.flags import schedule_of_steps, superposes
from tst_megatron.methods.superposition.schedule import BagSchedule, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps


def _schedules(args: argparse.Namespace) -> Callable[[int], BagSchedule]:
    if superposes(args):
        return schedule_of_steps(args)
    samples_of_steps = BatchSizes.from_args(args).samples_of_steps
    return lambda steps: BagSchedule((Stage(1, samples_of_steps(steps)),))


def data_schedule(schedule: BagSchedule, superpose: str) -> BagSchedule:
    """As the data see it."""
    if superpose != "output":
        return schedule
    return BagSchedule(tuple(Stage(1, stage.num_samples) for stage in schedule.stages))


def text_schedule(schedule: BagSchedule, superpose: str) -> BagSchedule:
    """As text is laid out."""
    return data_schedule(schedule, superpose) if superpose == "output" else schedule.text


def reading_from_args(args: argparse.Namespace) -> Reading:
    """What a run reads, from Megatron's flags and ours.

    Raises:
        UserError: there are no training data, or flags do not say how much is read of them.
    """
    if not args.seq_length or args.seq_length < 1:
        raise UserError("a sample is as long as its sequence: add --seq-length")
    sources = tuple(sources_of_split(args, "train"))
    if not sources:
        raise UserError("there is no training data: add --data-path, --train-data-path or --blend")
    check_sources(sources)
    schedule = _schedules(args)
    return Reading(
        seq_length=args.seq_length,
        train_iters=train_steps(args),
        schedule=lambda steps: text_schedule(schedule(steps), args.tst_superpose),
        sources=sources,
        seed=args.seed,
        surplus=args.mid_level_dataset_surplus,
        bag_boundary=args.tst_bag_boundary,
    )


def validation_tokens(args: argparse.Namespace) -> int | None:
    """Tokens of the validation split; None where the text is not on this machine.

    Args:
        args: Megatron's flags and ours.
    """
    if args.mock_data or args.sft:
        return None
    sources = sources_of_split(args, "valid")
    if any(source.is_remote for source in sources):
        return None
    return sum(budget.tokens_of(source) for source in sources)


def check_validation(args: argparse.Namespace, num_samples: int = 1) -> None:
    """Check that the validation split has text: Megatron counts epochs of an empty one for ever.

    Args:
        args: Megatron's flags and ours.
        num_samples: that it must have, of the largest bags.

    Raises:
        UserError: it has less.
    """
    if not args.eval_iters:
        return
    bag_size = 1
    if superposes(args):
        schedule = data_schedule(schedule_of_steps(args)(train_steps(args)), args.tst_superpose)
        bag_size = max(stage.bag_size for stage in schedule.stages)
    boundary = args.tst_bag_boundary
    needed = places_needed(num_samples, args.seq_length, bag_size, boundary)
    for source in sources_of_split(args, "valid"):
        if not source.is_remote:
            budget.check_validation(source, needed, bag_size, boundary)
