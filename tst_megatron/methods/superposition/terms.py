"""What superposition changes in a plan: batch and broadcast, the embedding, what the loss makes.

The one idea: a superposed step has the positions, the operations and the collectives of an ordinary
one, and reads s times as many tokens (arXiv 2605.06546, Table 1); so only what holds tokens or
scores them differs.
"""

import argparse
from collections.abc import Mapping, Sequence

from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.stock.table_gradient import (
    gathered_bytes,
    head_gradient_bytes,
    table_gradient_bytes,
)

BAG_SIZE = "bag_size"

_ID = 8  # int64.
# Bytes of a position beside its bags: its number in int64, the loss mask in float32.
_BATCH_WITHOUT_BAGS = 12
# Blocks of the eager loss in float32, of which a pass makes two (superposition/logit_passes.py).
_LOSS_BLOCKS = 2 * 2**23 * 4


class SuperpositionTerms(Terms):
    """By the bag size of a stage."""

    def work_again(
        self,
        args: argparse.Namespace,
        stage: Stage,
        work: Mapping[str, int],
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """Logits in chunks are made again in the backward pass: a third of the head's products."""
        if not args.tst_logits_chunk_size:
            return ordinary
        return {**ordinary, "head": ordinary.get("head", 0) + work["head"] // 3}

    def batch_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """The text once more, as it came ``[b, L, s]``, and bags ``[b, L/cp, s]`` on both sides."""
        bag_size = _bag_size(stage)
        if bag_size == 1:
            return ordinary
        whole = int(args.micro_batch_size * args.seq_length)
        own = whole // int(args.context_parallel_size)
        return whole * bag_size * _ID + own * (2 * bag_size * _ID + _BATCH_WITHOUT_BAGS)

    def broadcast_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """Bags travel as ``[b, L + 1, s]`` int64, once; single tokens as ever."""
        bag_size = _bag_size(stage)
        if bag_size == 1 or args.tst_superpose == "output":
            return ordinary
        return int(args.micro_batch_size) * (int(args.seq_length) + 1) * bag_size * _ID

    def embedding_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        """The gradient of a table of which s tokens a position are read."""
        bag_size = _bag_size(stage)
        if bag_size == 1 or args.tst_superpose == "output":
            return ordinary
        return table_gradient_bytes(args, bag_size)

    def logits_bytes(
        self, args: argparse.Namespace, stage: Stage, numbers: int, ordinary: int
    ) -> int:
        """The gradient takes the logits' place; the eager loss makes more, block by block.

        When these are gone there is the gradient of the output layer's weight.
        """
        if args.tst_logits_chunk_size:
            return _in_chunks(args, numbers)
        if _bag_size(stage) == 1:
            return ordinary
        most = max(_blocks(args, numbers), head_gradient_bytes(args))
        return numbers * int(args.params_dtype.itemsize) + most

    @property
    def facts(self) -> Mapping[str, Fact]:
        """Bags of one."""
        return {BAG_SIZE: 1}

    def totals(self, seq_length: int, stages: Sequence[Stage]) -> Mapping[str, int]:
        """Data tokens that are read in stages of bags, on either side of the model."""
        samples = sum(s.samples * s.tokens_a_position for s in stages if _bag_size(s) > 1)
        return {"superposed_data_tokens": samples * seq_length}


def _bag_size(stage: Stage) -> int:
    """s of a stage's inputs or targets; 1 where it is ordinary."""
    return int(stage.facts.get(BAG_SIZE) or 1)


def _blocks(args: argparse.Namespace, numbers: int) -> int:
    """Bytes that the loss makes of so many logits, beside their gradient in their place."""
    return min(_LOSS_BLOCKS, numbers * 4) if args.tst_loss_implementation == "eager" else 0


def _in_chunks(args: argparse.Namespace, numbers: int) -> int:
    """Most bytes where logits are made chunk by chunk, in a stage of bags and in others.

    Beside a chunk there are the hidden states that were gathered, and the loss's blocks; or in the
    backward pass the gradient of the output layer's weight, and one block and the hidden states'
    gradient in float32, or that and what the chunk adds to it (superposition/chunked_logits.py).
    """
    item = int(args.params_dtype.itemsize)
    vocabulary = args.padded_vocab_size // args.tensor_model_parallel_size
    rows = numbers // vocabulary
    chunk = min(rows, int(args.tst_logits_chunk_size)) * vocabulary
    gradient, blocks = rows * int(args.hidden_size), _blocks(args, chunk)
    backward = head_gradient_bytes(args) + gradient * 4 + max(gradient * item, blocks // 2)
    return chunk * item + max(gathered_bytes(args) + blocks, backward)
