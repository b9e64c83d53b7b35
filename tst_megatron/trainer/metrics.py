"""Figures of a step that Megatron keeps in places of its own: of heads, and of routers.

The one idea: Megatron's trainer asks an object for them, by a name that it looks up; what it asks
instead gives the same, and keeps the step's for the ledger. Losses of the heads of multi-token
prediction go by the stage's objective, since those of two objectives cannot be compared.
"""

import argparse
import re
from typing import Any

from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper

from tst_megatron.methods.events import Listener, LoggedStep
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS
from tst_megatron.trainer.progress import ProgressCounter

# Keys of Megatron's tracker: sums since the start of the process.
_CUMULATIVE = ("cumulative_correct_values", "cumulative_total_values")


class HeadMetrics(Listener):
    """Takes the place of ``MTPLossLoggingHelper`` in ``megatron.training.training``.

    Args:
        args: Megatron's validated arguments.
        progress: of the run; its last step is the one that is logged.
    """

    def __init__(self, args: argparse.Namespace, progress: ProgressCounter) -> None:
        self.args = args
        self._progress = progress
        self._step: dict[str, Any] = {}
        self._stage: int | None = None
        self._steps_of_loss: dict[str, int] = {}

    def step_logged(self, step: LoggedStep) -> None:
        """Add the step's losses; as they wait for the GPU, to a logged step only."""
        step.extras.update({name: float(loss) for name, loss in self._step.items()})

    def track_mtp_metrics(
        self,
        loss_scale: float,
        iteration: int,
        writer: Any,
        wandb_writer: Any,
        total_loss_dict: dict[str, Any],
    ) -> None:
        """Megatron's, renamed with the stage's objective, each loss averaged over its own steps."""
        now = self._progress.now
        if now.stage_index != self._stage:
            for name in _CUMULATIVE:
                MTPLossLoggingHelper.tracker.pop(name, None)
            self._stage = now.stage_index
        losses: dict[str, Any] = {}
        loss = now.stage.loss
        if loss != NEXT_TOKEN_LOSS:
            writer = None if writer is None else _Renaming(writer, loss)
            wandb_writer = None if wandb_writer is None else _Renaming(wandb_writer, loss)
        MTPLossLoggingHelper.track_mtp_metrics(loss_scale, iteration, writer, wandb_writer, losses)
        if loss != NEXT_TOKEN_LOSS:
            losses = {_of_objective(name, loss): value for name, value in losses.items()}
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


class _Renaming:
    """A TensorBoard or W&B writer that names the heads' figures by their objective."""

    def __init__(self, writer: Any, loss: str) -> None:
        self._writer = writer
        self._loss = loss

    def add_scalar(self, name: str, value: Any, iteration: int) -> None:
        self._writer.add_scalar(_of_objective(name, self._loss), value, iteration)

    def log(self, values: dict[str, Any], iteration: int) -> None:
        named = {_of_objective(name, self._loss): value for name, value in values.items()}
        self._writer.log(named, iteration)


def _of_objective(name: str, loss: str) -> str:
    """With the loss ``x loss``: ``mtp_1 loss`` as ``mtp_1 x loss``, ``mtp_1_acceptance_rate`` as
    ``mtp_1_x_acceptance_rate``."""
    return re.sub(r"^(mtp_\d+)([ _])", rf"\1\2{loss.removesuffix(' loss')}\2", name)


class RouterMetrics(Listener):
    """Megatron's ``MoEMetricsTracker``, with the figures of the last step beside.

    Args:
        tracker: Megatron's.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._step: dict[str, Any] = {}

    def step_logged(self, step: LoggedStep) -> None:
        """Add the step's figures by Megatron's names, such as ``load_balancing_loss``.

        That waits for the GPU, so only a step that is logged has them.
        """
        step.extras.update({name: float(value) for name, value in self._step.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def report(self, *args: Any, total_loss_dict: dict[str, Any], **kwargs: Any) -> str:
        """Megatron's."""
        step: dict[str, Any] = {}
        line: str = self._tracker.report(*args, total_loss_dict=step, **kwargs)
        self._step = step
        for name, value in step.items():
            total_loss_dict[name] = total_loss_dict.get(name, 0.0) + value
        return line
