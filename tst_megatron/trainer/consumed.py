"""What a run has consumed after each step: samples, positions, data tokens, FLOPs, and its phase.

The one idea: everything follows from the number of samples that Megatron counts, so that it is
right after a resume without having been saved.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from megatron.training.training import num_floating_point_operations

from tst_megatron.methods.superposition.arguments import Superposition


@dataclass(frozen=True)
class ProgressAt:
    """How far a run is after a step.

    Attributes:
        step: optimizer steps.
        stage: index of the stage that the step was in.
        bag_size: s of that stage.
        is_superposed: whether it was a superposed stage.
        samples: sequences trained on so far.
        positions: positions computed on so far, batch and sequence multiplied out.
        data_tokens: tokens read so far.
        flops: floating-point operations so far, as Megatron counts them.
    """

    step: int = 0
    stage: int = 0
    bag_size: int = 1
    is_superposed: bool = False
    samples: int = 0
    positions: int = 0
    data_tokens: int = 0
    flops: float = 0.0

    def fields(self) -> dict[str, Any]:
        """For a ledger line."""
        return {
            "step": self.step,
            "positions": self.positions,
            "data_tokens": self.data_tokens,
            "flops": self.flops,
        }

    def log_fields(self) -> str:
        """For the log line, in Megatron's form."""
        return (
            f"phase: {'superposition' if self.is_superposed else 'ordinary'} | "
            f"stage: {self.stage} | bag size: {self.bag_size} | positions: {self.positions} | "
            f"data tokens: {self.data_tokens}"
        )


class Progress:
    """Counts what the run has consumed, from Megatron's own count of samples."""

    def __init__(self, args: argparse.Namespace, superposition: Superposition | None) -> None:
        self.args = args
        self.superposition = superposition
        self.started_at = 0
        self._samples: int | None = None
        self._skipped = 0
        self.now = ProgressAt()

    def start(self) -> None:
        """Take over what the loaded checkpoint had consumed; later calls do nothing."""
        if self._samples is None:
            self.started_at = self.args.iteration
            self._skipped = self.args.skipped_train_samples
            self.now = self._at(
                self.args.iteration, float(self.args.num_floating_point_operations_so_far)
            )

    def after(self, iteration: int, lengths: dict[str, float] | None = None) -> ProgressAt:
        """Count the step that Megatron has just counted as consumed.

        Args:
            iteration: of the step.
            lengths: of the documents in it, as Megatron's count of FLOPs takes them where
                attention ends with a document.
        """
        assert self._samples is not None, "a step was logged before one was trained"
        new_samples = self.args.consumed_train_samples - self._samples
        # Read past, and not computed on (--iterations-to-skip).
        new_samples -= self.args.skipped_train_samples - self._skipped
        self._skipped = self.args.skipped_train_samples
        flops = num_floating_point_operations(self.args, new_samples, **(lengths or {}))
        self.now = self._at(iteration, self.now.flops + flops)
        return self.now

    def _at(self, iteration: int, flops: float) -> ProgressAt:
        self._samples = samples = int(self.args.consumed_train_samples)
        data_tokens = samples * self.args.seq_length
        positions = (samples - self._skipped) * self.args.seq_length
        stage, bag_size, is_superposed = 0, 1, False
        if self.superposition is not None:
            schedule = self.superposition.schedule
            data_tokens = self.superposition.data_schedule.data_tokens(
                samples, self.args.seq_length
            )
            # Of the last step's samples: `samples` itself is the first index of the next step.
            location = schedule.locate(max(0, samples - 1))
            stage, bag_size = location.stage, location.bag_size
            is_superposed = stage < len(schedule.superposed_stages)
        return ProgressAt(
            iteration, stage, bag_size, is_superposed, samples, positions, data_tokens, flops
        )

    def superposed_bag_size(self) -> int | None:
        """Bag size of the last step, if it was superposed."""
        if not self._samples or not self.now.is_superposed:
            return None
        # On bags of one the objective is the next-token loss itself.
        return self.now.bag_size if self.now.bag_size > 1 else None
