"""Forked workers, and what one does with a chunk of the inputs: read, check, encode, write a shard.

Workers are forked from the builder with everything they need, so only numbers of chunks and small
answers travel between processes; text and ids never do. Shards are given back in the order of the
chunks.
"""

import ctypes
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as StillWorkingError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.indexing.output import SHARD_SUFFIX
from tst_megatron.corpora.indexing.shards import (
    MAX_SKIPPED_LISTED,
    ShardSummary,
    ShardWriter,
    Skipped,
    write_shard,
)
from tst_megatron.corpora.reading.batches import (
    LEFT_OUT,
    NO_TOKENS,
    Bad,
    BrokenFile,
    DocumentBatch,
    sentence,
)
from tst_megatron.corpora.reading.chunks import (
    Chunk,
    Span,
    advice_on_fields,
    can_be_cut,
    read_span,
    records_before,
)
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.tokenizers.encoders import Encoded, Encoder
from tst_megatron.corpora.tokenizers.proof import differs
from tst_megatron.errors import UserError

# Of one document a chunk, checked once more against the reference: a thousandth of the work.
_CHECKED_CHARACTERS = 4_096
_SHOWN_EVERY_S = 0.2
_LOOKS_EVERY_S = 0.2

_NOT_ENCODABLE = "the document cannot be encoded"


class EncodersDifferError(Exception):
    """The fast encoder gives other ids than the reference; the message says for what."""


class StoppedError(Exception):
    """The builder wants no more of this chunk."""


@dataclass(frozen=True)
class Job:
    """What the chunks are made from, the same for all.

    Attributes:
        files: the inputs.
        options: how they are read.
        chunks: of them.
        encoder: text to ids.
        reference: the encoder whose ids are right by definition; None where it is the one in use.
        vocab_size: ids are below it.
        eod: put after every document; None for nothing.
        dtype: of the ids in the corpus.
        folder: for shards and temporary files.
        skips: leave bad records out, instead of stopping at the first.
    """

    files: list[InputFile]
    options: ReadOptions
    chunks: list[Chunk]
    encoder: Encoder
    reference: Encoder | None
    vocab_size: int
    eod: int | None
    dtype: np.dtype[np.generic]
    folder: Path
    skips: bool

    def shard(self, number: int) -> Path:
        """The file of a chunk's shard."""
        return self.folder / f"{number:06d}{SHARD_SUFFIX}"


@dataclass(frozen=True)
class Shared:
    """What builder and workers both see.

    The builder takes no lock of it: a worker may be killed with the lock held.

    Attributes:
        bytes_read: of the inputs, by all workers.
        stop: not 0 when the workers should stop.
    """

    bytes_read: "Synchronized[int]"
    stop: ctypes.c_byte


def make_shared() -> Shared:
    """Before the workers are forked."""
    context = multiprocessing.get_context("fork")
    return Shared(context.Value("q", 0), context.RawValue(ctypes.c_byte, 0))


_job: Job | None = None
_shared: Shared | None = None


def start_worker(job: Job, shared: Shared, builder: int) -> None:
    """What a worker does first: it ends with its builder, and leaves Ctrl-C to it.

    Args:
        job: what the chunks are made from.
        shared: with the builder.
        builder: its process id, which the worker may have outlived by now.
    """
    global _job, _shared
    _job, _shared = job, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(builder,), daemon=True).start()


def _end_with(builder: int) -> None:
    # Not Linux's PR_SET_PDEATHSIG, which comes too late if the builder was killed before it is set.
    while os.getppid() == builder:
        time.sleep(_LOOKS_EVERY_S)
    os._exit(1)


def write_chunk(number: int) -> None:
    """Write the shard of a chunk.

    Raises:
        UserError: a record is bad, and bad records are not skipped.
        EncodersDifferError: the fast encoder is not to be trusted with this corpus.
        StoppedError: the builder wants it no more.
        OSError: a file cannot be read or written.
    """
    assert _job is not None
    assert _shared is not None
    with write_shard(_job.shard(number)) as writer:
        for span in _job.chunks[number].spans:
            _SpanWriter(_job, _shared, span, writer).write()


