"""Forms of a corpus: the same documents once more, in other ids, beside the corpus itself.

``PREFIX.compressed`` has the documents of ``PREFIX`` in their order, as another tokenizer has them.
A pair is a document in both forms, one after the other: in documents of even number the compressed
form comes first, in the others last.

The one idea: a document has one number in all forms. So parts of a run that read different forms
share the documents out by these numbers, and none is read in two of them but where it is a pair.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.index_file import bin_path, index_path, read_index
from tst_megatron.corpora.manifest import read_manifest
from tst_megatron.errors import UserError

AS_INDEXED = ""
COMPRESSED = "compressed"
PAIRED = "paired"

type Lengths = npt.NDArray[np.int32]


def compressed_prefix(prefix: str | Path) -> Path:
    """Where the compressed form of a corpus lies."""
    return Path(f"{prefix}.{COMPRESSED}")


def begins_compressed(document: int) -> bool:
    """Whether a document's pair begins with its compressed form."""
    return document % 2 == 0


class LengthsInForms(Mapping[str, Lengths]):
    """Tokens of every document of a corpus, by form.

    Args:
        prefix: of the corpus.
        as_indexed: ``[documents]``, int32, of the corpus itself.

    Raises:
        UserError: its compressed form is not there, or is of other documents.
    """

    def __init__(self, prefix: str, as_indexed: Lengths) -> None:
        self._as_indexed = as_indexed
        self._compressed = _compressed_lengths(prefix, len(as_indexed))

    def __getitem__(self, form: str) -> Lengths:
        """Of a pair: those of both forms, which have one end between them."""
        if form == AS_INDEXED:
            return self._as_indexed
        if form == COMPRESSED:
            return self._compressed
        if form == PAIRED:
            return self._as_indexed + self._compressed - 1
        raise KeyError(form)

    def __iter__(self) -> Iterator[str]:
        """All forms."""
        return iter((AS_INDEXED, COMPRESSED, PAIRED))

    def __len__(self) -> int:
        """Number of forms."""
        return len(tuple(iter(self)))


def check_forms(prefix: str) -> None:
    """Check that a corpus has its compressed form.

    Raises:
        UserError: as of `LengthsInForms`, or it is not on this machine.
    """
    if is_remote(prefix):
        raise UserError(
            f"the corpus {prefix} is in object storage, where the compressed form of a corpus is "
            "not looked for: copy both to this machine"
        )
    LengthsInForms(prefix, read_index(prefix).lengths)


def _compressed_lengths(prefix: str, documents: int) -> Lengths:
    other = str(compressed_prefix(prefix))
    for path in (index_path(other), bin_path(other)):
        if not path.is_file():
            raise UserError(
                f"the corpus {prefix} has no compressed form: there is no file {path}; index it "
                "with a tokenizer that tst-megatron compressor proxy made"
            )
    lengths = read_index(other).lengths
    if len(lengths) != documents:
        raise UserError(
            f"the corpus {prefix} has {documents:,} documents and its compressed form {other} has "
            f"{len(lengths):,}: index both from the same text"
        )
    _check_manifests(prefix, other)
    return lengths


def _check_manifests(prefix: str, other: str) -> None:
    """Where both are known, they are of one text and one vocabulary."""
    ours, theirs = read_manifest(prefix), read_manifest(other)
    if ours is None or theirs is None:
        return
    for what, one, another in (
        ("tokenizers", ours.tokenizer.sha256, theirs.tokenizer.sha256),
        ("bytes of text", ours.text_bytes, theirs.text_bytes),
        ("inputs", [one.sha256 for one in ours.inputs], [one.sha256 for one in theirs.inputs]),
    ):
        if one != another:
            raise UserError(
                f"the corpus {prefix} and its compressed form {other} are of different {what}: "
                "index both again with the same command"
            )
