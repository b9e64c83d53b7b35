"""Several indexed corpora into one, in order.

The steps the corpora take:

1. all are looked at before anything is written: sizes, indices, dtypes, tokenizers;
2. their tokens are copied as bytes, never as ids, and their lengths with them; each is summed on
   its way and compared with its manifest, so that a bad copy gets no good checksum;
3. the index is written from the lengths, and the manifests are added up.

The one idea: Megatron's ``IndexedDatasetBuilder.add_index`` writes the same bytes, and holds the
lengths of all documents as Python ints; here nothing is held.
"""

import errno
import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tst_megatron.corpora.index_file import IndexFile, bin_path, index_path
from tst_megatron.corpora.indexing.output import Appending, CorpusOutput, corpus_output
from tst_megatron.corpora.indexing.shards import MAX_SKIPPED_LISTED
from tst_megatron.corpora.manifest import (
    FileRecord,
    Manifest,
    TokenizerRecord,
    manifest_path,
    tokenizer_folder,
)
from tst_megatron.corpora.verification import open_corpus
from tst_megatron.errors import UserError

_COPIED_BYTES = 8 << 20
_COPIED_LENGTHS = 1 << 20


@dataclass(frozen=True)
class Member:
    """One of the corpora.

    Attributes:
        prefix: path of its files without their endings.
        index: of it.
        manifest: of it; None if it has none.
        size: of its ``.bin`` file, in bytes.
    """

    prefix: Path
    index: IndexFile
    manifest: Manifest | None
    size: int


@dataclass(frozen=True)
class Merged:
    """What was written.

    Attributes:
        documents: in it.
        tokens: in it.
        without_manifest: corpora that have none, so that the merged one has none either.
        differing: names of settings that the corpora were indexed with, each with another value.
    """

    documents: int
    tokens: int
    without_manifest: list[Path]
    differing: list[str]


def open_parts(prefixes: Sequence[Path], output: Path) -> list[Member]:
    """Look at the corpora, and check that they can become one.

    Raises:
        UserError: one is missing or bad, or two do not go together.
    """
    for prefix in prefixes:
        if prefix.resolve() == output.resolve():
            raise UserError(f"--output {output} is one of the corpora: give it another name")
    parts = [_open(prefix) for prefix in prefixes]
    for part in parts[1:]:
        _check_agree(parts[0], part)
    return parts


def _open(prefix: Path) -> Member:
    index, manifest = open_corpus(prefix)
    if _has_more_than_documents(index):
        raise UserError(
            f"the corpus {prefix} has several sequences a document, or modes, which data for GPT "
            "have not: merge it with Megatron-LM's tools/merge_datasets.py"
        )
    return Member(prefix, index, manifest, bin_path(prefix).stat().st_size)


def _has_more_than_documents(index: IndexFile) -> bool:
    has_modes = index.path.stat().st_size > index.end
    return has_modes or len(index.document_boundaries) != len(index.lengths) + 1


def _check_agree(first: Member, other: Member) -> None:
    """Check that two corpora go together.

    Raises:
        UserError: they do not.
    """

    def differ(what: str, ours: Any, theirs: Any) -> UserError:
        return UserError(
            f"{first.prefix} and {other.prefix} cannot be one corpus: their {what} differ, {ours} "
            f"and {theirs}"
        )

    if first.index.dtype != other.index.dtype:
        raise differ("dtypes", first.index.dtype, other.index.dtype)
    if first.manifest is None or other.manifest is None:
        return
    ours, theirs = first.manifest.tokenizer, other.manifest.tokenizer
    for what, name in (
        ("tokenizers (by SHA-256)", "sha256"),
        ("kinds of tokenizers", "kind"),
        ("vocabulary sizes", "vocab_size"),
        ("ends of documents", "eod"),
    ):
        if getattr(ours, name) != getattr(theirs, name):
            raise differ(what, getattr(ours, name), getattr(theirs, name))


def merge(
    parts: Sequence[Member],
    output: Path,
    on_progress: Callable[[int], None] = lambda size: None,
) -> Merged:
    """Write the corpora as one. What was begun before by a merge that was killed is written anew.

    Args:
        parts: in order, from `open_parts`.
        output: path of the new files without their endings.
        on_progress: told of every number of bytes of tokens that is copied.

    Raises:
        UserError: files of that name are there, or being written; one of the corpora is not what
            its manifest says; or the disk is full.
    """
    with corpus_output(output) as made:
        if (made.folder / "plan.json").exists():
            raise UserError(
                f"{made.folder} is an index build that is not finished: finish it, remove the "
                "folder, or give another --output"
            )
        made.clear()
        try:
            return _write(parts, made, on_progress)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            size = sum(part.size + index_path(part.prefix).stat().st_size for part in parts)
            raise UserError(
                f"the disk of {output} is full, and the merged corpus has {size:,} bytes: free "
                "some space and merge again"
            ) from None
        finally:
            if made.folder.exists():
                made.clear()


