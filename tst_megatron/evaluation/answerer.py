"""Who answers: anything that makes ids of text and says how likely they are.

The one idea: all that is asked comes down to rows of ids of which the last ones are scored. So
tasks and held-out text do not know whether a folder of transformers or the ranks of a run under way
answer, and both are scored by the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Row:
    """Ids of which the last are scored, each after all before it.

    Attributes:
        ids: at most one more than the model takes at a time.
        scored: how many of the last ones, at least 1 and fewer than there are.
    """

    ids: tuple[int, ...]
    scored: int

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: the last id is only predicted."""
        return self.ids[:-1]

    @property
    def targets(self) -> tuple[int, ...]:
        """What is scored."""
        return self.ids[-self.scored :]


@dataclass(frozen=True)
class Answer:
    """How likely the scored ids of a row are.

    Attributes:
        log_probability: of all of them, in nats.
        is_greedy: each is the likeliest at its place.
    """

    log_probability: float
    is_greedy: bool


class Scorer(Protocol):
    """A model with its tokenizer that says how likely text is.

    Attributes:
        name: for people.
        max_length: ids that it takes at a time.
        document_start: the id that it was trained to begin a document after; None if it has none.
    """

    name: str
    max_length: int
    document_start: int | None

    def encode(self, text: str, adds_special: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: of any length.
            adds_special: with what the tokenizer puts around a text by itself.
        """
        ...

    def score(self, rows: Sequence[Row]) -> list[Answer]:
        """An answer a row, in their order."""
        ...


@runtime_checkable
class Answerer(Scorer, Protocol):
    """One that makes text, too."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...

    def generate(self, ids: Sequence[int], stops: Sequence[str], most: int, how: Any) -> str:
        """Text that goes on after ids.

        Args:
            ids: what comes before.
            stops: texts at which it ends, none of which is in what comes back.
            most: ids that are made at most.
            how: ``do_sample`` and what belongs to it, as transformers has them.
        """
        ...
