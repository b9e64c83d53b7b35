"""Where a run's figures are kept to be looked at: TensorBoard, Weights & Biases, MLflow.

The one idea: whoever has a figure says it once, by name, and every tracker that the flags ask for
gets it. TensorBoard and W&B are Megatron's, which gives them its own figures. MLflow it does not
know: there its TensorBoard writer stands for both, so MLflow has all that TensorBoard would have.
And W&B it gives its losses beside TensorBoard alone, so that without that one nobody's stands in.
"""

from functools import partial
from typing import Any, Protocol

from megatron.training import get_tensorboard_writer, get_wandb_writer, global_vars

from tst_megatron.methods.events import Scalar


class Tracker(Protocol):
    """Keeps figures."""

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        """Keep one.

        Args:
            name: of it.
            value: a number, or a tensor of one.
            step: optimizer steps.
        """
        ...


class WandbTracker:
    """W&B's run of this process, as a tracker.

    Args:
        writer: Megatron's: the module.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        """As `Tracker`."""
        self._writer.log({name: float(value)}, step)


class _Both:
    """A TensorBoard writer that another tracker listens to; without one the other alone.

    Args:
        writer: Megatron's; None where ``--tensorboard-dir`` is not given.
        other: gets the scalars, too; None for nobody.
    """

    def __init__(self, writer: Any, other: Tracker | None) -> None:
        self._writer = writer
        self._other = other

    def add_scalar(self, name: str, value: Any, step: int, *args: Any, **kwargs: Any) -> None:
        """A scalar, to both."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step, *args, **kwargs)
        if self._other is not None:
            self._other.add_scalar(name, value, step)

    def __getattr__(self, name: str) -> Any:
        """What else a writer has is TensorBoard's."""
        return _nothing if self._writer is None else getattr(self._writer, name)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def have_wandb_told() -> None:
    """Let W&B have Megatron's losses without ``--tensorboard-dir``, too, once it is open."""
    if get_wandb_writer() is not None and get_tensorboard_writer() is None:
        listen(None)


def listen(tracker: Tracker | None) -> None:
    """Let a tracker of ours have all that Megatron and we give to TensorBoard.

    Args:
        tracker: on the last rank, once Megatron has opened its own; None for one that keeps
            nothing.
    """
    # No setter: Megatron's refuses to be called twice (global_vars.py).
    global_vars._GLOBAL_TENSORBOARD_WRITER = _Both(get_tensorboard_writer(), tracker)


def scalar_at(step: int) -> Scalar:
    """Gives a figure of a step to every tracker; does nothing on ranks that have none."""
    wandb = get_wandb_writer()
    found = (get_tensorboard_writer(), None if wandb is None else WandbTracker(wandb))
    trackers: list[Tracker] = [one for one in found if one is not None]
    return partial(_add_to_all, trackers, step) if trackers else _nothing


def _add_to_all(trackers: list[Tracker], step: int, name: str, value: float) -> None:
    for tracker in trackers:
        tracker.add_scalar(name, value, step)
