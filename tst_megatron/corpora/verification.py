"""Whether an indexed corpus is whole, and if not, where it is bad.

The steps a check takes:

1. sizes and the index's header, against the manifest and against each other;
2. pointers and document boundaries, entry by entry (``index_checks.py``);
3. both files block by block: checksums, ids, ends of documents (``blocks.py``).

The one idea: without a manifest, as Megatron's own tools leave a corpus, everything that needs none
is checked, and what could not be is said.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tst_megatron.corpora.blocks import IdCheck, check_blocks
from tst_megatron.corpora.index_checks import (
    Finding,
    check_boundaries,
    check_header,
    check_pointers,
)
from tst_megatron.corpora.index_file import (
    DTYPE_OF_CODE,
    IndexFile,
    bin_path,
    index_path,
    read_index,
)
from tst_megatron.corpora.indexing.partial import leftovers
from tst_megatron.corpora.manifest import CHECKSUM_BLOCK, Manifest, manifest_path, read_manifest
from tst_megatron.errors import UserError

_DTYPES = {dtype.name for dtype in DTYPE_OF_CODE.values()}


@dataclass(frozen=True)
class Verdict:
    """What a check of a corpus found.

    Attributes:
        findings: bad bytes, those of the index first, then in the order of the file.
        documents: in the corpus; None if the index is too bad to say.
        tokens: in the corpus; None if the index is too bad to say.
        checked: what was looked at, in words.
        unchecked: what could not be, and why.
    """

    findings: list[Finding]
    documents: int | None
    tokens: int | None
    checked: list[str]
    unchecked: list[str]


def verify(
    prefix: Path,
    vocab_size: int | None = None,
    workers: int = 2,
    on_progress: Callable[[int], None] = lambda size: None,
) -> Verdict:
    """Check a corpus as far as its manifest, or without one its index, allows.

    Args:
        prefix: path of the files without their endings.
        vocab_size: ids are below it; None for the manifest's.
        workers: threads that look at blocks.
        on_progress: told of every number of bytes that has been looked at.

    Raises:
        UserError: the files are not there, or the manifest cannot be understood.
    """
    check_there(prefix)
    manifest = read_manifest(prefix)
    if manifest is not None and manifest.dtype not in _DTYPES:
        raise UserError(
            f"{manifest_path(prefix)} is broken: {manifest.dtype!r} is no dtype of Megatron's"
        )
    index, findings = check_sizes(prefix, manifest)
    ids = _id_check(prefix, manifest, index, vocab_size, is_sound=not findings)
    if manifest is not None:
        findings += check_blocks(index_path(prefix), manifest.idx, None, workers, on_progress)
        findings += check_blocks(bin_path(prefix), manifest.bin, ids, workers, on_progress)
    elif ids is not None:
        findings += check_blocks(bin_path(prefix), None, ids, workers, on_progress)
    return Verdict(
        sorted(findings, key=_order),
        None if index is None else index.num_documents,
        None if index is None else index.num_tokens,
        *_in_words(prefix, manifest, ids),
    )


def check_there(prefix: Path) -> None:
    """Check that both files have their names.

    Raises:
        UserError: one has not.
    """
    for path in (index_path(prefix), bin_path(prefix)):
        if not path.is_file():
            unfinished = "".join(f"; {sentence}" for sentence in leftovers(prefix))
            raise UserError(f"the corpus {prefix} is missing: there is no file {path}{unfinished}")


def open_corpus(prefix: Path) -> tuple[IndexFile, Manifest | None]:
    """The index and the manifest of a corpus, after `check_sizes`.

    Raises:
        UserError: the files are not there, or are bad.
    """
    check_there(prefix)
    manifest = read_manifest(prefix)
    try:
        index, findings = check_sizes(prefix, manifest)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    if index is None or findings:
        raise UserError(
            f"the corpus {prefix} is bad: {findings[0]}; tst-megatron index verify {prefix} says "
            "more"
        )
    return index, manifest


def check_sizes(prefix: Path, manifest: Manifest | None) -> tuple[IndexFile | None, list[Finding]]:
    """Check all that can be checked without reading the tokens.

    Returns:
        The index, if its header can be believed, and what is wrong.

    Raises:
        OSError: a file cannot be read.
    """
    found = [] if manifest is None else _check_recorded_sizes(prefix, manifest)
    wrong_header = check_header(index_path(prefix), manifest)
    if wrong_header is not None:
        return None, [wrong_header, *found]
    index = read_index(prefix)
    is_known = manifest is not None
    bin_size = manifest.bin.size if manifest is not None else bin_path(prefix).stat().st_size
    entries = (check_pointers(index, bin_size, is_known), check_boundaries(index, is_known))
    return index, [*(finding for finding in entries if finding is not None), *found]


def _check_recorded_sizes(prefix: Path, manifest: Manifest) -> list[Finding]:
    """The ``.bin`` file's, and the manifest's own; the index's are its header's to check."""
    path, told = bin_path(prefix), manifest.bin.size
    size = path.stat().st_size
    if size != told:
        begin, end = sorted((size, told))
        return [Finding(path, begin, end, f"it has {size} bytes and the manifest says {told}")]
    if manifest.tokens * np.dtype(manifest.dtype).itemsize != told:
        path = manifest_path(prefix)
        reason = f"it says {manifest.tokens} tokens in {told} bytes of {manifest.dtype}"
        return [Finding(path, 0, path.stat().st_size, reason)]
    return []


def _id_check(
    prefix: Path,
    manifest: Manifest | None,
    index: IndexFile | None,
    vocab_size: int | None,
    is_sound: bool,
) -> IdCheck | None:
    """What is known of the ids; None if too little is to look at them."""
    eod = None
    if manifest is not None:
        dtype = np.dtype(manifest.dtype)
        vocab_size = vocab_size or manifest.tokenizer.vocab_size
        if manifest.settings.get("append_eod"):
            eod = manifest.tokenizer.eod
    elif index is not None:
        dtype = index.dtype
    else:
        return None
    if vocab_size is None or dtype.kind not in "iu":
        return None
    return IdCheck(bin_path(prefix), dtype, vocab_size, eod, index if is_sound else None)


def _in_words(
    prefix: Path, manifest: Manifest | None, ids: IdCheck | None
) -> tuple[list[str], list[str]]:
    """What is checked, and what is not and why."""
    checked, unchecked = ["sizes", "pointers and document boundaries"], []
    if manifest is None:
        unchecked.append(f"checksums and ends of documents, as there is no {manifest_path(prefix)}")
    else:
        checked.append("SHA-256 of both files")
    if ids is None:
        unchecked.append("ids, as their kind or the vocabulary is not known: give --vocab-size")
    else:
        checked.append(f"ids below {ids.vocab_size}")
        if ids.eod is not None:
            checked.append(f"the end of every document, {ids.eod}")
    return checked, unchecked


def _order(finding: Finding) -> tuple[bool, int, int]:
    """The index first; in a block of a file, the narrowest range first."""
    size = finding.end - finding.begin
    return finding.path.suffix != ".idx", finding.begin // CHECKSUM_BLOCK, size
