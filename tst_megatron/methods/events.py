"""What happens in a run while it trains, for those who listen: methods, the ledger, TensorBoard.

The one idea: what listens does not wrap. The trainer calls every listener at the same places on
every rank, so what one of them does with a collective all ranks do (one without a collective may
stand on some ranks alone); what a listener finds out it adds to the event, and those after it see
it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tst_megatron.runs.stages import Fact, Stage

Scalar = Callable[[str, float], None]
"""Takes a name and a value for TensorBoard; does nothing on ranks that write none."""


@dataclass(frozen=True)
class Progress:
    """How far a run is after a step.

    Attributes:
        step: optimizer steps.
        stage_index: of the stage that the step was in.
        stage: itself.
        samples: sequences trained on so far.
        positions: positions computed on so far, batch and sequence multiplied out.
        data_tokens: tokens read so far.
        flops: floating-point operations so far, as Megatron counts them.
    """

    step: int
    stage_index: int
    stage: Stage
    samples: int = 0
    positions: int = 0
    data_tokens: int = 0
    flops: float = 0.0


@dataclass
class LoggedStep:
    """A step that the log, TensorBoard and the ledger get.

    Attributes:
        progress: after the step.
        losses: of the step, by name; empty on ranks that have none. 0-dimensional tensors.
        learning_rate: of the step.
        grad_norm: before clipping.
        seconds: since the logged step before, by name.
        extras: other figures of the step by name; listeners add theirs.
        scalar: for TensorBoard.
    """

    progress: Progress
    losses: Mapping[str, Any]
    learning_rate: float | None
    grad_norm: float | None
    seconds: Mapping[str, float]
    extras: dict[str, float]
    scalar: Scalar


@dataclass
class ValidationSet:
    """One of a validation's sets; of most runs the only one.

    Attributes:
        name: of it; empty of the only one.
        batches: that were read.
        losses: as of `Evaluated`, of this set.
        stderrs: likewise.
        text: likewise.
    """

    name: str
    batches: int
    losses: dict[str, Any]
    stderrs: dict[str, float]
    text: dict[str, int] = field(default_factory=dict)


@dataclass
class Evaluated:
    """A validation, of all its sets together.

    Attributes:
        progress: of the run, at the validation.
        losses: held-out, by name: the next-token loss and a method's further ones; empty on ranks
            that have none. 0-dimensional tensors.
        stderrs: their standard errors, nats a token, where known.
        facts: what listeners decided from it, by name.
        scalar: for TensorBoard.
        say: prints a line in the log, on the last rank.
        text: what the next-token loss is of: its ``tokens`` and ``bytes``, on all ranks; empty
            where they were not counted.
        sets: each by itself, of a validation that has several.
    """

    progress: Progress
    losses: dict[str, Any]
    stderrs: dict[str, float]
    scalar: Scalar
    say: Callable[[str], None]
    facts: dict[str, Fact] = field(default_factory=dict)
    text: dict[str, int] = field(default_factory=dict)
    sets: tuple[ValidationSet, ...] = ()


@dataclass(frozen=True)
class Scored:
    """What the model of now scored on tasks and texts, between two steps.

    Attributes:
        progress: of the run.
        evaluations: as a ledger has them, by task or text; on all ranks.
        scalar: for TensorBoard.
    """

    progress: Progress
    evaluations: Mapping[str, Any]
    scalar: Scalar


class Listener:
    """Is told what happens; this base listens to nothing."""

    def started(self, model: list[Any]) -> None:
        """Before the first step or evaluation of this process.

        Args:
            model: this rank's model chunks, wrapped for data parallelism or not.
        """

    def stepping(self, stage: Stage, optimizer: Any) -> None:
        """Before every step.

        Args:
            stage: of the step.
            optimizer: Megatron's, with the learning rates of this step in its ``param_groups``;
                after a step whose update was left out they are as that step's listeners left them.
        """

    def computed(self) -> None:
        """After every step's computation, before what it cost is counted."""

    def stepped(self, progress: Progress, scalar: Scalar) -> None:
        """After every step, before it is logged."""

    def step_logged(self, step: LoggedStep) -> None:
        """After a step that is logged."""

    def evaluating(self) -> None:
        """Before a validation."""

    def set_evaluated(self, of_set: ValidationSet) -> None:
        """After each of a validation's sets, the only one, too."""

    def evaluated(self, evaluated: Evaluated) -> None:
        """After a validation; not after the test set's."""

    def scored(self, scored: Scored) -> None:
        """After the model was asked what it scores (``--evaluate-at``)."""

    def saved(self, step: int) -> None:
        """After a checkpoint was written, or handed to its writer."""
