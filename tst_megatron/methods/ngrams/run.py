"""Hashed n-grams at work in one run: their part at every place where a run can be changed."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.methods.ngrams.flags import orders_of
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

ROWS = "ngram_rows"
"""Fact of a stage, and what a checkpoint remembers: rows of a table."""
ORDERS = "ngram_orders"
"""Likewise: lengths, with commas between."""


class NgramRun(Run):
    """A run with tables of n-grams.

    Args:
        args: checked flags; those of Megatron that say how long the run is, and for what is asked
            for in training all of them.
    """

    name = "ngrams"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._rows = int(args.ngram_rows)
        self._orders = orders_of(args)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """One."""
        samples = BatchSizes.from_args(self._args).samples_of_steps(train_iters)
        facts: dict[str, Fact] = dict(self.saved())
        return (Stage("n-grams", samples, method=self.name, facts=facts),)

    @property
    def facts(self) -> Mapping[str, Any]:
        """As a checkpoint remembers them."""
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """What makes the model another one."""
        return {ROWS: self._rows, ORDERS: ",".join(map(str, self._orders))}

    @property
    def has_weights(self) -> bool:
        """Its tables."""
        return True

    def check(self, args: argparse.Namespace) -> None:
        """Check that the tables can be split as the run is, and tell how large they are.

        Raises:
            UserError: they cannot.
        """
        total, ranks = len(self._orders) * self._rows, int(args.tensor_model_parallel_size)
        if total % ranks:
            raise UserError(
                f"--ngram-rows {self._rows} for {len(self._orders)} lengths are {total} rows, "
                f"which do not divide by --tensor-model-parallel-size {ranks}: give a multiple of "
                f"{ranks}"
            )
        if args.rank == 0:
            numbers = total * int(args.hidden_size)
            print(
                f"tst-megatron: n-grams of {', '.join(map(str, self._orders))} tokens beside the "
                f"embedding, in {total:,} rows that begin at zero: {numbers:,} parameters",
                flush=True,
            )

    def check_weights(self, args: argparse.Namespace, before: Any) -> None:
        """Tables are of those n-grams, and of that size.

        Raises:
            UserError: they are not.
        """
        start = f"the checkpoint in {args.load or args.pretrained_checkpoint}"
        if before is None:
            raise UserError(
                f"{start} has no tables of n-grams, as it was trained without --ngram-rows: start "
                "with them from the beginning, or leave them out"
            )
        if before != self.saved():
            raise UserError(
                f"{start} has tables of n-grams with {before[ROWS]} rows for lengths "
                f"{before[ORDERS]}, and this run asks for {self._rows} and "
                f"{self.saved()[ORDERS]}: give --ngram-rows {before[ROWS]} --ngram-orders "
                f"{before[ORDERS]}"
            )

    def check_made(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """A model that is made of another one has its tables.

        Raises:
            UserError: that has none, or others.
        """
        self.check_weights(args, before)

    def configure_model(self, config: Any) -> Any:
        """Every model chunk with an embedding has them added, before it is wrapped."""
        from tst_megatron.methods.ngrams.model import add_to_all
        from tst_megatron.stock.batch import has_packed_documents

        packed_length = int(self._args.seq_length) if has_packed_documents(self._args) else None
        # A plan's model reads no text, and has no tokenizer.
        end = getattr(self._args, "tokenizer_end", None)
        config.pre_wrap_hooks.append(
            partial(
                add_to_all,
                orders=self._orders,
                num_rows=self._rows,
                end=end,
                packed_length=packed_length,
            )
        )
        return config
