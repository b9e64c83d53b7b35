"""What a search over a method's settings may ask of it: axes, the flags of a choice, and a fit.

The one idea: the search knows choices, which have a value on every axis, and what their runs came
to; what the values mean, and the curve through the losses, the method alone knows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.runs.outcomes import Choice, Outcome
from tst_megatron.statistics.interval import Interval

Array = Any
"""float64 ``[n]`` of numpy, which the protocol does without."""
Allowed = Callable[..., Any]
"""Of values ``[n]`` on every axis, which places may be chosen: bool ``[n]``."""


@dataclass(frozen=True)
class Axis:
    """One of the settings that are searched.

    Attributes:
        name: of a choice's field, of a column and of a key, such as ``layers``.
        symbol: such as ``n``.
        flag: that lists its values, such as ``--layers``.
        metavar: of the flag's values.
        help: of the flag.
        label: in figures.
        is_log: whether ratios of it count, not differences.
    """

    name: str
    symbol: str
    flag: str
    metavar: str
    help: str
    label: str
    is_log: bool = False

    @property
    def attribute(self) -> str:
        """Of parsed arguments."""
        return self.flag.removeprefix("--").replace("-", "_")

    def of(self, choice: Choice) -> float:
        """A choice's value."""
        value: float = getattr(choice, self.name)
        return value

    def place(self, choice: Choice) -> float:
        """Where it lies: equal steps count alike."""
        return log(self.of(choice)) if self.is_log else self.of(choice)

    def interval(self, optimum: "Optimum") -> Interval:
        """Where an optimum lies."""
        interval: Interval = getattr(optimum, self.name)
        return interval


class Limit:
    """The text there is.

    Attributes:
        tokens: that may be read.
    """

    tokens: int

    def needed(self, choice: Choice) -> float | None:
        """Data tokens of a run; None where that is not known."""
        raise NotImplementedError

    def holds(self, choice: Choice) -> bool:
        """Whether the text is enough; what is not known is."""
        needed = self.needed(choice)
        return needed is None or needed <= self.tokens

    def allows(self, *places: Array) -> Any:
        """Likewise of values ``[n]`` on every axis, between those that can be run: bool ``[n]``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Optimum:
    """The best place by a fit; a method's own has an `Interval` an axis besides, of its name.

    Where an interval comes to an edge of the cells, nothing was run beyond to end it: that end is
    None.

    Attributes:
        loss: there.
        gain: the baseline's loss less that.
        edges: at which edges it lies, in words.
    """

    loss: Interval
    gain: Interval
    edges: tuple[str, ...]


class Fit:
    """A curve through the losses.

    Attributes:
        scatter: of a run around it, at its bottom, a `tst_megatron.runs.noise.Noise`; None
            where it goes through every point.
    """

    scatter: Any

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """Of every axis, the smallest and the largest value of the cells."""
        raise NotImplementedError

    def named_coefficients(self) -> dict[str, float]:
        """By the term that each is of."""
        raise NotImplementedError

    def loss(self, *places: Array) -> Array:
        """At values on every axis, of any one shape."""
        raise NotImplementedError

    def optimum(self, allowed: Allowed | None = None) -> Optimum | None:
        """The bottom among the places that are allowed; None where none is."""
        raise NotImplementedError

    def recommended(self, optimum: Any, limit: Limit | None) -> Choice:
        """A choice that can be run beside the optimum, within the text."""
        raise NotImplementedError


@dataclass(frozen=True)
class Words:
    """How a search is told.

    Attributes:
        examples: of the command line.
        title: of the figure of all losses.
        noun: for a choice but the baseline, such as ``pair``.
        curve: what is fitted, such as ``U``.
        curve_takes: cells that it takes, a sentence's end.
        own: what every cell has of its own.
        run: what a run with the method is called, such as ``grown``.
        without: how to train without the method.
        row: what a row of a table of results has.
        add_rows: to have runs with the method in it.
        less_text: what needs less text.
        no_text: what to do where no text is enough.
    """

    examples: str
    title: str
    noun: str
    curve: str
    curve_takes: str
    own: str
    run: str
    without: str
    row: str
    add_rows: str
    less_text: str
    no_text: str


class Search:
    """A method's axes, and what can be told of them.

    Attributes:
        axes: one or two.
        baseline: the method off.
        usual: the choice that is known to work, to be looked at first.
        sets: flags, without dashes, that a choice stands for.
        own_flags: likewise, those that are refused of a run without the method.
        words: how it is told.
    """

    axes: tuple[Axis, ...]
    baseline: Choice
    usual: Choice
    sets: tuple[str, ...]
    own_flags: tuple[str, ...]
    words: Words

    def values(self, axis: Axis, words: Sequence[str]) -> tuple[float, ...]:
        """Values of an axis, ascending, as its flag gives them; the baseline's is left out.

        Raises:
            UserError: there is none, or one is no number or out of range.
        """
        raise NotImplementedError

    def choice(self, values: Sequence[float]) -> Choice:
        """The choice of a value on every axis."""
        raise NotImplementedError

    def choice_of_row(self, row: Mapping[str, str]) -> Choice | None:
        """The choice in a table's row, by column; None where it is none.

        Raises:
            ValueError: a value is missing, or is no number.
        """
        raise NotImplementedError

    def flags(self, choice: Choice) -> tuple[str, ...]:
        """What a choice stands for; the baseline has none."""
        raise NotImplementedError

    def check(self, choices: Sequence[Choice], num_steps: int) -> None:
        """Check that runs of so many steps can have them.

        Raises:
            UserError: one cannot.
        """

    def fit(self, outcomes: Sequence[Outcome], noise: Any) -> Fit | None:
        """A curve through the losses, the baseline's among the outcomes; None where they leave it
        open."""
        return None

    def limit(self, tokens: int, baseline_tokens: int, flags: Mapping[str, Any]) -> Limit:
        """The text there is, for runs of some flags of which the baseline reads so much."""
        raise NotImplementedError

    def limit_of_table(self, tokens: int, outcomes: Sequence[Outcome]) -> Limit | None:
        """Likewise for runs of a table; None where that does not say what they read."""
        raise NotImplementedError

    def more_text(self, choice: Choice) -> float:
        """Ranks choices by the text that they read."""
        raise NotImplementedError


def has_ends(interval: Interval) -> bool:
    """Whether the interval of a place says anything."""
    return interval.low is not None or interval.high is not None


def split_values(flag: str, words: Sequence[str]) -> list[str]:
    """The values of a flag that takes several, with spaces or commas between them.

    Raises:
        UserError: there is none.
    """
    found = [part for word in words for part in word.replace(",", " ").split()]
    if not found:
        raise UserError(f"{flag} is empty: give at least one value")
    return found


def whole_number(flag: str, word: str) -> int:
    """A whole number among a flag's values.

    Raises:
        UserError: it is none.
    """
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{flag} {word} is no whole number: write for example 2 4 8") from None
