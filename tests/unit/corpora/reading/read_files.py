"""Files of every format and compression, made from documents."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tst_megatron.corpora.reading.batches import BrokenFile, DocumentBatch
from tst_megatron.corpora.reading.chunks import cut, read_span, records_before
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import find_inputs


def table(documents: Sequence[str | None]) -> pa.Table:
    return pa.table({"id": list(range(len(documents))), "text": pa.array(documents, pa.string())})


def jsonl(documents: Sequence[str]) -> bytes:
    return b"".join(json.dumps({"text": one}).encode() + b"\n" for one in documents)


def json_array(documents: Sequence[str]) -> bytes:
    return json.dumps([{"text": one} for one in documents], indent=1, ensure_ascii=False).encode()


def parquet(documents: Sequence[str], **options: object) -> bytes:
    content = io.BytesIO()
    pq.write_table(table(documents), content, **{"row_group_size": 2, **options})
    return content.getvalue()


def arrow_stream(documents: Sequence[str]) -> bytes:
    content = io.BytesIO()
    with pa.ipc.new_stream(content, table(documents).schema) as writer:
        writer.write_table(table(documents), max_chunksize=2)
    return content.getvalue()


def arrow_file(documents: Sequence[str]) -> bytes:
    content = io.BytesIO()
    with pa.ipc.new_file(content, table(documents).schema) as writer:
        writer.write_table(table(documents), max_chunksize=2)
    return content.getvalue()


def separated(documents: Sequence[str], delimiter: str) -> bytes:
    content = io.StringIO()
    writer = csv.writer(content, delimiter=delimiter)
    writer.writerows([("id", "text"), *enumerate(documents)])
    return content.getvalue().encode()


def lz4(content: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "lz4") as stream:
        stream.write(content)
    return packed.getvalue().to_pybytes()


def paragraphs(documents: Sequence[str]) -> bytes:
    return "\n\n".join(documents).encode() + b"\n"


FORMATS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "jsonl": jsonl,
    "json": json_array,
    "parquet": parquet,
    "arrow": arrow_stream,
    "feather": arrow_file,
    "txt": paragraphs,
    "csv": lambda documents: separated(documents, ","),
    "tsv": lambda documents: separated(documents, "\t"),
}

# Of two members, frames or streams each, which every tool must read as one.
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content[:50]) + gzip.compress(content[50:]),
    ".bz2": lambda content: bz2.compress(content[:50]) + bz2.compress(content[50:]),
    ".xz": lambda content: lzma.compress(content[:50]) + lzma.compress(content[50:]),
    ".zst": lambda content: zstandard.compress(content[:50]) + zstandard.compress(content[50:]),
    ".lz4": lambda content: lz4(content[:50]) + lz4(content[50:]),
}


class Read:
    """All that reading some files gives, in chunks of a size.

    Attributes:
        documents: of all spans.
        numbers: the records that they are of, from the beginning of their file.
        bad: (record, reason, detail) of all spans, records from the beginning of their file.
        broken: the same of what ended a span.
        batches: of all spans.
        read: bytes of each file.
        num_chunks: that there were.
    """

    def __init__(
        self,
        specs: Sequence[Path | str],
        options: ReadOptions | None = None,
        target_bytes: int = 1 << 20,
        scratch: Path = Path("/nowhere"),
        format: str | None = None,
    ) -> None:
        options = options or ReadOptions()
        self.files = find_inputs([str(spec) for spec in specs], format).files
        self.batches: list[DocumentBatch] = []
        self.numbers: list[int] = []
        self.bad: list[tuple[int, str, str]] = []
        self.broken: list[tuple[int, str, str]] = []
        self.read = [0] * len(self.files)
        chunks = cut(self.files, options, target_bytes)
        self.num_chunks = len(chunks)
        for one in (one for chunk in chunks for one in chunk.spans):
            before = records_before(self.files, one)
            try:
                for batch in read_span(self.files, one, options, scratch):
                    self.batches.append(batch)
                    self.read[one.file] += batch.bytes_read
                    assert len(batch.numbers) == len(batch.documents)
                    self.numbers += [before + number for number in batch.numbers]
                    self.bad += [(before + b.record, b.reason, b.detail) for b in batch.bad]
            except BrokenFile as error:
                self.broken.append((before + error.record, error.reason, error.detail))

    @property
    def documents(self) -> list[object]:
        return [document for batch in self.batches for document in batch.documents]
