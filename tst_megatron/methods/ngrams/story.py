"""How hashed n-grams are told in a comparison."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.ngrams.run import ORDERS, ROWS
from tst_megatron.methods.story import Story, Told
from tst_megatron.runs.stages import Fact, Stage


class NgramStory(Story):
    """In rows and lengths."""

    # The model has the tables beside another's; its products are the same.
    may_differ: ClassVar[tuple[str, ...]] = ("parameters with ",)
    facts: ClassVar[Mapping[str, Fact]] = {ROWS: 0, ORDERS: ""}
    flags: ClassVar[frozenset[str]] = frozenset({"ngram_rows", "ngram_orders"})
    explained: ClassVar[tuple[str, ...]] = (
        "Rows of n-grams that are looked up are no operations, so that equal FLOPs leave their "
        "memory and its traffic out: compare wall-clock, too.",
    )
    title = "Hashed n-grams"
    subject = "hashed n-grams"
    setting = "n-grams"
    absence = "had no tables of n-grams"

    def stage(self, facts: Mapping[str, Fact]) -> Stage | None:
        """By their rows."""
        return Stage("n-grams", 0, method=self.name, facts=facts) if facts.get(ROWS) else None

    def words(self, told: Told) -> str:
        """Such as ``n-grams of 3,4,5 tokens in 4,096 rows each``."""
        rows, orders = told.facts.get(ROWS), told.facts.get(ORDERS)
        return f"n-grams of {orders} tokens in {rows:,} rows each" if rows else super().words(told)

    def schedule(self, told: Told | None) -> str:
        """Likewise."""
        return "none" if told is None else self.words(told)
