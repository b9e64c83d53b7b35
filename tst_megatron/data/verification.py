"""Whether an indexed corpus is whole, and if not, where it is bad.

The steps a check takes:

1. sizes and the index's header, against the manifest and against each other;
2. pointers and document boundaries, entry by entry (``index_checks.py``);
3. both files in blocks of `CHECKSUM_BLOCK`: SHA-256 of each and of the whole, ids against the
   vocabulary, and the ends of documents.

The one idea: blocks are read once and looked at by several threads, since numpy and hashlib let go
of the interpreter; memory is that of the few blocks on their way.
"""

import fcntl
import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.data.index_checks import Finding, check_boundaries, check_header, check_pointers
from tst_megatron.data.index_file import IndexFile, bin_path, index_path, read_index
from tst_megatron.data.indexing.output import partial_folder
from tst_megatron.data.manifest import (
    CHECKSUM_BLOCK,
    FileRecord,
    Manifest,
    manifest_path,
    read_manifest,
)
from tst_megatron.errors import UserError


@dataclass(frozen=True)
class Verdict:
    """What a check of a corpus found.

    Attributes:
        findings: bad bytes, those of the index first, in the order of the file.
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


def leftovers(prefix: Path) -> list[str]:
    """What lies beside a corpus and is not part of it, in sentences."""
    folder = partial_folder(prefix)
    if not folder.is_dir():
        return []
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return [f"another process is writing {prefix} now: its unfinished files are in {folder}"]
    except OSError:
        pass
    return [
        f"{folder} holds what a builder of {prefix} left unfinished: the same command goes on "
        "from there, or remove it"
    ]


def check_there(prefix: Path) -> None:
    """Check that both files have their names.

    Raises:
        UserError: one has not.
    """
    for path in (index_path(prefix), bin_path(prefix)):
        if not path.is_file():
            unfinished = "".join(f"; {sentence}" for sentence in leftovers(prefix))
            raise UserError(f"the corpus {prefix} is missing: there is no file {path}{unfinished}")


def verify(
    prefix: Path,
    vocab_size: int | None = None,
    workers: int = 2,
    on_progress: Callable[[int], None] = lambda size: None,
) -> Verdict:
    """Check a corpus as far as its manifest, or without one its index, allows.

    Args:
        prefix: of the files.
        vocab_size: of the ids; None for the manifest's.
        workers: threads that look at blocks.
        on_progress: told of every number of bytes that has been read.

    Raises:
        UserError: the files are not there, or the manifest cannot be understood.
    """
    check_there(prefix)
    manifest = read_manifest(prefix)
    findings: list[Finding] = []
    index = _check_index(prefix, manifest, findings)
    blocks = _Blocks(workers, on_progress)
    unchecked, checked = [], ["sizes", "pointers and document boundaries"]
    if manifest is None:
        unchecked.append(f"checksums, since there is no {manifest_path(prefix)}")
    else:
        checked.append("SHA-256 of both files")
        findings += blocks.check(index_path(prefix), manifest.idx, _nothing, manifest_path(prefix))
    if index is not None:
        checks = _IdChecks.of(index, manifest, vocab_size, is_sound=not findings)
        checked += checks.in_words
        unchecked += checks.not_in_words
        check = checks.check
    else:
        unchecked.append("ids, since the index does not say what they are")
        check = _nothing
    if manifest is not None or check != _nothing:
        record = None if manifest is None else manifest.bin
        findings += blocks.check(bin_path(prefix), record, check, manifest_path(prefix))
    if index is not None and manifest is not None and not findings:
        findings += _check_manifest(prefix, index, manifest)
    return Verdict(
        sorted(findings, key=_order),
        None if index is None else index.num_documents,
        None if index is None else index.num_tokens,
        checked,
        unchecked,
    )


def _order(finding: Finding) -> tuple[bool, int, int]:
    """The index first; in a block of a file, the narrowest range first."""
    size = finding.end - finding.begin
    return finding.path.suffix != ".idx", finding.begin // CHECKSUM_BLOCK, size
