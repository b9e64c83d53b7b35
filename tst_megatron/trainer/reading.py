"""From flags to what decides which text a run reads; without Megatron, as the budget needs it."""

import argparse
import math
from collections.abc import Sequence

from tst_megatron.corpora import budget
from tst_megatron.corpora.budget import Reading
from tst_megatron.corpora.parts import TextPart, ordinary_text
from tst_megatron.corpora.sources import Source, blends, check_sources, sources_of_split
from tst_megatron.errors import UserError
from tst_megatron.methods import registry
from tst_megatron.methods.method import Run
from tst_megatron.stock.batch_sizes import train_steps
from tst_megatron.stock.unheeded import check_unheeded

_LARGEST_SEED = 2**32 - 1  # Of numpy, which shuffles.
_NO_TEXT = (
    "there is no training data: add --data-path, --train-data-path or --blend, or --mock-data for "
    "made-up tokens"
)


def check_data_flags(args: argparse.Namespace) -> None:
    """Check the flags that say what is read, of any run, before anything is opened.

    Raises:
        UserError: Megatron would read another thing than is written, or fail over it later.
    """
    blends(args)
    # Written so that NaN fails too.
    if not 0.0 <= args.mid_level_dataset_surplus < math.inf:
        raise UserError(
            f"--mid-level-dataset-surplus {args.mid_level_dataset_surplus:g} is no share of the "
            "samples: give it one from 0 on"
        )
    check_seed(args.seed)


def check_seed(seed: int) -> None:
    """Check a seed of Megatron's.

    Raises:
        UserError: Megatron or numpy would not take it.
    """
    if not 1 <= seed <= _LARGEST_SEED:
        raise UserError(f"--seed {seed} is no seed: give one from 1 to {_LARGEST_SEED:,}")


def reading_from_args(args: argparse.Namespace, run: Run | None = None) -> Reading:
    """What a run reads, from Megatron's flags and ours.

    Args:
        args: the flags.
        run: what its methods make of it, where it is known to go on from another.

    Raises:
        UserError: there are no training data, flags do not say how much is read of them, or do so
            in a way that Megatron does not heed.
    """
    registry.check_own_flags(args)
    check_unheeded(args)
    check_data_flags(args)
    if not args.seq_length or args.seq_length < 1:
        raise UserError("a sample is as long as its sequence: add --seq-length")
    if args.mock_data:
        raise UserError("mock data are made up as they are read: name a corpus to have it counted")
    sources = tuple(sources_of_split(args, "train"))
    if not sources:
        raise UserError(_NO_TEXT)
    check_sources(sources)
    run = run or registry.run_of(args)
    return reading_of_run(args, run, sources, args.mid_level_dataset_surplus)


def reading_of_run(
    args: argparse.Namespace, run: Run, sources: tuple[Source, ...], surplus: float
) -> Reading:
    """What a run reads of given sources.

    Args:
        args: Megatron's flags.
        run: what the run's methods make of it.
        sources: the blend.
        surplus: Megatron's ``--mid-level-dataset-surplus``.
    """
    return Reading(
        seq_length=args.seq_length,
        train_iters=train_steps(args),
        parts=lambda steps: text_of_run(run, steps, args.seq_length),
        sources=sources,
        seed=args.seed,
        surplus=surplus,
    )


def text_of_run(run: Run, train_iters: int, seq_length: int) -> Sequence[TextPart]:
    """The parts of a run's text, in the order of training; of an ordinary one, or one that reads
    its text as any run does, a single part.

    Raises:
        UserError: the run cannot have so many steps.
    """
    parts = run.text(train_iters, seq_length)
    if parts is not None:
        return parts
    samples = sum(stage.samples for stage in run.stages_of(train_iters))
    return [ordinary_text(samples, seq_length)] if samples else []


def validation_tokens(args: argparse.Namespace) -> list[int] | None:
    """Tokens of each corpus of the validation split; None where one is not on this machine.

    Args:
        args: Megatron's flags and ours.
    """
    if args.mock_data or args.sft:
        return None
    sources = sources_of_split(args, "valid")
    if any(source.is_remote for source in sources):
        return None
    return [budget.tokens_of(source) for source in sources]


def check_some_text(args: argparse.Namespace) -> None:
    """Check that an ordinary run has text to train on, however often Megatron reads it.

    Args:
        args: Megatron's flags and ours.

    Raises:
        UserError: it has none.
    """
    sources = sources_of_split(args, "train")
    if not sources:
        raise UserError(_NO_TEXT)
    for source in sources:
        if not source.is_remote and not budget.tokens_of(source):
            raise UserError(
                f"the training split of {source.prefix} has no tokens: give --split more of it"
            )


def check_held_out(args: argparse.Namespace, num_samples: int = 1) -> None:
    """Check that validation and test have text: Megatron counts epochs of an empty one for ever.

    Args:
        args: Megatron's flags and ours.
        num_samples: that validation must have, of those that read most.

    Raises:
        UserError: one has less.
    """
    if not args.eval_iters:
        return
    registry.check_own_flags(args)
    part = registry.run_of(args).held_out_text(num_samples, args.seq_length)
    part = part or ordinary_text(num_samples, args.seq_length)
    for source in sources_of_split(args, "valid"):
        if not source.is_remote:
            budget.check_held_out(source, "validation", part.needed, part.unit)
    tested = sources_of_split(args, "test")
    by_size = len(tested) > 1 and tested[0].weight is None
    needed = ordinary_text(1, args.seq_length).needed if by_size else 1
    for source in tested:
        # One that --split has no share for is not built.
        if not source.is_remote and source.documents != (0.0, 0.0):
            budget.check_held_out(source, "test", needed)
