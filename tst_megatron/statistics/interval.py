"""A figure with the interval that holds it, and the arrays that figures are worked out from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""float64 ``[n]``; NaN where the source tells nothing."""


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
