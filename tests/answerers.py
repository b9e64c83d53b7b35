"""Answerers without a network: one copies what came before in order, one knows no order."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tst_megatron.evaluation.answerer import Answer, Row

_LEAST = 1e-6
_BYTES = 256


class Copier:
    """Expects what followed the longest like ending before: order is all that it knows."""

    name = "copier"
    max_length = 512
    document_start: int | None = _BYTES

    def encode(self, text: str, adds_special: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def score(self, rows: Sequence[Row]) -> list[Answer]:
        return [self._answer(row) for row in rows]

    def generate(self, ids: Sequence[int], stops: Sequence[str], most: int, how: Any) -> str:
        made = list(ids)
        for _ in range(most):
            made.append(self.expected(tuple(made)) or 0)
        return self.decode(made[len(ids) :])

    def _answer(self, row: Row) -> Answer:
        begin = len(row.ids) - row.scored
        shares = [self.share(row.ids[:at], row.ids[at]) for at in range(begin, len(row.ids))]
        return Answer(math.fsum(map(math.log, shares)), all(share > 0.5 for share in shares))

    def share(self, before: tuple[int, ...], follows: int) -> float:
        return 1 - _LEAST if self.expected(before) == follows else _LEAST

    def expected(self, before: tuple[int, ...]) -> int | None:
        for long in range(len(before) - 1, 0, -1):
            ending = before[-long:]
            for at in range(len(before) - long - 1, -1, -1):
                if before[at : at + long] == ending:
                    return before[at + long]
        return None


class Bag(Copier):
    """Expects what came before, as often as it came, in whatever order."""

    name = "bag"

    def share(self, before: tuple[int, ...], follows: int) -> float:
        counts = Counter(before)
        return (counts[follows] + 1) / (len(before) + _BYTES)

    def _answer(self, row: Row) -> Answer:
        begin = len(row.ids) - row.scored
        # Of the context alone, so that no order of what follows matters.
        shares = sorted(self.share(row.ids[:begin], one) for one in row.targets)
        return Answer(math.fsum(map(math.log, shares)), False)
