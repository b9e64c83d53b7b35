"""What a method adds to a plan: memory, operations and traffic, as the planner asks for them.

The one idea: the planner counts a run as Megatron would have it, and takes each figure that a
method may change through the terms of the run's methods, in their order: every one is given what
the one before it answered. This base changes nothing.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from tst_megatron.runs.stages import Fact, Stage


@dataclass(frozen=True)
class Kept:
    """What a layer keeps of a micro-batch for its backward pass, beside the plain layer.

    Attributes:
        share: of the positions that it works on, and so of what the plain layer keeps.
        beside: bytes of the method's own.
    """

    share: float = 1.0
    beside: int = 0


class Terms:
    """Of a method that adds nothing; a method's own overrides what it has.

    ``args`` are Megatron's validated arguments, ``stage`` is a stage of the run, and layers are
    numbered in the whole model from 0. Bytes are those of one micro-batch on one GPU.
    """

    def layer_weights(self, args: argparse.Namespace, layer: int) -> Mapping[str, int]:
        """Weights of matrix products that a layer has beside Megatron's, all on every rank.

        Returns:
            kind → numbers; a kind of `tst_megatron.planner.counts.KINDS` or of the method's own.
        """
        return {}

    def table_rows(self, args: argparse.Namespace) -> int:
        """Rows ``[h]`` of tables that the embedding has beside Megatron's, split over
        tensor-parallel ranks."""
        return 0

    def layer_work(
        self,
        args: argparse.Namespace,
        stage: Stage,
        layer: int,
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """Floating-point operations of a layer, forward and backward, on some samples of a stage.

        Args:
            ordinary: kind → operations, as they are without the method.
        """
        return ordinary

    def layer_keeps(
        self, args: argparse.Namespace, stage: Stage, layer: int, ordinary: Kept
    ) -> Kept:
        """What a layer keeps for its backward pass."""
        return ordinary

    def work_again(
        self,
        args: argparse.Namespace,
        stage: Stage,
        work: Mapping[str, int],
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """Of the operations on some samples of a stage, those that are done once more.

        Args:
            work: kind → operations, forward and backward, each counted once.
            ordinary: kind → operations that recomputation does again.
        """
        return ordinary

    def batch_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """Bytes of the batch itself, where a pipeline stage reads it."""
        return ordinary

    def broadcast_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """Bytes of the batch on its way over the tensor-parallel group."""
        return ordinary

    def embedding_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """Bytes that the embedding takes for a while: for its result, or for its table's gradient.

        Beside the result and Megatron's buffer of gradients.
        """
        return ordinary

    def logits_bytes(
        self, args: argparse.Namespace, stage: Stage, numbers: int, ordinary: int
    ) -> int:
        """Bytes of the logits and of all that the loss makes of them, at their most.

        Args:
            numbers: logits of this rank, ``b · L/cp · V/tp``.
        """
        return ordinary

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """What a reader of the plan should know: sentences without their full stop."""
        return ()

    # Of every plan, so that its keys are the same whether the method is on or not.

    @property
    def facts(self) -> Mapping[str, Fact]:
        """The facts of a stage that the method leaves alone; a stage's own facts come over them."""
        return {}

    def totals(self, seq_length: int, stages: Sequence[Stage]) -> Mapping[str, int]:
        """Further figures of the whole run, by their keys in ``plan --json``.

        Args:
            seq_length: L.
            stages: of the run; those that are the method's have its facts.
        """
        return {}


class Together(Terms):
    """Several methods' terms as one.

    Figures go through all of them in their order, and what is added is added up; of totals and
    facts of one name the last holds.

    Args:
        terms: in the order in which the methods are applied; none for a run without a method.
    """

    def __init__(self, terms: Sequence[Terms]) -> None:
        self._terms = tuple(terms)

    def layer_weights(self, args: argparse.Namespace, layer: int) -> Mapping[str, int]:
        """The sum, kind by kind."""
        total: dict[str, int] = {}
        for one in self._terms:
            for kind, numbers in one.layer_weights(args, layer).items():
                total[kind] = total.get(kind, 0) + numbers
        return total

    def table_rows(self, args: argparse.Namespace) -> int:
        """The sum."""
        return sum(one.table_rows(args) for one in self._terms)

    def layer_work(
        self,
        args: argparse.Namespace,
        stage: Stage,
        layer: int,
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """One after the other."""
        return reduce(
            lambda work, one: one.layer_work(args, stage, layer, work), self._terms, ordinary
        )

    def layer_keeps(
        self, args: argparse.Namespace, stage: Stage, layer: int, ordinary: Kept
    ) -> Kept:
        """One after the other."""
        return reduce(
            lambda kept, one: one.layer_keeps(args, stage, layer, kept), self._terms, ordinary
        )

    def work_again(
        self,
        args: argparse.Namespace,
        stage: Stage,
        work: Mapping[str, int],
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """One after the other."""
        return reduce(
            lambda again, one: one.work_again(args, stage, work, again), self._terms, ordinary
        )

    def batch_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """One after the other."""
        return reduce(lambda size, one: one.batch_bytes(args, stage, size), self._terms, ordinary)

    def broadcast_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """One after the other."""
        return reduce(
            lambda size, one: one.broadcast_bytes(args, stage, size), self._terms, ordinary
        )

    def embedding_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """One after the other."""
        return reduce(
            lambda size, one: one.embedding_bytes(args, stage, size), self._terms, ordinary
        )

    def logits_bytes(
        self, args: argparse.Namespace, stage: Stage, numbers: int, ordinary: int
    ) -> int:
        """One after the other."""
        return reduce(
            lambda size, one: one.logits_bytes(args, stage, numbers, size), self._terms, ordinary
        )

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """All of them."""
        return tuple(note for one in self._terms for note in one.notes(args, stages))

    @property
    def facts(self) -> Mapping[str, Fact]:
        """All of them."""
        return {name: fact for one in self._terms for name, fact in one.facts.items()}

    def totals(self, seq_length: int, stages: Sequence[Stage]) -> Mapping[str, int]:
        """All of them."""
        return {
            key: total
            for one in self._terms
            for key, total in one.totals(seq_length, stages).items()
        }
