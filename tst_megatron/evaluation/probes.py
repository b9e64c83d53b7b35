"""Tasks of our own: does a model know in which order things came?

The one idea: superposed training reads bags, so its critics ask whether order inside a bag is lost.
Every item here has two choices of the very same words (or digits) in two orders, and a twin whose
context has the other order, so that the other choice is right. Whoever knows what came and not in
which order is right in half of the items, exactly: nothing else than order tells the choices apart.

Items are drawn by hashes, so that they are the same with every version of Python, for good.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, product
from typing import Any

SEED = 20260
ITEMS = 400
"""Of each probe: half as many pairs."""
_NAMES = (
    "dog cat boy girl king queen man woman farmer teacher doctor nurse soldier sailor baker "
    "singer father mother brother sister"
)
# Regular ones: the same word is past tense and participle.
_VERBS = "chased followed helped called watched pushed visited thanked warned carried pulled loved"
_WORDS = (
    "river stone cloud apple window garden table letter bread flower horse bridge candle mountain "
    "shirt music winter paper silver water house street summer forest"
)
_DIGITS_LONG, _WORDS_LONG, _WORDS_AGAIN = 6, 7, 2


@dataclass(frozen=True)
class Question:
    """An item: what comes before, and two texts that may go on.

    Attributes:
        context: what comes before.
        choices: two texts of the same words; a blank stands between the context and either.
        gold: which is right.
    """

    context: str
    choices: tuple[str, str]
    gold: int


@dataclass(frozen=True)
class Probe:
    """A task.

    Attributes:
        name: of it.
        asks: what, in a line.
        pairs: the pairs of twins there are, drawn by their hashes, without end or with.
    """

    name: str
    asks: str
    pairs: Callable[[], Iterator[tuple[Question, Question]]]

    @property
    def questions(self) -> list[Question]:
        """`ITEMS` of them, the same each time."""
        found: list[Question] = []
        for pair in self.pairs():
            found += pair
            if len(found) == ITEMS:
                return found
        raise AssertionError(f"{self.name} has {len(found)} items, fewer than {ITEMS}")

    def config(self) -> dict[str, Any]:
        """As lm-evaluation-harness takes a task."""
        from datasets import Dataset

        rows = [{**vars(one), "choices": list(one.choices)} for one in self.questions]
        return {
            "task": self.name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "output_type": "multiple_choice",
            "test_split": "test",
            "num_fewshot": 0,  # An item's twin before it would tell the answer.
            "doc_to_text": "context",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1},
        }


def _twins(contexts: tuple[str, str], choices: tuple[str, str]) -> tuple[Question, Question]:
    """The choices stand in the same places in both, so that a preference for one of them is right
    once."""
    return Question(contexts[0], choices, 0), Question(contexts[1], choices, 1)


def _drawn[T](every: Sequence[T], name: str) -> list[T]:
    return sorted(every, key=lambda one: sha256(f"{SEED} {name} {one}".encode()).digest())


def _role_swaps() -> Iterator[tuple[Question, Question]]:
    names = _NAMES.split()
    every = [(*pair, verb) for pair, verb in product(combinations(names, 2), _VERBS.split())]
    for one, other, verb in _drawn(every, "role_swap"):
        yield _twins(
            (f"The {one} {verb} the {other}.", f"The {other} {verb} the {one}."),
            (
                f"So the {other} was {verb} by the {one}.",
                f"So the {one} was {verb} by the {other}.",
            ),
        )


def _digit_orders() -> Iterator[tuple[Question, Question]]:
    for digits, twin in _swapped("0123456789", _DIGITS_LONG, 0, "digit_order"):
        yield _twins(
            (f"Number: {digits}\nThe same number:", f"Number: {twin}\nThe same number:"),
            (digits, twin),
        )


def _copy_orders() -> Iterator[tuple[Question, Question]]:
    for words, twin in _swapped(_WORDS.split(), _WORDS_LONG, _WORDS_AGAIN, "copy_order"):
        again = " ".join(words.split()[:_WORDS_AGAIN])
        yield _twins(
            (f"{words}. {again}", f"{twin}. {again}"),
            (words.removeprefix(f"{again} "), twin.removeprefix(f"{again} ")),
        )


def _swapped(things: Sequence[str], length: int, kept: int, name: str) -> Iterator[tuple[str, str]]:
    """Different things in a row, and the same with two neighbours swapped.

    Args:
        things: to choose of.
        length: of a row.
        kept: how many of the first are swapped in none.
        name: of the draw.
    """
    number = 0
    while True:
        number += 1
        row = _drawn(things, f"{name} {number}")[:length]
        places = _drawn(range(kept, length - 1), f"{name} {number}")
        place = places[0]
        twin = [*row[:place], row[place + 1], row[place], *row[place + 2 :]]
        yield " ".join(row), " ".join(twin)


PROBES = {
    probe.name: probe
    for probe in (
        Probe(
            "probe_role_swap",
            "who did it to whom: a sentence, and its passive with the right roles or the wrong",
            _role_swaps,
        ),
        Probe(
            "probe_digit_order",
            "six digits, and the same again or with two neighbours swapped",
            _digit_orders,
        ),
        Probe(
            "probe_copy_order",
            "seven words, the first two again, and the others in order or with two swapped",
            _copy_orders,
        ),
    )
}
