"""What a run has consumed after each step: samples, positions, data tokens, FLOPs, and its stage.

The one idea: everything but FLOPs follows from the number of samples that Megatron counts, so that
it is right after a resume without having been saved. What a method leaves out of Megatron's FLOPs
may be known of each step alone, and so their sum is among the arguments that a checkpoint carries.
"""

import argparse

from megatron.training.training import num_floating_point_operations

from tst_megatron.methods.events import Progress
from tst_megatron.methods.method import Run
from tst_megatron.runs.stages import data_tokens, stage_index


class ProgressCounter:
    """Counts what the run has consumed, from Megatron's own count of samples.

    Args:
        args: Megatron's validated arguments.
        run: what the run's methods make of it.

    Attributes:
        started_at: step that this process goes on from.
        now: how far the run is.
    """

    def __init__(self, args: argparse.Namespace, run: Run) -> None:
        self.args = args
        self.run = run
        self.started_at = 0
        self._samples: int | None = None
        self._skipped = 0
        self.now = Progress(0, 0, run.stages[0])

    def start(self) -> None:
        """Take over what the loaded checkpoint had consumed; later calls do nothing."""
        if self._samples is None:
            self.started_at = self.args.iteration
            self._skipped = self.args.skipped_train_samples
            flops = getattr(self.args, "flops_so_far", None)
            if flops is None:
                flops = self.args.num_floating_point_operations_so_far
            self.now = self._at(self.args.iteration, float(flops))

    def after(self, iteration: int, lengths: dict[str, float] | None = None) -> Progress:
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
        flops = self.run.flops(self.args, new_samples, flops)
        self.now = self._at(iteration, self.now.flops + flops)
        self.args.flops_so_far = self.now.flops
        return self.now

    def _at(self, iteration: int, flops: float) -> Progress:
        self._samples = samples = int(self.args.consumed_train_samples)
        seq_length = self.args.seq_length
        stages = self.run.stages
        # Of the last step's samples: `samples` itself is the first index of the next step.
        index = stage_index(stages, max(0, samples - 1))
        return Progress(
            step=iteration,
            stage_index=index,
            stage=stages[index],
            samples=samples,
            positions=(samples - self._skipped) * seq_length,
            data_tokens=data_tokens(stages, samples, seq_length),
            flops=flops,
        )
