"""How many samples a number of steps consumes, with Megatron's ``--step-batch-size-schedule`` too.

The one idea: a batch size holds from one sample on, so the samples of n steps follow in a few
divisions, without stepping through the run.
"""

import argparse
from dataclasses import dataclass
from itertools import pairwise

from tst_megatron.errors import UserError

# megatron/core/num_microbatches_calculator.py, _parse_numeric_value
_FACTOR_OF_SUFFIX = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class BatchSizes:
    """The global batch size at every sample of a run.

    Attributes:
        changes: (first sample, batch size from there on), the first from sample 0.
    """

    changes: tuple[tuple[int, int], ...]

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "BatchSizes":
        """The batch sizes that the flags name.

        Raises:
            UserError: they name none, or the schedule is not Megatron's ``TOKENS:SIZE ...``.
        """
        if args.step_batch_size_schedule is not None:
            return cls(_parse(args.step_batch_size_schedule, args.seq_length))
        if not args.global_batch_size or args.global_batch_size < 1:
            raise UserError("samples are steps times the batch size: add --global-batch-size")
        return cls(((0, args.global_batch_size),))

    def samples_of_steps(self, steps: int) -> int:
        """Samples that the first steps consume."""
        consumed = 0
        for (_, size), (end, _) in pairwise(self.changes):
            taken = min(steps, max(0, -(-(end - consumed) // size)))
            consumed += taken * size
            steps -= taken
        return consumed + steps * self.changes[-1][1]

    def steps_of_samples(self, samples: int) -> int:
        """Steps of a run of ``--train-samples`` (megatron/training/training.py,
        ``update_train_iters``): whole batches of one size, or up to the last sample of a schedule.
        """
        if len(self.changes) == 1:
            return samples // self.changes[0][1]
        consumed = steps = 0
        for (_, size), (end, _) in pairwise((*self.changes, (samples, 0))):
            taken = max(0, -(-(min(end, samples) - consumed) // size))
            consumed += taken * size
            steps += taken
        return steps


def train_steps(args: argparse.Namespace) -> int:
    """Steps of the run.

    Raises:
        UserError: the flags name neither steps nor samples, or fewer than none.
    """
    if args.train_iters:
        return _length("--train-iters", args.train_iters)
    if not args.train_samples:
        raise UserError("the length of the run is not known: add --train-iters or --train-samples")
    samples = _length("--train-samples", args.train_samples)
    return BatchSizes.from_args(args).steps_of_samples(samples)


def _length(flag: str, given: int) -> int:
    if given < 0:
        raise UserError(f"{flag} {given} is below 0: give the run's length")
    return int(given)


def _parse(text: str, seq_length: int) -> tuple[tuple[int, int], ...]:
    """As ``StepBatchsizeNumMicroBatchesCalculator`` reads it: thresholds are tokens."""
    try:
        pairs = [entry.split(":", 1) for entry in text.replace(",", " ").split()]
        changes = sorted((_number(at) // seq_length, _number(size)) for at, size in pairs)
    except (ValueError, OverflowError):
        changes = []
    starts = [first for first, _ in changes]
    smallest = min((size for _, size in changes), default=0)
    if smallest < 1 or starts[0] != 0 or len(set(starts)) < len(starts):
        raise UserError(
            f"--step-batch-size-schedule {text!r} is not TOKENS:BATCH_SIZE from 0 on: write for "
            "example '0:768 250B:1536'"
        )
    return tuple(changes)


def _number(text: str) -> int:
    text = text.strip().upper()
    factor = _FACTOR_OF_SUFFIX.get(text[-1:], 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)