def _write(
    parts: Sequence[Member], made: CorpusOutput, on_progress: Callable[[int], None]
) -> Merged:
    dtype = parts[0].index.dtype
    with made.appending(dtype) as appending:
        for part in parts:
            _append(part, appending, on_progress)
        appending.sync({})
        tokens = appending.record()
    manifests = [part.manifest for part in parts if part.manifest is not None]
    without = [part.prefix for part in parts if part.manifest is None]
    differing: list[str] = []
    if without:
        made.finish(dtype, tokens, lambda bin, idx: None)
    else:
        differing = _differing_settings(manifests)
        folder = _copy_tokenizer(parts[0], made)
        made.finish(dtype, tokens, lambda bin, idx: _added(manifests, differing, folder, bin, idx))
    return Merged(
        sum(part.index.num_documents for part in parts),
        tokens.size // dtype.itemsize,
        without,
        differing,
    )


def _append(part: Member, appending: Appending, on_progress: Callable[[int], None]) -> None:
    """Append one corpus.

    Raises:
        UserError: its bytes are not those that its index or manifest are of.
    """
    whole, size = hashlib.sha256(), 0
    with ThreadPoolExecutor(1) as side, bin_path(part.prefix).open("rb", buffering=0) as file:
        while block := file.read(_COPIED_BYTES):
            summing = side.submit(whole.update, block) if part.manifest is not None else None
            appending.tokens(block)
            if summing is not None:
                summing.result()
            size += len(block)
            on_progress(len(block))
    is_other = part.manifest is not None and part.manifest.bin.sha256 != whole.hexdigest()
    if is_other or size != part.size:
        raise UserError(
            f"the corpus {part.prefix} is bad, or was changed while it was read: tst-megatron "
            f"index verify {part.prefix} says where"
        )
    for begin in range(0, len(part.index.lengths), _COPIED_LENGTHS):
        appending.lengths(part.index.lengths[begin : begin + _COPIED_LENGTHS])


def _copy_tokenizer(part: Member, made: CorpusOutput) -> str | None:
    """The name that the tokenizer's folder will have; None if there is none."""
    assert part.manifest is not None
    if part.manifest.tokenizer.folder is None:
        return None
    source = part.prefix.parent / part.manifest.tokenizer.folder
    if not source.is_dir():
        raise UserError(
            f"{manifest_path(part.prefix)} names the tokenizer {source}, and there is no such "
            "folder: put it back"
        )
    shutil.copytree(source, made.tokenizer_folder)
    return tokenizer_folder(made.prefix).name


def _differing_settings(manifests: Sequence[Manifest]) -> list[str]:
    every = [one.settings for one in manifests]
    names = dict.fromkeys(name for settings in every for name in settings)
    values = {name: [settings.get(name) for settings in every] for name in names}
    return [name for name in names if values[name] != values[name][:1] * len(every)]


def _added(
    manifests: Sequence[Manifest],
    differing: Sequence[str],
    folder: str | None,
    bin: FileRecord,
    idx: FileRecord,
) -> Manifest:
    """The manifest of the merged corpus; settings that differ are left out of it."""
    first = manifests[0]
    skipped: dict[str, int] = {}
    versions: dict[str, str] = {}
    for one in manifests:
        for reason, count in one.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
        for package, version in one.versions.items():
            versions[package] = _joined(versions.get(package), version)
    records = [record for one in manifests for record in one.skipped_records]
    return Manifest(
        inputs=[record for one in manifests for record in one.inputs],
        left_out=[record for one in manifests for record in one.left_out],
        settings={name: v for name, v in first.settings.items() if name not in differing},
        tokenizer=_added_tokenizer([one.tokenizer for one in manifests], folder),
        dtype=first.dtype,
        documents=sum(one.documents for one in manifests),
        tokens=sum(one.tokens for one in manifests),
        text_bytes=sum(one.text_bytes for one in manifests),
        longest_document=max(one.longest_document for one in manifests),
        filtered=sum(one.filtered for one in manifests),
        skipped=skipped,
        skipped_records=records[:MAX_SKIPPED_LISTED],
        versions=versions,
        bin=bin,
        idx=idx,
    )


def _added_tokenizer(records: Sequence[TokenizerRecord], folder: str | None) -> TokenizerRecord:
    encoder, fell_back = None, None
    for record in records:
        encoder = _joined(encoder, record.encoder)
        if record.fell_back is not None:
            fell_back = _joined(fell_back, record.fell_back)
    return replace(
        records[0],
        folder=folder,
        encoder=encoder or "",
        checked_documents=sum(record.checked_documents for record in records),
        fell_back=fell_back,
    )


def _joined(before: str | None, text: str) -> str:
    """Both, where they are not the same."""
    if before is None or text in before.split("; "):
        return before or text
    return f"{before}; {text}"
