"""Which documents, and how many tokens, each stage of a schedule reads: arithmetic alone.

The one idea: the data sets that are read and the budget that promises them call these same
functions, so that neither can say anything else than the other.

Text is counted in places. Where bags are cut from the running text (boundary ``any``) a place is a
token. Where a bag ends with its document (boundary ``document``) a document takes up whole bags,
and the places of its last one that hold no token are counted like the others.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tst_megatron.methods.superposition.schedule import BagSchedule

BagBoundary = Literal["any", "document"]
BAG_BOUNDARIES: tuple[str, ...] = ("any", "document")

# Halvings that find a float64 between two others.
_HALVINGS = 64


@dataclass(frozen=True)
class DocumentPart:
    """One of several consecutive parts that a split's documents are cut into.

    Attributes:
        bounds: where the parts begin and the last one ends, as shares of the split's places.
        index: which part.
        bag_sizes: s of every part where bags end with their document, so that a document takes up
            more places in one part than in another; empty where places are tokens.
    """

    bounds: tuple[float, ...] = (0.0, 1.0)
    index: int = 0
    bag_sizes: tuple[int, ...] = ()

    @property
    def unique_identifiers(self) -> list[Any]:
        """What Megatron names its cache files by."""
        return [self.bounds, self.index, self.bag_sizes]


def documents_of_part(
    sequence_lengths: npt.NDArray[np.int32],
    documents: npt.NDArray[np.int32],
    part: DocumentPart,
    seed: int,
) -> npt.NDArray[np.int32]:
    """Documents of a stage: those whose first place lies in its part, and one at least.

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
    drawn = DrawnDocuments(sequence_lengths, documents, seed)
    begin, end = cuts_of_parts(drawn, part)[part.index : part.index + 2]
    return documents[np.sort(drawn.order[begin:end])]


class DrawnDocuments:
    """A split's documents in the order in which parts are cut from them, whatever the parts.

    Args:
        sequence_lengths: tokens of every document of the corpus.
        documents: indices of the split's documents.
        seed: Megatron's data seed.

    Attributes:
        order: ``[documents]``, places in ``documents``.
    """

    def __init__(
        self,
        sequence_lengths: npt.NDArray[np.int32],
        documents: npt.NDArray[np.int32],
        seed: int,
    ) -> None:
        self.order = np.random.RandomState(seed).permutation(len(documents))
        self._lengths = sequence_lengths[documents[self.order]]
        self._before: dict[int, npt.NDArray[np.int64]] = {}

    def places_before(self, bag_size: int, boundary: BagBoundary | str) -> npt.NDArray[np.int64]:
        """``[documents + 1]``, places before each document in the order, and of all."""
        if boundary == "any":
            bag_size = 1  # Places are tokens.
        if bag_size not in self._before:
            before = np.zeros(len(self._lengths) + 1, dtype=np.int64)
            places = places_of_documents(self._lengths, bag_size, boundary)
            np.cumsum(places, dtype=np.int64, out=before[1:])
            self._before[bag_size] = before
        return self._before[bag_size]


def cuts_of_parts(drawn: DrawnDocuments, part: DocumentPart) -> list[int]:
    """Where the parts begin and the last one ends, in the order of the documents.

    Args:
        drawn: the documents.
        part: any of the parts.
    """
    num_documents, num_parts = len(drawn.order), len(part.bounds) - 1
    if part.bag_sizes:
        inner = _cuts_of_bags(drawn, part)
    else:
        before = drawn.places_before(1, "any")
        # Whole tokens, or numpy would copy the array as floats to look for one.
        tokens = [ceil(bound * float(before[-1])) for bound in part.bounds[1:-1]]
        inner = [int(np.searchsorted(before[:-1], token)) for token in tokens]
    cuts = [0, *inner, num_documents]
    for i in range(1, num_parts):
        cuts[i] = max(cuts[i], cuts[i - 1] + 1)
    for i in range(num_parts - 1, 0, -1):
        cuts[i] = max(0, min(cuts[i], cuts[i + 1] - 1))
    return cuts


