"""Which documents, and how many tokens, each stage of a schedule reads: arithmetic alone.

The one idea: the data sets that are read and the budget that promises them call these same
functions, so that neither can say anything else than the other.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.superposition.schedule import BagSchedule


@dataclass(frozen=True)
class DocumentPart:
    """One of several consecutive parts that a split's documents are cut into.

    Attributes:
        bounds: where the parts begin and the last one ends, as shares of the split's tokens.
        index: which part.
    """

    bounds: tuple[float, ...] = (0.0, 1.0)
    index: int = 0

    @property
    def unique_identifiers(self) -> list[Any]:
        """What Megatron names its cache files by."""
        return [self.bounds, self.index]


def documents_of_part(
    sequence_lengths: npt.NDArray[np.int32],
    documents: npt.NDArray[np.int32],
    part: DocumentPart,
    seed: int,
) -> npt.NDArray[np.int32]:
    """Documents of a stage: those whose first token lies in its part, and one at least.

    Their order is drawn by the seed, because corpora are often sorted by source and a stage should
    see all of them.

    Args:
        sequence_lengths: tokens of every document of the corpus.
        documents: indices of the split's documents.
        part: which part of them.
        seed: Megatron's data seed.

    Returns:
        Indices of the part's documents, ascending; all of them, unchanged, where there is one part.
        With fewer documents than parts, some parts are empty.
    """
    if len(part.bounds) == 2:
        return documents
    order, first_token = documents_in_order(sequence_lengths, documents, seed)
    begin, end = cuts_of_parts(first_token, part.bounds)[part.index : part.index + 2]
    return documents[np.sort(order[begin:end])]


def documents_in_order(
    sequence_lengths: npt.NDArray[np.int32], documents: npt.NDArray[np.int32], seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The order in which parts are cut from a split's documents, whatever the parts.

    Returns:
        ``[documents]``, places in ``documents``; and ``[documents + 1]``, the tokens before each of
        them in this order, and of all.
    """
    order = np.random.RandomState(seed).permutation(len(documents))
    first_token = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(sequence_lengths[documents[order]], dtype=np.int64, out=first_token[1:])
    return order, first_token


def cuts_of_parts(first_token: npt.NDArray[np.int64], bounds: tuple[float, ...]) -> list[int]:
    """Where the parts begin and the last one ends, in the order of `documents_in_order`.

    Args:
        first_token: ``[documents + 1]``, tokens before each document.
        bounds: of the parts, as shares of the tokens.
    """
    total, num_parts = float(first_token[-1]), len(bounds) - 1
    cuts = [0, *(int(np.searchsorted(first_token[:-1], b * total)) for b in bounds[1:-1])]
    cuts.append(len(first_token) - 1)
    for i in range(1, num_parts):
        cuts[i] = max(cuts[i], cuts[i - 1] + 1)
    for i in range(num_parts - 1, 0, -1):
        cuts[i] = max(0, min(cuts[i], cuts[i + 1] - 1))
    return cuts


def sample_tokens(seq_length: int, bag_size: int) -> int:
    """Tokens a sample moves on by: (L + 1)·s − 1, since neighbours share one (``GPTDataset``)."""
    return (seq_length + 1) * bag_size - 1


def document_parts(schedule: BagSchedule, seq_length: int) -> dict[int, DocumentPart]:
    """The documents of every bag size, in proportion to the tokens it reads.

    A bag size that is the only one has them all, so that an ordinary run's data are Megatron's own.
    """
    needed = tokens_needed(schedule, seq_length)
    total = sum(needed.values())
    bounds = tuple(float(Fraction(n, total)) for n in accumulate(needed.values(), initial=0))
    return {bag_size: DocumentPart(bounds, index) for index, bag_size in enumerate(needed)}


def tokens_needed(schedule: BagSchedule, seq_length: int) -> dict[int, int]:
    """Tokens that the samples of every bag size read, in the order of training."""
    sizes = dict.fromkeys(stage.bag_size for stage in schedule.stages if stage.num_samples)
    return {
        bag_size: schedule.samples_of_bag_size(bag_size) * sample_tokens(seq_length, bag_size) + 1
        for bag_size in sizes
    }
