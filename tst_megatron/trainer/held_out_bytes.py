"""Bytes of the text that a validation's next-token loss is of, counted id by id.

The one idea: a table of how many bytes an id stands for is made once, on rank 0, from the corpus's
tokenizer; a validation adds up its targets, where the loss is, and the sums of all ranks meet once.
"""

import argparse
import logging
import math
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import mpu
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor

from tst_megatron.corpora.manifest import read_manifest
from tst_megatron.corpora.sources import sources_of_split
from tst_megatron.corpora.token_text import recorded_tokenizer
from tst_megatron.corpora.tokenizers.byte_lengths import byte_lengths
from tst_megatron.methods.events import Evaluated, Listener, ValidationSet
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS
from tst_megatron.stock.batch import Batch

logger = logging.getLogger(__name__)

IN_BITS = f"{NEXT_TOKEN_LOSS} validation in bits a byte"


class HeldOutBytes(Listener):
    """Counts targets of validations; every rank calls it alike.

    Args:
        args: Megatron's validated arguments.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._table: Tensor | None = None
        self._sums: Tensor | None = None

    def started(self, model: list[object]) -> None:
        """Make the table, and give it to all ranks."""
        device = torch.device(torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
        table = _table(self._args) if self._args.rank == 0 else None
        size = torch.tensor([0 if table is None else len(table)], device=device)
        dist.broadcast(size, 0)
        if not int(size):
            return
        lengths = torch.empty(int(size), dtype=torch.int64, device=device)
        if table is not None:
            lengths.copy_(table)
        dist.broadcast(lengths, 0)
        self._table = lengths
        self._sums = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, batch: Batch, model: object) -> None:
        """Count a micro-batch of a validation.

        Args:
            batch: with ``labels`` ``[b, L/cp]`` and ``loss_mask`` of that shape.
            model: the chunk that it goes through.
        """
        table, mask = self._table, batch.loss_mask
        if table is None or self._sums is None or batch.labels is None or mask is None:
            return
        # Ranks of tensor parallelism have the same targets.
        if mpu.get_tensor_model_parallel_rank() or not get_attr_wrapped_model(
            model, "post_process"
        ):
            return
        counts = mask > 0
        ids = batch.labels
        lengths = table.index_select(0, ids.flatten()).view_as(ids)
        self._sums += torch.stack((counts.sum(), (lengths * counts).sum()))

    def evaluating(self) -> None:
        """Begin anew."""
        if self._sums is not None:
            self._sums.zero_()

    def set_evaluated(self, of_set: ValidationSet) -> None:
        """Add the sums, and begin anew."""
        if self._sums is None:
            return
        dist.all_reduce(self._sums)
        tokens, text_bytes = self._sums.tolist()
        if text_bytes:
            of_set.text = {"tokens": tokens, "bytes": text_bytes}
        self._sums.zero_()

    def evaluated(self, evaluated: Evaluated) -> None:
        """Tell the loss in bits a byte."""
        if (bits := _bits_a_byte(evaluated)) is None:
            return
        evaluated.scalar(IN_BITS, bits)
        words = [f"{bits:.4f} bits a byte of the held-out text"]
        for one in evaluated.sets:
            if (of_set := _bits_a_byte(one)) is not None:
                evaluated.scalar(f"{NEXT_TOKEN_LOSS} validation-{one.name} in bits a byte", of_set)
                words.append(f"{of_set:.4f} of {one.name}")
        evaluated.say(f"tst-megatron: {', '.join(words)}")


def _bits_a_byte(measured: Evaluated | ValidationSet) -> float | None:
    """Of a loss on the rank that has it, of text that was counted."""
    loss, text = measured.losses.get(NEXT_TOKEN_LOSS), measured.text
    if loss is None or not text:
        return None
    return float(loss) * text["tokens"] / text["bytes"] / math.log(2)


def _table(args: argparse.Namespace) -> Tensor | None:
    """Bytes of each id; None where they are not known.

    A figure beside the loss is no reason to end a run: what is wrong with a tokenizer's files, of
    which Megatron has made its own, is said and passed over.
    """
    if args.sft or args.mock_data:
        return None
    try:
        for source in sources_of_split(args, "valid"):
            manifest = None if source.is_remote else read_manifest(source.prefix)
            if manifest is None or not manifest.text_bytes:
                return None
            description = recorded_tokenizer(Path(source.prefix), manifest.tokenizer)
            found = byte_lengths(description)  # A run has one tokenizer, so the first will do.
            return None if found is None else torch.from_numpy(found).to(torch.int64)
    except Exception as error:  # Libraries raise anything for files that they cannot read.
        logger.warning("held-out losses are not told in bits a byte: %s", error)
    return None
