"""Which text a split is of, whatever tokenizer wrote its ids: what runs of two tokenizers share.

The one idea: an input file's SHA-256 and how many documents came from it do not depend on the
tokenizer, and Megatron cuts splits at whole documents. So a split's text is told by its manifests,
and two corpora of one text tell the same.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.budget import split_documents
from tst_megatron.corpora.index_file import bin_path, read_index
from tst_megatron.corpora.manifest import Manifest, read_manifest
from tst_megatron.corpora.sources import Source
from tst_megatron.corpora.token_text import recorded_tokenizer
from tst_megatron.corpora.tokenizers.byte_lengths import byte_lengths
from tst_megatron.errors import UserError

Ids = npt.NDArray[np.integer[Any]]

# Of ids that are counted, or decoded, at once.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class SplitText:
    """The text of a split, as a ledger's header has it (``held_out``).

    Attributes:
        sha256: equal for two corpora whose splits hold the same documents of the same files.
        documents: in it.
        tokens: of it, ends of documents among them.
        bytes: of it, in UTF-8; None where they are not known exactly.
        corpora: that it is made of: Megatron fills sequences corpus by corpus.
    """

    sha256: str
    documents: int
    tokens: int
    bytes: int | None
    corpora: int

    def as_json(self) -> dict[str, Any]:
        """For a header."""
        return asdict(self)


def text_of_split(sources: Sequence[Source], is_counted: bool) -> SplitText | None:
    """The text that some corpora's parts hold.

    Args:
        sources: of the split.
        is_counted: whether bytes of a part of a corpus, which no manifest tells, are counted, which
            reads its ids.

    Returns:
        None where it is not known: a corpus without a manifest, in object storage, of which ids
        alone were read, or drawn from by weight, so that no pass over the split is one of its text.

    Raises:
        UserError: a manifest or an index cannot be understood, or a tokenizer is another one.
    """
    manifests = [None if one.is_remote else read_manifest(one.prefix) for one in sources]
    known = [one for one in manifests if one is not None and one.text_bytes]
    is_drawn = len(sources) > 1 and any(one.weight is not None for one in sources)
    if not known or len(known) < len(sources) or is_drawn:
        return None
    told, tokens, counted = [], 0, 0
    documents = 0
    knows_bytes = True
    for source, manifest in zip(sources, known, strict=True):
        lengths, chosen = split_documents(source)
        told.append(_told(manifest, chosen))
        documents += len(chosen)
        tokens += int(lengths[chosen].sum(dtype=np.int64))
        of_part = _bytes_of_part(source, manifest, chosen, is_counted)
        knows_bytes &= of_part is not None
        counted += of_part or 0
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return SplitText(digest, documents, tokens, counted if knows_bytes else None, len(sources))


def _told(manifest: Manifest, chosen: Ids) -> dict[str, Any]:
    """What is the same of a text for every tokenizer, and which documents of it are meant."""
    return {
        "inputs": [[one.sha256, one.documents] for one in manifest.inputs],
        "documents": manifest.documents,
        "bytes": manifest.text_bytes,
        "from": int(chosen[0]) if len(chosen) else 0,
        "to": int(chosen[-1]) + 1 if len(chosen) else 0,
    }


def _bytes_of_part(source: Source, manifest: Manifest, chosen: Ids, is_counted: bool) -> int | None:
    if len(chosen) == manifest.documents:
        return manifest.text_bytes
    if not is_counted:
        return None
    description = recorded_tokenizer(Path(source.prefix), manifest.tokenizer)
    blocks = _blocks(source.prefix, chosen)
    if (lengths := byte_lengths(description)) is not None:
        counts = np.zeros(len(lengths), np.int64)
        for block in blocks:
            counts += np.bincount(np.concatenate(block), minlength=len(lengths))
        return int((counts * lengths).sum())
    if description.kind != "compressor":
        return None
    code = description.library.code
    decoded = (code.decode([_without_end(ids, code.num_ids) for ids in block]) for block in blocks)
    return sum(len(text) for texts in decoded for text in texts)


def _blocks(prefix: str, chosen: Ids) -> Iterator[list[Ids]]:
    """The documents' ids, some documents at a time."""
    index = read_index(prefix)
    if not len(chosen):
        return
    content = np.memmap(bin_path(prefix), index.dtype, "r")
    block: list[Ids] = []
    size = 0
    for one in chosen:
        begin = int(index.pointers[one]) // index.dtype.itemsize
        block.append(content[begin : begin + int(index.lengths[one])])
        size += len(block[-1])
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _without_end(ids: Ids, end: int) -> Ids:
    return ids[:-1] if len(ids) and ids[-1] == end else ids


def bytes_a_token(sources: Sequence[Source]) -> float | None:
    """Mean bytes of text a token of corpora, by their manifests and in the shares of the blend.

    Args:
        sources: of a split.

    Returns:
        None without manifests that count bytes of text.
    """
    try:
        found = [None if source.is_remote else read_manifest(source.prefix) for source in sources]
    except UserError:
        return None
    manifests = [manifest for manifest in found if manifest is not None and manifest.text_bytes]
    if not manifests or len(manifests) < len(sources):
        return None
    weights = [
        manifest.tokens if source.weight is None else source.weight
        for source, manifest in zip(sources, manifests, strict=True)
    ]
    means = [manifest.bytes_per_token for manifest in manifests]
    return sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)
