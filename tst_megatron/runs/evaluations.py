"""What models of a run's steps scored: from its ledger, and item by item where files are there.

The one idea: a score is a weighted mean over items (an answer that is right or wrong, a document's
bits a byte with its bytes as weight), and an item is known by what was asked. So two runs' scores
can be compared on the very items that both were asked, whatever their tokenizers.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.statistics.array import Array

BITS_A_BYTE, NATS_A_TOKEN = "bits_a_byte", "nats_a_token"
"""Measures of a text."""
ItemKey = tuple[str, int]
"""What was asked, hashed, and which time of several that it was."""


@dataclass(frozen=True)
class Score:
    """What came of a task or a text, by one measure.

    Attributes:
        value: the score; None where it is not a number.
        stderr: its standard error over the items; None where there is none.
        n: number of items.
        chance: what guessing scores; None where that means nothing.
        higher_is_better: None where it is not known.
    """

    value: float | None
    stderr: float | None = None
    n: int | None = None
    chance: float | None = None
    higher_is_better: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """As a ledger has it: what is not known is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Score":
        """From a ledger's table, whose numbers are numbers."""
        return cls(**{name: told.get(name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Items:
    """The items of one score.

    Attributes:
        keys: what was asked, one an item.
        values: ``[n]``.
        weights: ``[n]``, above 0.
    """

    keys: tuple[ItemKey, ...]
    values: Array
    weights: Array


@dataclass(frozen=True)
class Evaluation:
    """What the model of one step came to on a task or a text.

    Attributes:
        step: optimizer steps.
        task: its name, or the text's.
        scores: by metric.
        items: the file with its items; None where none was kept.
        items_sha256: of that file.
    """

    step: int
    task: str
    scores: Mapping[str, Score] = field(default_factory=dict)
    items: Path | None = None
    items_sha256: str | None = None


def evaluations_of(lines: Sequence[Mapping[str, Any]], folder: Path) -> tuple[Evaluation, ...]:
    """All of a ledger's, ascending in steps.

    Args:
        lines: ``evaluation`` lines, one a step.
        folder: that the ledger is in, which paths of items are relative to.
    """
    return tuple(
        Evaluation(
            step=line["step"],
            task=task,
            scores={name: Score.from_json(score) for name, score in told["metrics"].items()},
            items=folder / told["items"] if told.get("items") else None,
            items_sha256=told.get("items_sha256"),
        )
        for line in lines
        for task, told in (line.get("evaluations") or {}).items()
    )


def evaluations_of_sets(lines: Sequence[Mapping[str, Any]]) -> tuple[Evaluation, ...]:
    """What a run's validation sets came to, where it has several: each is a text.

    Args:
        lines: ``validation`` lines, one a step, ascending.
    """
    return tuple(
        Evaluation(line["step"], f"validation set {name}", scores)
        for line in lines
        for name, told in (line.get("sets") or {}).items()
        if (scores := _scores_of_set(told))
    )


def _scores_of_set(told: Mapping[str, Any]) -> dict[str, Score]:
    loss, error = told.get("next_token_loss"), told.get("next_token_loss_stderr")
    tokens, text_bytes = told.get("tokens"), told.get("bytes")
    if loss is None:
        return {}
    scores = {NATS_A_TOKEN: Score(loss, error, higher_is_better=False)}
    if tokens and text_bytes:
        bits = tokens / text_bytes / math.log(2)
        of_bytes = Score(loss * bits, None if error is None else error * bits)
        # First: it is the one that runs of several tokenizers share.
        scores = {BITS_A_BYTE: replace(of_bytes, higher_is_better=False), **scores}
    return scores


def read_items(evaluation: Evaluation, metric: str) -> Items | None:
    """The items of a score; None where the file is not there, is another by now, or has none."""
    if evaluation.items is None:
        return None
    found = _items_in(evaluation.items, evaluation.items_sha256 or "")
    return found.get((evaluation.task, metric))


@lru_cache(maxsize=64)
def _items_in(path: Path, digest: str) -> dict[tuple[str, str], Items]:
    """By task and metric; empty where the file is not the one that is meant."""
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    if sha256(content).hexdigest() != digest:
        return {}
    times: Counter[tuple[str, str, str]] = Counter()
    columns: dict[tuple[str, str], list[tuple[ItemKey, float, float]]] = {}
    for line in content.splitlines():
        item = json.loads(line)
        # None of a task whose every score is something else than a mean.
        for metric, value in item.get("metrics", {}).items():
            asked = item["task"], metric, item["hash"]
            weight = item.get("weights", {}).get(metric, 1.0)
            key = item["hash"], times[asked]
            columns.setdefault(asked[:2], []).append((key, value, weight))
            times[asked] += 1
    return {
        name: Items(
            tuple(key for key, _, _ in rows),
            np.array([value for _, value, _ in rows], np.float64),
            np.array([weight for _, _, weight in rows], np.float64),
        )
        for name, rows in columns.items()
    }
