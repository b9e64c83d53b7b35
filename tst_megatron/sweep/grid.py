"""The choices of a sweep: every value of one axis with every one of the other, and the baseline.

The one idea: the order is part of the grid. A sweep may be stopped by its budget, so what tells
most comes first: the baseline, the middle of where the method is known to work, and then always the
cell farthest from those before it.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods
from tst_megatron.methods.search import Axis, Search
from tst_megatron.runs.outcomes import AtRate, Choice


@dataclass(frozen=True)
class Grid:
    """What is asked for.

    Attributes:
        search: the method's.
        values: of each of its axes, ascending.
    """

    search: Search
    values: tuple[tuple[float, ...], ...]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All of them, without the baseline."""
        return tuple(self.search.choice(values) for values in product(*self.values))

    def ordered(self) -> tuple[Choice, ...]:
        """The baseline, then the others: what tells most about the whole grid first."""
        left = list(self.choices)
        places = dict(zip(left, _places(self.search.axes, left), strict=True))
        ordered = [min(left, key=self._distance_to_usual)]
        left.remove(ordered[0])
        while left:
            farthest = max(
                left, key=lambda c: min(math.dist(places[c], places[other]) for other in ordered)
            )
            ordered.append(farthest)
            left.remove(farthest)
        return (self.search.baseline, *ordered)

    def at_rates(self, rates: Sequence[float]) -> tuple[Choice, ...]:
        """The same at every learning rate, or at the recipe's where there is none.

        All rates of a choice, the middle one first, before the next choice's.
        """
        return with_rates(self.ordered(), rates)

    def _distance_to_usual(self, choice: Choice) -> float:
        usual = self.search.usual
        return sum(abs(axis.place(choice) - axis.place(usual)) for axis in self.search.axes)


def with_rates(choices: Sequence[Choice], rates: Sequence[float]) -> tuple[Choice, ...]:
    """Choices at every learning rate, as they are where there is none.

    Args:
        choices: of a method's settings.
        rates: ascending; the middle one comes first, as it tells most.
    """
    if not rates:
        return tuple(choices)
    middle = (len(rates) - 1) / 2
    ordered = sorted(rates, key=lambda rate: abs(rates.index(rate) - middle))
    return tuple(AtRate(choice, rate) for choice in choices for rate in ordered)


def searches() -> tuple[Search, ...]:
    """Of all methods that can be searched."""
    return tuple(search for method in methods() if (search := method.search()) is not None)


def add_axes(parser: argparse.ArgumentParser) -> None:
    """Add the flags that list the values of every method's axes."""
    for search in searches():
        for axis in search.axes:
            parser.add_argument(axis.flag, nargs="*", metavar=axis.metavar, help=axis.help)


def given_axes(args: argparse.Namespace) -> list[tuple[Search, Axis]]:
    """The axes that the command line has values of."""
    return [
        (search, axis)
        for search in searches()
        for axis in search.axes
        if getattr(args, axis.attribute) is not None
    ]


def grid_of(args: argparse.Namespace) -> Grid:
    """The grid that the flags ask for.

    Raises:
        UserError: they are of no method or of several, an axis is missing, or a value is out of
            range.
    """
    given = given_axes(args)
    search = given[0][0] if given else searches()[0]
    for _, axis in given:
        if axis not in search.axes:
            raise UserError(
                f"{given[0][1].flag} and {axis.flag} are of two methods, and a sweep is of one: "
                "use one"
            )
    for axis in search.axes:
        if getattr(args, axis.attribute) is None:
            raise UserError(f"a sweep needs {axis.flag}: see sweep --help")
    values = (search.values(axis, getattr(args, axis.attribute)) for axis in search.axes)
    return Grid(search, tuple(values))


def _places(axes: Sequence[Axis], choices: Sequence[Choice]) -> list[tuple[float, ...]]:
    """Where choices lie on every axis, from 0 to 1."""
    shares = [_shares([axis.place(choice) for choice in choices]) for axis in axes]
    return list(zip(*shares, strict=True))


def _shares(values: Sequence[float]) -> list[float]:
    low, span = min(values), max(values) - min(values)
    return [(value - low) / span if span else 0.0 for value in values]
