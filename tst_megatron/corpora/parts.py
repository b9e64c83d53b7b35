"""Which documents, and how much of them, each part of a run reads: arithmetic alone.

The one idea: the data sets that are read and the budget that promises them call these same
functions, so that neither can say anything else than the other.

Text is counted in places. Where a part reads the running text a place is a token, and its unit is
1. Where it reads units of so many places, each of one document, a document takes up whole units,
and the places of its last one that hold no token are counted like the others. Where it reads a form
of the corpus (`forms`) places are those of that form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

# Halvings that find a float64 between two others.
_HALVINGS = 64


@dataclass(frozen=True)
class TextPart:
    """What a part of a run reads: samples of one kind, which have documents of their own.

    Attributes:
        name: in a table, such as ``ordinary``.
        in_words: in the midst of a sentence, such as ``the ordinary run``.
        samples: of the part.
        seq_length: L, positions a sample.
        tokens_a_position: places of text that a position reads.
        unit: places that a document takes up whole multiples of; 1 where places are tokens.
        form: of the corpus that is read; empty for the corpus itself.
        facts: what sets the part apart, by name, for programs.
        laid_out: samples by which documents are shared out among parts, where a run goes on from
            one of another length, which has shared them out; None where they are the part's own.
    """

    name: str
    in_words: str
    samples: int
    seq_length: int
    tokens_a_position: int = 1
    unit: int = 1
    form: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    laid_out: int | None = None

    @property
    def shared(self) -> int:
        """Places that a sample shares with its neighbour: a unit, as a token in ``GPTDataset``."""
        return self.unit

    @property
    def step(self) -> int:
        """Places that a sample moves on by: those of its L + 1 positions but what is shared."""
        return (self.seq_length + 1) * self.tokens_a_position - self.shared

    @property
    def needed(self) -> int:
        """Places that the samples read."""
        return self.places_of(self.samples)

    @property
    def claim(self) -> int:
        """Places by which its share of the documents is measured."""
        return self.places_of(self.samples if self.laid_out is None else self.laid_out)

    def places_of(self, samples: int) -> int:
        """Places that so many samples of it read."""
        return samples * self.step + self.shared

    @property
    def data_tokens(self) -> int:
        """Places that the samples' inputs are made of."""
        return self.samples * self.seq_length * self.tokens_a_position


def ordinary_text(samples: int, seq_length: int) -> TextPart:
    """What so many samples of an ordinary run read."""
    return TextPart("ordinary", "the ordinary run", samples, seq_length)


@dataclass(frozen=True)
class DocumentPart:
    """One of several consecutive parts that a split's documents are cut into.

    Attributes:
        bounds: where the parts begin and the last one ends, as shares of the split's places.
        index: which part.
        units: of every part, where a document takes up more places in one part than in another;
            empty where all places are tokens.
        forms: of every part, where parts read forms of the corpus; empty where all read the corpus.
    """

    bounds: tuple[float, ...] = (0.0, 1.0)
    index: int = 0
    units: tuple[int, ...] = ()
    forms: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """Of the part itself."""
        return self.forms[self.index] if self.forms else ""

    @property
    def measures(self) -> tuple[tuple[int, str], ...]:
        """Unit and form of every part; empty where all count the corpus's own tokens."""
        if not self.units and not self.forms:
            return ()
        number = len(self.bounds) - 1
        return tuple(zip(self.units or (1,) * number, self.forms or ("",) * number, strict=True))

    @property
    def unique_identifiers(self) -> list[Any]:
        """What Megatron names its cache files by."""
        found: list[Any] = [self.bounds, self.index, self.units]
        return [*found, self.forms] if self.forms else found


def document_parts(parts: Sequence[TextPart]) -> list[DocumentPart]:
    """The documents of every part, in proportion to the places it claims.

    A part that is the only one has them all, so that an ordinary run's data are Megatron's own.
    """
    claims = [part.claim for part in parts]
    total = sum(claims)
    bounds = tuple(float(Fraction(n, total)) for n in accumulate(claims, initial=0))
    units = tuple(part.unit for part in parts)
    if max(units, default=1) == 1:
        units = ()
    forms = tuple(part.form for part in parts)
    if not any(forms):
        forms = ()
    return [DocumentPart(bounds, index, units, forms) for index in range(len(parts))]


