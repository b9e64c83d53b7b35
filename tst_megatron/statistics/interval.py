"""A figure with the interval that holds it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds the truth at the stated rate; None where there is none.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end; None beside a `low` says that it has no upper bound.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def holds(self, number: float) -> bool:
        """Whether the interval holds a number; an interval that is not there holds every one."""
        if self.value is None:
            return True
        return (self.low is None or self.low <= number) and (
            self.high is None or number <= self.high
        )
