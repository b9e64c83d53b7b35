"""What hashed n-grams change in a plan: tables before the first layer, and their gradients."""

import argparse
from collections.abc import Mapping, Sequence

from tst_megatron.methods.ngrams import flags
from tst_megatron.methods.ngrams.run import ORDERS, ROWS
from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.stock.table_gradient import gradient_bytes, positions_of


class NgramTerms(Terms):
    """By rows and lengths."""

    def table_rows(self, args: argparse.Namespace) -> int:
        """Of all lengths."""
        return int(args.ngram_rows) * len(flags.orders_of(args)) if flags.is_on(args) else 0

    def embedding_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """The gradient of the tables is made after that of the tokens' table, as that is, and
        Megatron has added the one before it to its buffer: the larger counts."""
        if not flags.is_on(args):
            return ordinary
        rows = self.table_rows(args) // int(args.tensor_model_parallel_size)
        look_ups = positions_of(args) * stage.tokens_a_position * len(flags.orders_of(args))
        return max(ordinary, gradient_bytes(args, look_ups, rows))

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """What the plan does not count."""
        if not flags.is_on(args):
            return ()
        return (
            "looking n-grams up is no operation: its time is that of memory, which hours leave out",
        )

    @property
    def facts(self) -> Mapping[str, Fact]:
        """None."""
        return {ROWS: 0, ORDERS: ""}