def _cuts_of_bags(drawn: DrawnDocuments, part: DocumentPart) -> list[int]:
    """Where each part but the first begins, so that all have what they need as many times over."""
    num_documents = len(drawn.order)
    shares = [high - low for low, high in pairwise(part.bounds)]
    places = [drawn.places_before(bag_size, "document") for bag_size in part.bag_sizes]

    def cuts_at(total: float) -> list[int]:
        """Each part takes documents until it has its share; an end past the last: too few."""
        ends = [0]
        for share, of_part in zip(shares, places, strict=True):
            if ends[-1] > num_documents:
                break
            ends.append(int(np.searchsorted(of_part, ceil(of_part[ends[-1]] + share * total))))
        return ends[1:]

    fits, too_much = 0.0, float(sum(of_part[-1] for of_part in places)) + 1.0
    for _ in range(_HALVINGS):
        middle = (fits + too_much) / 2
        if cuts_at(middle)[-1] <= num_documents:
            fits = middle
        else:
            too_much = middle
    return cuts_at(fits)[:-1]


def places_of_documents(
    lengths: npt.NDArray[Any], bag_size: int, boundary: BagBoundary | str = "any"
) -> npt.NDArray[Any]:
    """Places that documents take up, from their tokens: whole bags with ``document``."""
    if boundary == "any":
        return lengths
    return bags_of_documents(lengths, bag_size) * bag_size


def bags_of_documents(lengths: npt.NDArray[Any], bag_size: int) -> npt.NDArray[Any]:
    """Bags that hold a document's tokens and no other's, from their number: ⌈n / s⌉."""
    return (lengths + (bag_size - 1)) // bag_size


def sample_tokens(seq_length: int, bag_size: int, boundary: BagBoundary | str = "any") -> int:
    """Places a sample moves on by: (L + 1)·s less what neighbours share (`shared_tokens`)."""
    return (seq_length + 1) * bag_size - shared_tokens(bag_size, boundary)


def shared_tokens(bag_size: int, boundary: BagBoundary | str = "any") -> int:
    """Places that a sample shares with its neighbour: a token (``GPTDataset``), or a bag of them.

    Bags that end with their documents are to Megatron what its tokens are.
    """
    return 1 if boundary == "any" else bag_size


def places_needed(
    num_samples: int, seq_length: int, bag_size: int, boundary: BagBoundary | str = "any"
) -> int:
    """Places that so many samples read."""
    shared = shared_tokens(bag_size, boundary)
    return num_samples * sample_tokens(seq_length, bag_size, boundary) + shared


def document_parts(
    schedule: BagSchedule, seq_length: int, boundary: BagBoundary | str = "any"
) -> dict[int, DocumentPart]:
    """The documents of every bag size, in proportion to the places it reads.

    A bag size that is the only one has them all, so that an ordinary run's data are Megatron's own.
    """
    needed = tokens_needed(schedule, seq_length, boundary)
    total = sum(needed.values())
    bounds = tuple(float(Fraction(n, total)) for n in accumulate(needed.values(), initial=0))
    bag_sizes = tuple(needed) if boundary == "document" else ()
    return {
        bag_size: DocumentPart(bounds, index, bag_sizes) for index, bag_size in enumerate(needed)
    }


def tokens_needed(
    schedule: BagSchedule, seq_length: int, boundary: BagBoundary | str = "any"
) -> dict[int, int]:
    """Places that the samples of every bag size read, in the order of training."""
    sizes = dict.fromkeys(stage.bag_size for stage in schedule.stages if stage.num_samples)
    return {
        bag_size: places_needed(
            schedule.samples_of_bag_size(bag_size), seq_length, bag_size, boundary
        )
        for bag_size in sizes
    }
