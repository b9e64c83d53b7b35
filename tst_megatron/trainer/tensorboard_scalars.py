"""What TensorBoard gets beside Megatron's own scalars: the figures of the ledger's lines."""

import argparse
from collections.abc import Callable
from typing import Any

from tst_megatron.methods.events import Evaluated, Listener, LoggedStep, Progress, Scalar, Scored
from tst_megatron.trainer.trackers import have_wandb_told


class TensorBoardScalars(Listener):
    """Writes them; on ranks without a writer it does nothing.

    Args:
        args: Megatron's validated arguments.
        gpu_hours: so far; None where they are not known.
    """

    def __init__(self, args: argparse.Namespace, gpu_hours: Callable[[], float | None]) -> None:
        self._interval = args.tensorboard_log_interval
        self._gpu_hours = gpu_hours

    def started(self, model: list[Any]) -> None:
        """Before anything is written."""
        have_wandb_told()

    def stepped(self, progress: Progress, scalar: Scalar) -> None:
        """At each step that TensorBoard gets."""
        if progress.step % self._interval:
            return
        for name, value in progress.stage.facts.items():
            if isinstance(value, int | float):
                scalar(name.replace("_", "-"), value)
        for name, value in (
            ("stage", progress.stage_index),
            ("samples", progress.samples),
            ("positions", progress.positions),
            ("data-tokens", progress.data_tokens),
            ("flops", progress.flops),
        ):
            scalar(name, value)

    def step_logged(self, step: LoggedStep) -> None:
        """At each step that the ledger gets."""
        hours = self._gpu_hours()
        if hours is None:
            return
        for name, value in step.seconds.items():
            step.scalar(f"{name.removesuffix('_s').replace('_', '-')}-seconds", value)
        step.scalar("gpu-hours", hours)

    def evaluated(self, evaluated: Evaluated) -> None:
        """At each validation."""
        for name, error in evaluated.stderrs.items():
            evaluated.scalar(f"{name} validation stderr", error)
        if not evaluated.sets:
            return
        # Megatron writes each set's losses, and none of all together.
        for name, loss in evaluated.losses.items():
            evaluated.scalar(f"{name} validation", float(loss))
        for one in evaluated.sets:
            for name, error in one.stderrs.items():
                evaluated.scalar(f"{name} validation-{one.name} stderr", error)

    def scored(self, scored: Scored) -> None:
        """At each evaluation of tasks and texts."""
        for task, told in scored.evaluations.items():
            for metric, score in told["metrics"].items():
                if "value" in score:
                    scored.scalar(f"evaluation/{task} {metric}", score["value"])
