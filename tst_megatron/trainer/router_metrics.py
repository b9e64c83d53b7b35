"""The router's losses of each step, for the ledger.

The one idea: Megatron adds them up over a log interval, in a place of its own, so a step's are what
it has added.
"""

from typing import Any


class RouterMetrics:
    """Megatron's ``MoEMetricsTracker``, with the figures of the last step beside.

    Args:
        tracker: Megatron's.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._step: dict[str, Any] = {}

    @property
    def values(self) -> dict[str, float]:
        """Figures of the last step by Megatron's names, such as ``load_balancing_loss``.

        Waits for the GPU, so only a step that is logged is asked for them.
        """
        return {name: float(value) for name, value in self._step.items()}

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
