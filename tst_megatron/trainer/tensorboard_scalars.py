"""What TensorBoard gets beside Megatron's own scalars: the figures of the ledger's lines."""

from pathlib import Path
from typing import Any

from tst_megatron.trainer.consumed import ProgressAt
from tst_megatron.trainer.forward_step import NEXT_TOKEN_LOSS
from tst_megatron.trainer.live_comparison import OtherRun


class TensorBoardScalars:
    """Writes them; on ranks without a writer it does nothing.

    Args:
        other: the ledger of ``--compare-with``.

    Raises:
        UserError: it cannot be used.
    """

    def __init__(self, other: str | None) -> None:
        self._other = None if other is None else OtherRun(Path(other))

    def progress(self, writer: Any, progress: ProgressAt) -> None:
        """At each step that TensorBoard gets."""
        for name, value in (
            ("bag-size", progress.bag_size),
            ("stage", progress.stage),
            ("samples", progress.samples),
            ("positions", progress.positions),
            ("data-tokens", progress.data_tokens),
            ("flops", progress.flops),
        ):
            writer.add_scalar(name, value, progress.step)

    def step(self, writer: Any, step: int, seconds: dict[str, float], gpu_hours: float) -> None:
        """At each step that the ledger gets.

        Args:
            writer: TensorBoard's.
            step: optimizer steps.
            seconds: since the last such step, by the ledger's names.
            gpu_hours: so far.
        """
        for name, value in seconds.items():
            tag = name.removesuffix("_s").replace("_", "-")
            writer.add_scalar(f"{tag}-seconds", value, step)
        writer.add_scalar("gpu-hours", gpu_hours, step)

    def validation(
        self, writer: Any, step: int, losses: dict[str, float], stderrs: dict[str, float]
    ) -> str | None:
        """At each validation.

        Args:
            writer: TensorBoard's, or None.
            step: optimizer steps.
            losses: held-out losses by Megatron's names; empty on ranks that have none.
            stderrs: their standard errors.

        Returns:
            A sentence for the log, where there is another run to compare with.
        """
        if writer is not None:
            for name, error in stderrs.items():
                writer.add_scalar(f"{name} validation stderr", error, step)
        if self._other is None or NEXT_TOKEN_LOSS not in losses:
            return None
        loss = float(losses[NEXT_TOKEN_LOSS])
        needed = self._other.needed_for(loss)
        if writer is not None and needed is not None:
            writer.add_scalar("other-run-steps", needed.steps, step)
            if step:
                writer.add_scalar("other-run-step-ratio", needed.steps / step, step)
            if needed.gpu_hours is not None:
                writer.add_scalar("other-run-gpu-hours", needed.gpu_hours, step)
        return self._other.sentence(loss, step)
