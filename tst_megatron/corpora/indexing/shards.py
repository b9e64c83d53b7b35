"""A shard: the tokens of one chunk of the inputs, in a file that is whole or not there.

Layout: tokens, lengths (int32), a JSON text of `ShardSummary`, and the text's size (uint64). What
is known last stands last, so that a shard is written as its chunk is read.
"""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.reading.batches import LEFT_OUT
from tst_megatron.files import replace_when_whole

_SIZE = struct.Struct("<Q")

MAX_SKIPPED_LISTED = 1000
"""Skipped records that are listed one by one; all of them are counted."""


@dataclass(frozen=True)
class Skipped:
    """A record that is left out.

    Attributes:
        input: number of its file.
        record: its number in the file, from 1, counted from where the summary begins.
        reason: what is wrong with it.
    """

    input: int
    record: int
    reason: str


@dataclass
class ShardSummary:
    """What a shard adds to the manifest; sums of shards are what several add.

    Attributes:
        tokens: with the ends of documents.
        text_bytes: UTF-8 bytes of the documents.
        longest_document: tokens of it.
        filtered: records that ``--where`` left out.
        checked_documents: encoded by the reference as well, to the same ids.
        documents_of_input: documents of every input, by its number as a string.
        records_of_input: likewise, with those that are left out.
        sha256_of_input: of the inputs that begin in this shard, by number.
        skipped: records left out, by reason.
        skipped_records: the first `MAX_SKIPPED_LISTED` of them.
    """

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    longest_document: int = 0
    filtered: int = 0
    checked_documents: int = 0
    documents_of_input: dict[str, int] = field(default_factory=dict)
    records_of_input: dict[str, int] = field(default_factory=dict)
    sha256_of_input: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_records: list[Skipped] = field(default_factory=list)

    def add(self, other: "ShardSummary") -> None:
        """Add what comes next: records are then counted from where this begins."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.text_bytes += other.text_bytes
        self.longest_document = max(self.longest_document, other.longest_document)
        self.filtered += other.filtered
        self.checked_documents += other.checked_documents
        room = MAX_SKIPPED_LISTED - len(self.skipped_records)
        for skipped in other.skipped_records[:room]:
            before = self.records_of_input.get(str(skipped.input), 0)
            self.skipped_records.append(replace(skipped, record=before + skipped.record))
        for mine, theirs in (
            (self.documents_of_input, other.documents_of_input),
            (self.records_of_input, other.records_of_input),
            (self.skipped, other.skipped),
        ):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        self.sha256_of_input |= other.sha256_of_input

    @property
    def has_bad(self) -> bool:
        """Whether a record was left out that would have stopped a build without ``skips``."""
        return any(reason not in LEFT_OUT for reason in self.skipped)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """From a file."""
        records = [Skipped(**one) for one in content["skipped_records"]]
        return cls(**content | {"skipped_records": records})


class ShardWriter:
    """Writes one shard as its documents come."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._lengths: list[npt.NDArray[np.int32]] = []
        self.summary = ShardSummary()

    def append(self, tokens: npt.NDArray[Any], lengths: npt.NDArray[np.int32]) -> None:
        """Append documents: ``[tokens]`` of the corpus's dtype and ``[documents]`` lengths.

        Raises:
            OSError: the disk is full.
        """
        self._file.write(memoryview(tokens).cast("B"))
        self._lengths.append(lengths)

    def finish(self) -> None:
        """Write what is known last.

        Raises:
            OSError: the disk is full.
        """
        for lengths in self._lengths:
            self._file.write(memoryview(lengths))
        text = json.dumps(self.summary.as_json()).encode()
        self._file.write(text + _SIZE.pack(len(text)))


@contextmanager
def write_shard(path: Path) -> Iterator[ShardWriter]:
    """Write a shard; it has its name when what is inside has ended well.

    Raises:
        OSError: the disk is full.
    """
    with replace_when_whole(path) as file:
        writer = ShardWriter(file)
        yield writer
        writer.finish()


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        summary: of what it holds.
        lengths: ``[documents]``, int32.
        token_bytes: at the beginning of the file.
    """

    path: Path
    summary: ShardSummary
    lengths: npt.NDArray[np.int32]
    token_bytes: int


def read_shard(path: Path, itemsize: int) -> Shard:
    """Open a finished shard, whose tokens have ``itemsize`` bytes each.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(-_SIZE.size, os.SEEK_END)
        (text_size,) = _SIZE.unpack(file.read(_SIZE.size))
        file.seek(-_SIZE.size - text_size, os.SEEK_END)
        summary = ShardSummary.from_json(json.loads(file.read(text_size)))
        token_bytes = summary.tokens * itemsize
        file.seek(token_bytes)
        lengths = np.frombuffer(file.read(summary.documents * 4), np.int32)
    return Shard(path, summary, lengths, token_bytes)
