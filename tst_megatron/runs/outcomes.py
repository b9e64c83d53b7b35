"""What runs of a search ended with, each under a choice of a method's settings."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Choice:
    """A method's settings: its own class has a field an axis, in their order."""

    @property
    def is_baseline(self) -> bool:
        """Whether the method is off."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """As in names of folders."""
        raise NotImplementedError


@dataclass(frozen=True, order=True)
class AtRate(Choice):
    """A choice with a learning rate, which is of no method.

    Attributes:
        choice: a method's own.
        learning_rate: the peak.
    """

    choice: Choice
    learning_rate: float

    @property
    def is_baseline(self) -> bool:
        """Whether the method is off."""
        return self.choice.is_baseline

    @property
    def name(self) -> str:
        """As in names of folders."""
        return f"{self.choice.name}-lr{self.learning_rate:g}"

    def __str__(self) -> str:
        return f"{self.choice} at {self.learning_rate:g}"


def without_rate(choice: Choice) -> Choice:
    """A method's own choice."""
    return choice.choice if isinstance(choice, AtRate) else choice


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        choice: it was run with.
        seed: of the run.
        loss: final held-out next-token loss, nats a token; NaN if it diverged.
        stderr: its standard error, where that is known.
        steps: of the run; likewise.
        data_tokens: that it read; likewise.
        gpu_hours: that it took, core hours on a CPU; likewise.
        learning_rate: the peak, where several were tried.
    """

    choice: Choice
    seed: int
    loss: float
    stderr: float | None = None
    steps: int | None = None
    data_tokens: int | None = None
    gpu_hours: float | None = None
    learning_rate: float | None = None
