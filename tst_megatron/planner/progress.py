"""Steps, positions and data tokens of a run, by the stages of its schedule.

The one idea: a superposed step has the positions of an ordinary one, and reads s times as many
tokens; so a step is a step, and only the data differ (arXiv 2605.06546, Table 1).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from megatron.core.num_microbatches_calculator import (
    get_current_global_batch_size,
    update_num_microbatches,
)

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import run_of


@dataclass(frozen=True)
class RunStage:
    """A stage of the schedule.

    Attributes:
        bag_size: s of its targets or inputs; 1 is ordinary.
        tokens_per_position: that a position reads: s, or 1 where only the targets are bags.
        steps: of the optimizer.
        samples: sequences.
    """

    bag_size: int
    tokens_per_position: int
    steps: int
    samples: int


def run_stages(args: argparse.Namespace) -> tuple[RunStage, ...]:
    """The stages of a run that have any steps.

    Raises:
        UserError: the run has no length, or its schedule does not fit it.
    """
    if not args.train_iters and not args.train_samples:
        raise UserError("the length of the run is not known: add --train-iters")
    stages = run_of(args).stages
    after = _samples(args, _steps(args))
    ends = list(accumulate(stage.samples for stage in stages))
    starts = [0, *ends]
    return tuple(
        RunStage(
            int(stage.facts.get("bag_size") or 1),
            stage.tokens_a_position,
            after.index(end) - after.index(start),
            stage.samples,
        )
        for stage, start, end in zip(stages, starts, ends, strict=False)
        if stage.samples
    )


def _steps(args: argparse.Namespace) -> int:
    """As megatron.training.training.update_train_iters counts them."""
    if args.train_iters:
        return int(args.train_iters)
    if args.step_batch_size_schedule is None:
        # A last step that is not full is left out.
        return int(args.train_samples // args.global_batch_size)
    steps = samples = 0
    while samples < args.train_samples:
        samples += _batch_at(samples)
        steps += 1
    update_num_microbatches(0, consistency_check=False)
    return steps


def _samples(args: argparse.Namespace, steps: int) -> Sequence[int]:
    """Samples consumed after 0, 1, 2 … steps."""
    if args.step_batch_size_schedule is None:
        batch = args.global_batch_size
        return range(0, steps * batch + 1, batch)
    totals = [0]
    for _ in range(steps):
        totals.append(totals[-1] + _batch_at(totals[-1]))
    update_num_microbatches(0, consistency_check=False)
    return totals


def _batch_at(samples: int) -> int:
    update_num_microbatches(samples, consistency_check=False)
    return int(get_current_global_batch_size())
