"""Which library writes the ids: the fastest one, where it was seen to give the reference's.

The one idea: nothing is believed of a fast library. It encodes a sample of the very corpus and the
built-in awkward strings beside the reference, and one difference is enough to drop it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import TokenizerDescription
from tst_megatron.corpora.tokenizers.encoders import (
    CompressorEncoder,
    Encoder,
    reference_encoder,
)
from tst_megatron.corpora.tokenizers.fast import UnsuitedError, fast_encoder


@dataclass(frozen=True)
class Chosen:
    """The encoder of a build.

    Attributes:
        encoder: writes the ids.
        reference: gives the ids by definition; may be the same.
        checked_documents: of the sample, that both encoded to the same ids.
        fell_back: why the faster library is not used; None if it is, or there is none.
    """

    encoder: Encoder
    reference: Encoder
    checked_documents: int
    fell_back: str | None


def choose_encoder(description: TokenizerDescription, sample: Sequence[Any]) -> Chosen:
    """Choose what writes the ids of a corpus.

    Args:
        description: the tokenizer.
        sample: some of the corpus's documents.

    Raises:
        ValueError: the reference cannot encode a document of the sample; the message says why.
    """
    if description.kind == "proxy":
        return _around(description.library, choose_encoder(description.library.inner, sample))
    reference = reference_encoder(description)
    if isinstance(reference, CompressorEncoder):  # Nobody else writes these ids.
        reference.check(sample)
        return Chosen(reference, reference, len(sample), None)
    if description.reads == "ids":
        return Chosen(reference, reference, 0, None)
    try:
        fast = fast_encoder(description)
    except UnsuitedError as unsuited:
        return Chosen(reference, reference, 0, str(unsuited))
    names, strings = zip(*awkward_strings(description.special_tokens), strict=True)
    if (at := differs(fast, reference, strings)) is not None:
        reason = f"{fast.name} gives other ids for {names[at]}"
    elif (at := differs(fast, reference, sample)) is not None:
        reason = f"{fast.name} gives other ids for document {at + 1} of the sample"
    else:
        return Chosen(fast, reference, len(sample), None)
    return Chosen(reference, reference, 0, reason)


def _around(proxy: Any, chosen: Chosen) -> Chosen:
    """What was chosen for the tokenizer that compresses, in the vocabulary of a proxy."""
    reference = proxy.around(chosen.reference)
    is_reference = chosen.encoder is chosen.reference
    encoder = reference if is_reference else proxy.around(chosen.encoder)
    return replace(chosen, encoder=encoder, reference=reference)


def differs(encoder: Encoder, reference: Encoder, documents: Sequence[Any]) -> int | None:
    """The number of the first document, from 0, whose ids two encoders differ on; None if none is.

    Raises:
        ValueError: a document cannot be encoded.
    """
    ours, theirs = encoder.encode(documents), reference.encode(documents)
    longer = ours.lengths != theirs.lengths
    # Up to the first document of another length the ids stand side by side.
    first = int(longer.argmax()) if longer.any() else len(documents)
    ends = np.cumsum(ours.lengths[:first])
    same = int(ends[-1]) if first else 0
    other = ours.ids[:same] != theirs.ids[:same]
    if other.any():
        return int(np.searchsorted(ends, other.argmax(), side="right"))
    return first if first < len(documents) else None