class _SpanWriter:
    """Writes the documents of one span of an input into a shard."""

    def __init__(self, job: Job, shared: Shared, span: Span, writer: ShardWriter) -> None:
        self._job = job
        self._shared = shared
        self._span = span
        self._writer = writer
        self._summary = ShardSummary()
        self._documents = self._records = 0
        self._begun = span.begin > 0  # Whether the file has given a document.

    def write(self) -> None:
        number = str(self._span.file)
        if self._span.begin == 0:
            path = self._job.files[self._span.file].path
            self._summary.sha256_of_input[number] = sha256_of(path)
        try:
            for batch in read_span(
                self._job.files, self._span, self._job.options, self._job.folder
            ):
                if self._shared.stop.value:
                    raise StoppedError
                self._write_batch(batch)
                with self._shared.bytes_read.get_lock():
                    self._shared.bytes_read.value += batch.bytes_read
        except BrokenFile as broken:
            self._leave_out(broken)
        self._summary.documents_of_input[number] = self._documents
        self._summary.records_of_input[number] = self._records
        self._summary.documents = self._documents
        self._writer.summary.add(self._summary)

    def _write_batch(self, batch: DocumentBatch) -> None:
        self._summary.filtered += batch.filtered
        first = batch.numbers[0] if batch.numbers else None
        for bad in batch.bad:
            self._begun = self._begun or (first is not None and first < bad.record)
            self._leave_out(bad)
        self._begun = self._begun or first is not None
        encoded = self._encode(batch)
        self._check(batch.documents)
        for i in np.flatnonzero(encoded.lengths == 0):
            self._leave_out(Bad(batch.numbers[i], NO_TOKENS))
            if self._job.options.reads == "text":
                batch.text_bytes -= len(batch.documents[i].encode())
        tokens, lengths = with_ends(
            encoded.ids,
            encoded.lengths[encoded.lengths > 0],
            self._job.eod,
            self._job.vocab_size,
            self._job.dtype,
        )
        self._writer.append(tokens, lengths)
        self._documents += len(lengths)
        self._records += batch.records
        self._summary.tokens += len(tokens)
        self._summary.text_bytes += batch.text_bytes
        longest = int(lengths.max(initial=0))
        self._summary.longest_document = max(self._summary.longest_document, longest)

    def _encode(self, batch: DocumentBatch) -> Encoded:
        try:
            return self._job.encoder.encode(batch.documents)
        except ValueError:
            pass
        # One by one, to say which: this is about ids that were given as they are.
        good, numbers = [], []
        for document, number in zip(batch.documents, batch.numbers, strict=True):
            try:
                self._job.encoder.encode([document])
            except ValueError as error:
                self._leave_out(Bad(number, _NOT_ENCODABLE, str(error)))
            else:
                good.append(document)
                numbers.append(number)
        batch.documents[:], batch.numbers[:] = good, numbers
        return self._job.encoder.encode(good)

    def _check(self, documents: list[Any]) -> None:
        """Encode a piece of one document of the chunk with the reference as well."""
        # Not one of every span: they may be small files, and the reference is slow.
        checked = self._writer.summary.checked_documents + self._summary.checked_documents
        if self._job.reference is None or checked or not documents:
            return
        piece = documents[len(documents) // 2][:_CHECKED_CHARACTERS]
        if differs(self._job.encoder, self._job.reference, [piece]) is not None:
            path = self._job.files[self._span.file].path
            raise EncodersDifferError(f"it gives other ids for a document of {path}")
        self._summary.checked_documents += 1

    def _leave_out(self, bad: Bad | BrokenFile) -> None:
        what = sentence(bad)
        if bad.reason not in LEFT_OUT and not self._job.skips:
            raise UserError(f"{self._place(bad)}: {what}; {self._remedy(bad)}")
        why = bad.reason
        if isinstance(bad, BrokenFile):
            why += f", and {self._rest(bad)} was not read"
        self._summary.skipped[why] = self._summary.skipped.get(why, 0) + 1
        if len(self._summary.skipped_records) < MAX_SKIPPED_LISTED:
            self._summary.skipped_records.append(Skipped(self._span.file, bad.record, what))

    def _place(self, bad: Bad | BrokenFile) -> str:
        path = str(self._job.files[self._span.file].path)
        if not bad.record:  # Of a file that cannot be read at all there is none.
            return path
        before = records_before(self._job.files, self._span)
        return f"{path}, record {before + bad.record:,}"

    def _remedy(self, bad: Bad | BrokenFile) -> str:
        skipping = "leave such records out with --on-error skip"
        if isinstance(bad, BrokenFile):
            skipping = f"leave {self._rest(bad)} out with --on-error skip"
        if bad.has and not self._begun:
            # No slip of a record's: the flag names another field than the file has. What --where
            # has left out may have had it.
            advice = advice_on_fields(bad, self._job.options)
            return f"{advice}, or {skipping}" if self._summary.filtered else advice
        return f"repair it, or {skipping}"

    def _rest(self, broken: BrokenFile) -> str:
        """What is not read of a file that is broken."""
        if not broken.record:
            return "the file"
        file = self._job.files[self._span.file]
        is_cut = can_be_cut(file, self._job.options)
        return "the rest of its chunk" if is_cut else "the rest of the file"


def with_ends(
    ids: npt.NDArray[np.integer[Any]],
    lengths: npt.NDArray[np.int64],
    eod: int | None,
    vocab_size: int,
    dtype: np.dtype[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Ids as they are stored, with the end of every document after it.

    Args:
        ids: ``[tokens]`` of all documents.
        lengths: ``[documents]``, tokens of each.
        eod: the end of a document; None for nothing.
        vocab_size: ids are below it.
        dtype: of the corpus.

    Returns:
        ``[tokens + documents]`` of ``dtype`` and ``[documents]``, int32.

    Raises:
        RuntimeError: an id is not in the vocabulary: the encoder has it from somewhere else.
    """
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise RuntimeError(f"an encoder gave an id outside of its vocabulary of {vocab_size}")
    if eod is None:
        return ids.astype(dtype), lengths.astype(np.int32)
    ends = np.cumsum(lengths + 1) - 1
    out = np.empty(len(ids) + len(lengths), dtype)
    is_id = np.ones(len(out), bool)
    is_id[ends] = False
    out[is_id] = ids
    out[ends] = eod
    return out, (lengths + 1).astype(np.int32)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as it lies on the disk.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished_in_order(
    job: Job,
    numbers: Sequence[int],
    num_workers: int,
    on_progress: Callable[[int], None],
) -> Generator[int]:
    """Have the shards of chunks written; yields every number when its shard is whole.

    The first error in the order of the chunks ends it, whichever worker was the first to meet one.

    Args:
        job: what the chunks are made from.
        numbers: of the chunks.
        num_workers: processes.
        on_progress: told the bytes of input read so far.

    Raises:
        UserError: a record is bad, or a worker was killed.
        EncodersDifferError: the fast encoder is not to be trusted with this corpus.
        OSError: a file cannot be read or written.
    """
    if not numbers:
        return
    shared = make_shared()
    # Forked, for the tokenizer is loaded once and shared; the pool starts all of them at the first
    # chunk, before it has a thread of its own.
    pool = ProcessPoolExecutor(
        min(num_workers, len(numbers)),
        get_context("fork"),
        start_worker,
        (job, shared, os.getpid()),
    )
    try:
        futures = [pool.submit(write_chunk, number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            _wait(future, lambda: on_progress(shared.bytes_read.get_obj().value))
            yield number
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps because memory ran out: run the same command again, "
            "which goes on, with fewer --workers"
        ) from None
    finally:
        shared.stop.value = 1
        pool.shutdown(cancel_futures=True)


def _wait(future: "Future[None]", on_progress: Callable[[], None]) -> None:
    while True:
        on_progress()
        try:
            return future.result(timeout=_SHOWN_EVERY_S)
        except StillWorkingError:
            if future.done():
                # The work itself ran into a timeout.
                raise
