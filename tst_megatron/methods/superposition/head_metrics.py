"""Losses and acceptance rates of multi-token prediction, under names of their own with bags.

The one idea: Megatron's trainer asks ``MTPLossLoggingHelper`` (megatron/core/transformer/
multi_token_prediction.py) to put the heads' figures into its log, TensorBoard and W&B; what it asks
instead renames them in a superposed stage, since they cannot be compared with the ordinary ones.
"""

import argparse
import re
from typing import Any

from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper

from tst_megatron.trainer.consumed import Progress

# Keys of Megatron's tracker: sums since the start of the process.
_CUMULATIVE = ("cumulative_correct_values", "cumulative_total_values")


class HeadMetrics:
    """Takes the place of ``MTPLossLoggingHelper`` in ``megatron.training.training``.

    Args:
        args: Megatron's validated arguments.
        progress: of the run; its last step is the one that is logged.
    """

    def __init__(self, args: argparse.Namespace, progress: Progress) -> None:
        self.args = args
        self.progress = progress
        self._step: dict[str, Any] = {}
        self._stage: int | None = None
        self._steps_of_loss: dict[str, int] = {}

    @property
    def values(self) -> dict[str, float]:
        """The losses of the last step; as they wait for the GPU, for a logged step only."""
        return {name: float(loss) for name, loss in self._step.items()}

    def track_mtp_metrics(
        self,
        loss_scale: float,
        iteration: int,
        writer: Any,
        wandb_writer: Any,
        total_loss_dict: dict[str, Any],
    ) -> None:
        """Megatron's, renamed in a superposed stage, each loss averaged over its own steps."""
        now = self.progress.now
        if now.stage != self._stage:
            for name in _CUMULATIVE:
                MTPLossLoggingHelper.tracker.pop(name, None)
            self._stage = now.stage
        losses: dict[str, Any] = {}
        if now.is_superposed:
            writer = None if writer is None else _BagNames(writer)
            wandb_writer = None if wandb_writer is None else _BagNames(wandb_writer)
        MTPLossLoggingHelper.track_mtp_metrics(loss_scale, iteration, writer, wandb_writer, losses)
        if now.is_superposed:
            losses = {_of_bags(name): loss for name, loss in losses.items()}
        self._step = losses
        self._add(losses, total_loss_dict, iteration)

    def _add(self, losses: dict[str, Any], total: dict[str, Any], iteration: int) -> None:
        """Add a step's losses to those of the log interval."""
        # Megatron has counted this step, and counts from 0 in every interval.
        steps = total["advanced iterations"] + total["skipped iterations"]
        if steps == 1:
            # It goes on printing a loss that is no longer measured, as 0.
            for name in self._steps_of_loss:
                total.pop(name, None)
            self._steps_of_loss = {}
        for name, loss in losses.items():
            total[name] = total.get(name, 0.0) + loss
            self._steps_of_loss[name] = self._steps_of_loss.get(name, 0) + 1
        if iteration % self.args.log_interval == 0:
            # It divides every loss by the steps of the interval that were not skipped.
            advanced = max(1, total["advanced iterations"])
            for name, own in self._steps_of_loss.items():
                total[name] = total[name] * (advanced / own)


class _BagNames:
    """A TensorBoard or W&B writer that names the heads' figures as those of bags."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add_scalar(self, name: str, value: Any, iteration: int) -> None:
        self._writer.add_scalar(_of_bags(name), value, iteration)

    def log(self, values: dict[str, Any], iteration: int) -> None:
        self._writer.log({_of_bags(name): value for name, value in values.items()}, iteration)


def _of_bags(name: str) -> str:
    """``mtp_1 loss`` as ``mtp_1 bag loss``, ``mtp_1_acceptance_rate`` as ``mtp_1_bag_…``."""
    return re.sub(r"^(mtp_\d+)([ _])", r"\1\2bag\2", name)
