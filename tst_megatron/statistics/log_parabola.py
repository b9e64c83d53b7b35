"""The lowest point of a loss over a learning rate: a parabola in the rate's logarithm.

The one idea: near its minimum a smooth loss is a parabola, and rates act by their ratio, so the
parabola stands over the logarithm. Only the best rate tried and its neighbours take part, because
far from the minimum the loss is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tst_megatron.statistics.array import Array

NEIGHBOURS = 2
"""Rates on either side of the best one that the parabola is laid through, at most."""
FEWEST = 3
"""Rates that a parabola takes."""
Edge = Literal["lowest", "highest"]


@dataclass(frozen=True)
class LogParabola:
    """The minimum of a loss over rates.

    Attributes:
        optimum: the rate of the parabola's minimum, inside what was tried; the best rate tried
            where the rates around it show no minimum.
        value: the parabola's loss there; where there is no minimum, the best rate's own mean loss.
        added_at_half: the loss that half the optimum adds, by the parabola; None where the minimum
            is no minimum, or where half is beyond the edge that the minimum is at.
        added_at_double: the same of twice the optimum.
        edge: the edge of the rates tried that the best of them, or the parabola's minimum, is at:
            a rate beyond it may be better. None inside.
        coefficients: of the parabola, the square first, over `ln(rate / optimum)`; None where
            there is no minimum.
    """

    optimum: float
    value: float
    added_at_half: float | None
    added_at_double: float | None
    edge: Edge | None
    coefficients: tuple[float, float, float] | None

    def told(self) -> dict[str, Any]:
        """Its figures for JSON, the loss in the unit that it was given in."""
        return {
            "rate": self.optimum,
            "loss": self.value,
            "added_at_half": self.added_at_half,
            "added_at_double": self.added_at_double,
            "edge": self.edge,
        }

    def losses(self, rates: Array) -> Array:
        """The parabola's losses at rates, both ``[n]``; NaN where there is no minimum."""
        if self.coefficients is None:
            return np.full(len(rates), np.nan)
        bend, slope, value = self.coefficients
        ways = np.log(rates / self.optimum)
        return (bend * ways + slope) * ways + value


def lowest(rates: Sequence[float] | Array, losses: Sequence[float] | Array) -> LogParabola | None:
    """The minimum by least squares on the best rate and up to two neighbours a side.

    Several losses of one rate, of several seeds, count each. A loss that is no number (a run that
    diverged) is of no fit, but its rate was tried, so what stands beside it is at no edge.

    Args:
        rates: ``[n]``, above 0, in any order.
        losses: ``[n]``, nats or any other unit.

    Returns:
        None for fewer than three rates with a loss.

    Raises:
        ValueError: for rates that are not above 0.
    """
    every, values = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    if not (every > 0).all():
        raise ValueError("rates are above 0")
    told = np.isfinite(values)
    tried, values = every[told], values[told]
    distinct = np.unique(tried)
    if len(distinct) < FEWEST:
        return None
    means = np.array([values[tried == rate].mean() for rate in distinct])
    best = int(np.argmin(means))
    edge = _edge(float(distinct[best]), every)
    for reach in (NEIGHBOURS, 1):
        window = distinct[_around(best, reach, len(distinct))]
        used = np.isin(tried, window)
        found = _laid(tried[used], values[used], float(means[best]), float(distinct[best]))
        if found is not None:
            return _held_inside(found, distinct, every, edge)
    return LogParabola(float(distinct[best]), float(means[best]), None, None, edge, None)


def _around(best: int, reach: int, count: int) -> slice:
    """The best and its neighbours: at least three of them, so at an edge two of the one side."""
    first, last = max(best - reach, 0), min(best + reach, count - 1)
    first, last = min(first, max(last - 2, 0)), max(last, min(first + 2, count - 1))
    return slice(first, last + 1)


def _edge(rate: float, tried: Array) -> Edge | None:
    if rate <= tried.min():
        return "lowest"
    return "highest" if rate >= tried.max() else None


@dataclass(frozen=True)
class _Parabola:
    """Over ``ln(rate / centre)``; `bend` is above 0."""

    bend: float
    slope: float
    height: float
    centre: float

    @property
    def minimum(self) -> float:
        # A parabola that hardly bends has its minimum at a rate that float64 does not hold.
        return self.centre * float(np.exp(np.clip(-self.slope / (2 * self.bend), -100, 100)))

    def around(self, rate: float) -> tuple[float, float, float]:
        """Its coefficients over ``ln(x / rate)``."""
        way = float(np.log(rate / self.centre))
        slope = self.slope + 2 * self.bend * way
        return self.bend, slope, self.height + (self.slope + self.bend * way) * way


def _laid(rates: Array, losses: Array, level: float, centre: float) -> _Parabola | None:
    """Least squares; None where the losses do not bend upwards.

    The best loss is taken off first, so that losses that are all alike bend by exactly 0.
    """
    bend, slope, height = map(float, np.polyfit(np.log(rates / centre), losses - level, 2))
    return _Parabola(bend, slope, height + level, centre) if bend > 0 else None


def _held_inside(parabola: _Parabola, told: Array, tried: Array, edge: Edge | None) -> LogParabola:
    """The minimum, moved to the nearest rate tried where it lies outside them."""
    minimum = parabola.minimum
    optimum = float(np.clip(minimum, told[0], told[-1]))
    if optimum != minimum:
        edge = _edge(optimum, tried) or edge
    bend, slope, value = coefficients = parabola.around(optimum)
    step = float(np.log(2))
    half = None if minimum < optimum else (bend * step - slope) * step
    double = None if minimum > optimum else (bend * step + slope) * step
    return LogParabola(optimum, value, half, double, edge, coefficients)
