"""Corpora written with Megatron's builder, and the manifests that belong to them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from tst_megatron.corpora.blocks import Checksum
from tst_megatron.corpora.index_file import bin_path, index_path, read_index
from tst_megatron.corpora.manifest import (
    FileRecord,
    InputRecord,
    LeftOutRecord,
    Manifest,
    TokenizerRecord,
    write_manifest,
)

EOD = 3


def write_corpus(
    prefix: Path,
    documents: Sequence[Any],
    dtype: Any = np.uint16,
    sequences: Sequence[Sequence[int]] | None = None,
) -> Path:
    """A corpus of given ids, lists or arrays.

    Args:
        sequences: lengths that each document is cut into; one sequence each without it.
    """
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for number, document in enumerate(documents):
        lengths = [len(document)] if sequences is None else list(sequences[number])
        builder.add_document(torch.as_tensor(document, dtype=torch.int64), lengths)
    builder.finalize(f"{prefix}.idx")
    return prefix


def random_documents(
    number: int, vocab_size: int = 500, seed: int = 0, longest: int = 60
) -> list[list[int]]:
    """Ids of documents of many lengths, each ended by `EOD`, which is nowhere else."""
    rng = np.random.default_rng(seed)
    return [
        [*rng.integers(EOD + 1, vocab_size, size=length).tolist(), EOD]
        for length in rng.integers(1, longest, size=number)
    ]


def record_of(path: Path) -> FileRecord:
    """The checksums of a file."""
    with Checksum() as checksum:
        checksum.update(path.read_bytes())
    return checksum.record()


def write_its_manifest(prefix: Path, vocab_size: int = 500, **changes: Any) -> Manifest:
    """The manifest that `index build` would have written of a corpus."""
    index = read_index(prefix)
    values: dict[str, Any] = {
        "inputs": [InputRecord(f"{prefix.name}.jsonl", 1000, "0" * 64, index.num_documents)],
        "left_out": [LeftOutRecord(prefix.name, {".pdf": 3})],
        "settings": {"append_eod": True, "eod": EOD, "field": "text"},
        "tokenizer": TokenizerRecord(
            kind="null",
            folder=None,
            sha256=hashlib.sha256(b"null").hexdigest(),
            vocab_size=vocab_size,
            eod=EOD,
            megatron_flags=["--tokenizer-type=NullTokenizer"],
            encoder="ids 1",
            checked_documents=0,
            fell_back=None,
        ),
        "dtype": index.dtype.name,
        "documents": index.num_documents,
        "tokens": index.num_tokens,
        "text_bytes": 4 * index.num_tokens,
        "longest_document": int(index.lengths.max(initial=0)),
        "filtered": 1,
        "skipped": {"not JSON": 2},
        "skipped_records": [],
        "versions": {"python": "3"},
        "bin": record_of(bin_path(prefix)),
        "idx": record_of(index_path(prefix)),
    }
    manifest = Manifest(**values | changes)
    write_manifest(prefix, manifest)
    return manifest