def documents_of_part(
    sequence_lengths: npt.NDArray[np.int32],
    documents: npt.NDArray[np.int32],
    part: DocumentPart,
    seed: int,
    in_forms: Mapping[str, npt.NDArray[np.int32]] | None = None,
) -> npt.NDArray[np.int32]:
    """Documents of a part: those whose first place lies in it, and one at least.

    Their order is drawn by the seed, because corpora are often sorted by source and a part should
    see all of them.

    Args:
        sequence_lengths: tokens of every document of the corpus.
        documents: indices of the split's documents.
        part: which part of them.
        seed: Megatron's data seed.
        in_forms: tokens of every document by form, where a part reads one.

    Returns:
        Indices of the part's documents, ascending; all of them, unchanged, where there is one part.
        With fewer documents than parts, some parts are empty.
    """
    if len(part.bounds) == 2:
        return documents
    drawn = DrawnDocuments(sequence_lengths, documents, seed, in_forms)
    begin, end = cuts_of_parts(drawn, part)[part.index : part.index + 2]
    return documents[np.sort(drawn.order[begin:end])]


class DrawnDocuments:
    """A split's documents in the order in which parts are cut from them, whatever the parts.

    Args:
        sequence_lengths: tokens of every document of the corpus.
        documents: indices of the split's documents.
        seed: Megatron's data seed.
        in_forms: tokens of every document by form, where a part reads one.

    Attributes:
        order: ``[documents]``, places in ``documents``.
    """

    def __init__(
        self,
        sequence_lengths: npt.NDArray[np.int32],
        documents: npt.NDArray[np.int32],
        seed: int,
        in_forms: Mapping[str, npt.NDArray[np.int32]] | None = None,
    ) -> None:
        self.order = np.random.RandomState(seed).permutation(len(documents))
        self._lengths = {"": sequence_lengths} if in_forms is None else in_forms
        self._drawn = documents[self.order]
        self._before: dict[tuple[int, str], npt.NDArray[np.int64]] = {}

    def places_before(self, unit: int, form: str = "") -> npt.NDArray[np.int64]:
        """``[documents + 1]``, places before each document in the order, and of all."""
        if (unit, form) not in self._before:
            lengths = self._lengths[form][self._drawn]
            before = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.cumsum(places_of_documents(lengths, unit), dtype=np.int64, out=before[1:])
            self._before[unit, form] = before
        return self._before[unit, form]


def cuts_of_parts(drawn: DrawnDocuments, part: DocumentPart) -> list[int]:
    """Where the parts begin and the last one ends, in the order of the documents.

    Args:
        drawn: the documents.
        part: any of the parts.
    """
    num_documents, num_parts = len(drawn.order), len(part.bounds) - 1
    if part.measures:
        inner = _cuts_by_measure(drawn, part)
    else:
        before = drawn.places_before(1)
        # Whole tokens, or numpy would copy the array as floats to look for one.
        tokens = [ceil(bound * float(before[-1])) for bound in part.bounds[1:-1]]
        inner = [int(np.searchsorted(before[:-1], token)) for token in tokens]
    cuts = [0, *inner, num_documents]
    for i in range(1, num_parts):
        cuts[i] = max(cuts[i], cuts[i - 1] + 1)
    for i in range(num_parts - 1, 0, -1):
        cuts[i] = max(0, min(cuts[i], cuts[i + 1] - 1))
    return cuts


def _cuts_by_measure(drawn: DrawnDocuments, part: DocumentPart) -> list[int]:
    """Where each part but the first begins, so that all have what they need as many times over."""
    num_documents = len(drawn.order)
    shares = [high - low for low, high in pairwise(part.bounds)]
    places = [drawn.places_before(unit, form) for unit, form in part.measures]

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


def places_of_documents(lengths: npt.NDArray[Any], unit: int = 1) -> npt.NDArray[Any]:
    """Places that documents take up, from their tokens: whole units."""
    return lengths if unit == 1 else units_of_documents(lengths, unit) * unit


def units_of_documents(lengths: npt.NDArray[Any], unit: int) -> npt.NDArray[Any]:
    """Units that hold a document's tokens and no other's, from their number: ⌈n / unit⌉."""
    return (lengths + (unit - 1)) // unit
