"""What becomes of answers: a score with its error, its items, and what a ledger keeps of both.

The one idea: whatever was asked, and of whom, comes out as an `Evaluated`. Reports, ledgers and
comparisons know nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from tst_megatron.runs.evaluations import Score
from tst_megatron.strict_json import finite

Kind = Literal["task", "text"]


@dataclass(frozen=True)
class Item:
    """One item of a task, or one document of a text.

    Attributes:
        id: its number in the task or text, from 0.
        hash: of all that was asked, tokenizer apart: equal for two models that got the same item.
        values: by metric.
        weights: of metrics in which items do not count alike.
        log_likelihoods: of the choices, in nats; none where there are no choices.
    """

    id: int
    hash: str
    values: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    log_likelihoods: tuple[float, ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """What a model came to on a task or a text.

    Attributes:
        name: of it.
        kind: which of the two.
        scores: by metric, the one that matters first.
        items: in their order.
        facts: of how it was asked, for the record.
        notes: what a reader should know, a sentence each.
    """

    name: str
    kind: Kind
    scores: Mapping[str, Score]
    items: tuple[Item, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Of all of its items: equal for two models that were asked the same."""
        return hash_of([item.hash for item in self.items])

    def as_json(self) -> dict[str, Any]:
        """All but the items."""
        told: dict[str, Any] = finite(
            {
                "kind": self.kind,
                "metrics": {name: score.as_json() for name, score in self.scores.items()},
                "hash": self.hash,
                **self.facts,
                "notes": list(self.notes),
            }
        )
        return told


def hash_of(asked: Any) -> str:
    """Of anything that JSON can hold; dictionaries of equal content have equal hashes."""
    return sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def items_text(evaluated: Sequence[Evaluated]) -> str:
    """A line of JSON an item."""
    lines = [
        json.dumps(_item_line(one.name, item), allow_nan=False, ensure_ascii=False)
        for one in evaluated
        for item in one.items
    ]
    return "".join(f"{line}\n" for line in lines)


def _item_line(task: str, item: Item) -> dict[str, Any]:
    line: dict[str, Any] = {
        "task": task,
        "id": item.id,
        "hash": item.hash,
        "metrics": dict(item.values),
        "weights": dict(item.weights),
        "log_likelihoods": finite(list(item.log_likelihoods)),
    }
    return {name: value for name, value in line.items() if value not in ({}, [])}


def for_ledger(
    evaluated: Sequence[Evaluated], items: str | None, items_sha256: str | None
) -> dict[str, Any]:
    """The table ``evaluations`` of a ledger's line.

    Args:
        evaluated: what was asked.
        items: path of the file that `items_text` went into, from the ledger's folder; None if none.
        items_sha256: of that file.
    """
    kept = {} if items is None else {"items": items, "items_sha256": items_sha256}
    return {
        one.name: {
            "kind": one.kind,
            "metrics": {name: score.as_json() for name, score in one.scores.items()},
            "hash": one.hash,
            **kept,
        }
        for one in evaluated
    }
