"""The bytes of a corpus, in blocks of `CHECKSUM_BLOCK`: their checksums as they are written, and
checksums, ids and ends of documents as they are checked.

The one idea: numpy and hashlib let go of the interpreter, so sums are made beside the writing, and
a block that is read once is looked at by one of several threads; memory is that of the few blocks
on their way.
"""

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.index_checks import Finding
from tst_megatron.corpora.index_file import IndexFile
from tst_megatron.corpora.manifest import CHECKSUM_BLOCK, FileRecord

type BlockCheck = Callable[[bytes, int], Finding | None]
"""Looks at a block of a file, given with its first byte's place; says what is wrong first."""


@dataclass(frozen=True)
class IdCheck:
    """A `BlockCheck` of token ids.

    Attributes:
        path: of the ``.bin`` file.
        dtype: of its ids, an integer type.
        vocab_size: ids are below it.
        eod: the id that every document ends with; None for any.
        index: with pointers known to be right, says which document an id is of; None otherwise.
    """

    path: Path
    dtype: np.dtype[np.generic]
    vocab_size: int
    eod: int | None
    index: IndexFile | None

    def __call__(self, data: bytes, begin: int) -> Finding | None:
        """The first id of a block that cannot be."""
        # Negative ids become the largest ones: one comparison finds both.
        unsigned = f"<u{self.dtype.itemsize}"
        ids = np.frombuffer(data, unsigned, len(data) // self.dtype.itemsize)
        # A block without such an id, which is almost every block, costs no array of flags.
        if int(ids.max(initial=0)) >= self.vocab_size:
            at = int((ids >= self.vocab_size).argmax())
            value = ids[at : at + 1].view(self.dtype)[0]
            return self._finding(
                begin, at, f"id {value}", f"is not in the vocabulary of {self.vocab_size}"
            )
        if self.eod is not None and self.index is not None:
            last = self._ends(begin, begin + len(data)) - 1
            wrong = ids[last] != self.eod
            if wrong.any():
                at = int(last[wrong.argmax()])
                return self._finding(
                    begin, at, f"id {ids[at]}", f"is its last, and not its end {self.eod}"
                )
        return None

    def _ends(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Where documents end in a block of bytes, in ids from its begin: above 0 and to its end.

        Only for corpora of one sequence a document, which those with a manifest are.
        """
        assert self.index is not None
        pointers = self.index.pointers
        # By bisection in Python: numpy would copy the array, which lies at an odd address.
        ends = pointers[bisect_right(pointers, begin) : bisect_right(pointers, end)]
        if len(pointers) and end == int(pointers[-1]) + int(self.index.lengths[-1]) * self.itemsize:
            ends = np.append(ends, end)
        return (ends.astype(np.int64) - begin) // self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of an id."""
        return self.dtype.itemsize

    def _finding(self, begin: int, at: int, what: str, why: str) -> Finding:
        begin += at * self.itemsize
        document = "" if self.index is None else f" of document {document_at(self.index, begin)}"
        return Finding(self.path, begin, begin + self.itemsize, f"{what}{document} {why}")


def document_at(index: IndexFile, offset: int) -> int:
    """The number, from 0, of the document that a byte of the ``.bin`` file belongs to."""
    sequence = bisect_right(index.pointers, offset) - 1
    return bisect_right(index.document_boundaries, sequence) - 1


def check_blocks(
    path: Path,
    record: FileRecord | None,
    check: BlockCheck | None,
    workers: int,
    on_progress: Callable[[int], None],
) -> list[Finding]:
    """Look at all blocks of a file; a finding for each that is bad.

    Args:
        path: of the file.
        record: its checksums; None where they are not known. Of a file that was cut short only the
            whole blocks are looked at, of one that has grown only what is recorded.
        check: what else is looked at; None for checksums alone.
        workers: threads.
        on_progress: told of every number of bytes that has been looked at.
    """
    size = actual = path.stat().st_size
    if record is not None and size != record.size:
        size = min(size // CHECKSUM_BLOCK * CHECKSUM_BLOCK, record.size)
    checksums = {} if record is None else dict(enumerate(record.block_sha256))

    def look(begin: int) -> tuple[bytes, Finding | None]:
        end = min(begin + CHECKSUM_BLOCK, size)
        try:
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(end - begin)
        except OSError as error:
            return b"", Finding(path, begin, end, f"they cannot be read: {error.strerror}")
        exact = None if check is None else check(data, begin)
        if record is None:
            return data, exact
        if hashlib.sha256(data).hexdigest() == checksums.get(begin // CHECKSUM_BLOCK):
            return data, exact
        if exact is None:
            return data, Finding(path, begin, end, "their SHA-256 is not the manifest's")
        reason = f"{exact.reason}; the SHA-256 of bytes {begin}-{end - 1} is not the manifest's"
        return data, Finding(path, exact.begin, exact.end, reason)

    findings = []
    whole = hashlib.sha256()
    with ThreadPoolExecutor(workers) as threads:
        for data, finding in _in_order(threads, look, range(0, size, CHECKSUM_BLOCK), workers + 1):
            if finding is not None:
                findings.append(finding)
            if record is not None:
                whole.update(data)
            on_progress(len(data))
    if (
        record is not None
        and not findings
        and size == actual
        and whole.hexdigest() != record.sha256
    ):
        reason = "every block is the manifest's and the SHA-256 of the whole file is not"
        findings.append(Finding(path, 0, size, f"{reason}: the manifest is wrong"))
    return findings


def _in_order[Made](
    threads: ThreadPoolExecutor, make: Callable[[int], Made], each: range, ahead: int
) -> Iterator[Made]:
    """What ``threads.map`` gives, with no more than ``ahead`` results waiting."""
    waiting: deque[Future[Any]] = deque()
    for one in each:
        waiting.append(threads.submit(make, one))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Checksum:
    """SHA-256 of a stream of bytes and of every `CHECKSUM_BLOCK` of it; a context manager.

    The two are made side by side, and beside the writing: hashlib lets go of the interpreter.
    """

    def __init__(self) -> None:
        self.size = 0
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._blocks: list[str] = []
        self._side = ThreadPoolExecutor(max_workers=2)

    def __enter__(self) -> "Checksum":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._side.shutdown()

    def update(
        self, data: bytes | memoryview, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """Take the next bytes, and do something else with them at the same time."""
        summing = [
            self._side.submit(self._whole.update, data),
            self._side.submit(self._update_blocks, memoryview(data).cast("B")),
        ]
        try:
            meanwhile()
        finally:
            wait(summing)

    def _update_blocks(self, data: memoryview) -> None:
        while len(data):
            room = CHECKSUM_BLOCK - self.size % CHECKSUM_BLOCK
            piece = data[:room]
            self._block.update(piece)
            self.size += len(piece)
            if len(piece) == room:
                self._blocks.append(self._block.hexdigest())
                self._block = hashlib.sha256()
            data = data[room:]

    def record(self) -> FileRecord:
        """The checksums of what was taken so far."""
        last = [self._block.hexdigest()] if self.size % CHECKSUM_BLOCK else []
        return FileRecord(self.size, self._whole.hexdigest(), [*self._blocks, *last])
