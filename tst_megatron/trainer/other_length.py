"""A run that goes on from the checkpoint of one of another length, such as a WSD run's extension.

The one idea: what a longer run does is what the shorter one would have done, until its end and then
on; where Megatron would do otherwise, or would end in an assertion, that is said first.
"""

import argparse
import logging
from typing import Any

from tst_megatron.corpora.budget import Budget, StageBudget, times
from tst_megatron.errors import UserError
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

logger = logging.getLogger(__name__)


def check_learning_rate(args: argparse.Namespace, saved: argparse.Namespace) -> None:
    """Check that Megatron takes the checkpoint's learning-rate schedule, or is told which to take.

    Args:
        args: Megatron's validated arguments.
        saved: those of the checkpoint.

    Raises:
        UserError: the two differ, which ``OptimizerParamScheduler.load_state_dict`` asserts.
    """
    chosen = args.override_opt_param_scheduler or args.use_checkpoint_opt_param_scheduler
    saved = _filled_up(saved, args)
    # What a run took from its own checkpoint, its arguments do not tell.
    if chosen or saved.use_checkpoint_opt_param_scheduler or args.no_load_optim:
        return
    if not (_trains(saved) and _trains(args)):
        return
    before, now = learning_rate_schedule(saved), learning_rate_schedule(args)
    changed = [
        f"{name} {before[name]} and {now[name]}" for name in now if before[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"the checkpoint in {args.load} and this run have other learning-rate schedules "
            f"({', '.join(changed)}): add --override-opt_param-scheduler to take this run's, or "
            "--use-checkpoint-opt_param-scheduler to take the checkpoint's"
        )


def learning_rate_schedule(args: argparse.Namespace) -> dict[str, Any]:
    """What must not change, by the names that it is told by; lengths in samples.

    As megatron/training/training.py, ``get_optimizer_param_scheduler``, makes it.
    """
    if args.train_samples:
        end, decay = args.train_samples, args.lr_decay_samples or args.train_samples
        warmup = args.lr_warmup_samples
    else:
        batch = args.global_batch_size
        end, decay = args.train_iters * batch, (args.lr_decay_iters or args.train_iters) * batch
        warmup = args.lr_warmup_iters * batch
    if args.lr_warmup_fraction is not None:
        warmup = args.lr_warmup_fraction * decay
    return {
        "learning rate": args.lr,
        "least learning rate": args.min_lr,
        "samples of warm-up": warmup,
        "samples until the end of the decay": decay,
        "decay": args.lr_decay_style,
        "first weight decay": args.start_weight_decay,
        "last weight decay": args.end_weight_decay,
        "samples of rising weight decay": end,
        "rise of weight decay": args.weight_decay_incr_style,
    }


def steps_before(args: argparse.Namespace, saved: argparse.Namespace) -> int | None:
    """Steps of this run's batch size in the checkpoint's whole run; None if as many as in this one,
    or if one of them evaluates alone.

    Args:
        args: Megatron's validated arguments.
        saved: those of the checkpoint.
    """
    saved = _filled_up(saved, args)
    if not (_trains(saved) and _trains(args)):
        return None
    samples = BatchSizes.from_args(saved).samples_of_steps(train_steps(saved))
    before = BatchSizes.from_args(args).steps_of_samples(samples)
    return None if before == train_steps(args) else before


def _trains(args: argparse.Namespace) -> bool:
    """Whether a run has steps, and does not evaluate alone."""
    return bool(args.train_iters or args.train_samples) and not args.skip_train


def _filled_up(saved: argparse.Namespace, args: argparse.Namespace) -> argparse.Namespace:
    """With this run's values of what a checkpoint of an older Megatron does not tell."""
    return argparse.Namespace(**vars(args) | vars(saved))


def check_order(args: argparse.Namespace, found: Budget, before: int, must_be_kept: bool) -> None:
    """Check that what is left of the samples comes in the order in which it was to come.

    Args:
        args: Megatron's validated arguments.
        found: what the run reads.
        before: steps of the checkpoint's run.
        must_be_kept: whether the run is refused otherwise, and not only told.

    Raises:
        UserError: it does not.
    """
    other = found.in_another_order(before)
    if not other:
        return
    words = _in_words(args, other[0], before, train_steps(args))
    if must_be_kept:
        raise UserError(f"{words}: train for fewer steps, or add --allow-schedule-change")
    logger.warning("%s.", words[0].upper() + words[1:])


def _in_words(args: argparse.Namespace, stage: StageBudget, before: int, now: int) -> str:
    return (
        f"the run of the checkpoint in {args.load} was to have {before:,} steps and this one has "
        f"{now:,}, in which {stage.part.in_words} reads the corpus {stage.source.prefix} "
        f"{times(stage.epochs)} times; as Megatron shuffles all epochs together, samples come in "
        "another order than until now, and some of those that are to come have been read"
    )
