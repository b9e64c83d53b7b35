"""Plain text: a file is a document, or what stands between its blank lines is.

The one idea: a range of bytes has the documents that begin in it, so that ranges can be read apart
from each other and every document is read once.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tst_megatron.data.reading.batches import Bad, Batch, BrokenFile, DamagedError, UnusableError
from tst_megatron.data.reading.documents import decoded, document_checker, too_long
from tst_megatron.data.reading.inputs import InputFile
from tst_megatron.data.reading.options import ReadOptions
from tst_megatron.data.reading.streams import BYTE_ORDER_MARK, open_stream

BLOCK_BYTES = 1 << 20
_SPACE = b" \t\r\n"
_BACKWARDS_BYTES = 4096
# A line end and the blank lines after it: empty, or of nothing but spaces.
_SEPARATOR = re.compile(rb"\n(?:[ \t\r]*\n)+")
_BLANK_LINES = re.compile(rb"(?:[ \t\r]*\n)*")


def read_whole(file: InputFile, options: ReadOptions) -> Iterator[tuple[Batch, int]]:
    """Read a file that is one document, line ends as they are.

    Yields:
        One batch, and how much of the file has been read.

    Raises:
        BrokenFile: the file is damaged.
        OSError: it cannot be read.
    """
    limit = options.max_document_bytes
    pieces: list[bytes] = []
    num_bytes = 0
    try:
        with open_stream(file.path, file.compression) as stream:
            while num_bytes <= limit + len(BYTE_ORDER_MARK) and (block := stream.read(BLOCK_BYTES)):
                pieces.append(block)
                num_bytes += len(block)
    except DamagedError as error:
        raise BrokenFile(1, error.reason, error.detail) from None
    content = b"".join(pieces).removeprefix(BYTE_ORDER_MARK)
    pieces.clear()
    yield _batch([(1, content if len(content) <= limit else None)], 1, options), file.size


def read_between_blank_lines(
    file: InputFile, begin: int, end: int | None, options: ReadOptions
) -> Iterator[tuple[Batch, int]]:
    """Read the documents that begin in a range of bytes, each without the line end after it.

    Args:
        file: to read.
        begin: of the range.
        end: of the range; None for the end of the file.
        options: how long a document may be.

    Yields:
        Batches, and how much of the file has been read.

    Raises:
        BrokenFile: the file is damaged.
        OSError: it cannot be read.
    """
    first = _back_over_space(file.path, begin) if begin else 0
    splitter = _ParagraphSplitter(first, begin, end, options.max_document_bytes)
    line = 0
    try:
        with open_stream(file.path, file.compression, first) as stream:
            while not splitter.done:
                # As much as is held, at least, so that a long document is not searched over and
                # over.
                block = stream.read(max(BLOCK_BYTES, len(splitter.held)))
                if not block:
                    break
                found = splitter.feed(block)
                yield _batch(found, splitter.line - line, options), stream.tell()
                line = splitter.line
    except DamagedError as error:
        raise BrokenFile(splitter.line + 1, error.reason, error.detail) from None
    if not splitter.done:
        found = splitter.finish()
        yield _batch(found, splitter.line - line, options), file.size


def _batch(found: list[tuple[int, bytes | None]], lines: int, options: ReadOptions) -> Batch:
    """The documents that begin in the given lines, as text; None is one that is too long."""
    check, batch = document_checker(options), Batch(records=lines)
    for line, content in found:
        try:
            if content is None:
                raise too_long(options.max_document_bytes)
            document, num_bytes = check(decoded(content))
        except UnusableError as error:
            batch.bad.append(Bad(line, error.reason, error.detail))
        else:
            batch.documents.append(document)
            batch.text_bytes += num_bytes
    return batch


def _back_over_space(path: Path, begin: int) -> int:
    """Where the white space before ``begin`` begins, in bytes."""
    with path.open("rb", buffering=0) as file:
        while begin:
            size = min(begin, _BACKWARDS_BYTES)
            file.seek(begin - size)
            kept = len(file.read(size).rstrip(_SPACE))
            begin -= size - kept
            if kept:
                break
    return begin


class _ParagraphSplitter:
    """Cuts blocks of bytes into the documents between blank lines that begin in a range.

    Args:
        first: where the first block begins: at the beginning of the file, or within the document
            before the range's first, or the space after that.
        begin: of the range.
        end: of the range; None for the end of the file.
        limit: bytes of the longest document that is held.

    Attributes:
        held: bytes of what has not ended.
        line: of where the last document was found or ``held`` begins, from the first that begins in
            the range.
        done: whether no more documents begin in the range.
    """

    def __init__(self, first: int, begin: int, end: int | None, limit: int) -> None:
        self._position = first  # Of ``held`` in the file.
        self._begin, self._end, self._limit = begin, end, limit
        self._skips = first > 0  # All up to the next blank line.
        self._counted = max(0, begin - 1) - first  # Up to here in ``held``, line ends are counted.
        self.held = b""
        self.line = 0 if begin else 1
        self.done = False

    def feed(self, block: bytes) -> list[tuple[int, bytes | None]]:
        """The documents that end in a block, each with its line; None for one too long."""
        content = self.held = self.held + block
        found: list[tuple[int, bytes | None]] = []
        start = 0
        for blank in _SEPARATOR.finditer(content):
            if not self._skips:
                found += self._document(start, blank.start())
            self._skips, start = False, blank.end()
            self.done = self._end is not None and self._position + start >= self._end
            if self.done:
                break
        self._count_to(start)
        self._drop(start)
        if len(self.held) > self._limit:
            found += self._let_go()
        return found

    def finish(self) -> list[tuple[int, bytes | None]]:
        """The last document, which has no blank line after it."""
        stripped = self.held.rstrip(_SPACE)
        if self._skips or not stripped:
            return []
        line_end = self.held.find(b"\n", len(stripped))
        return self._document(0, len(self.held) if line_end < 0 else line_end)

    def _document(self, start: int, stop: int) -> list[tuple[int, bytes | None]]:
        """What stands from ``start`` to ``stop`` after blank lines, if it begins in the range."""
        start = self._after_blank_lines(start)
        position = self._position + start
        if start >= stop or position < self._begin:
            return []
        if self._end is not None and position >= self._end:
            return []
        self._count_to(start)
        if stop - start > self._limit + len(BYTE_ORDER_MARK):
            return [(self.line, None)]
        content = self.held[start:stop].removesuffix(b"\r")
        if position == 0 and content.startswith(BYTE_ORDER_MARK):
            content = content.removeprefix(BYTE_ORDER_MARK)
            if not content.strip(_SPACE):
                return []
        return [(self.line, content)]

    def _let_go(self) -> list[tuple[int, bytes | None]]:
        """Drop what is too long to be held, but a line end that may begin a blank line."""
        stripped = len(self.held.rstrip(_SPACE))
        found: list[tuple[int, bytes | None]] = []
        if not self._skips:
            if stripped - self._after_blank_lines(0) <= self._limit:
                return found
            found += self._document(0, stripped)
        self._skips = True
        line_end = self.held.find(b"\n", stripped)
        self._count_to(len(self.held) if line_end < 0 else line_end)
        self._drop(len(self.held))
        if line_end >= 0:
            self.held, self._position = b"\n", self._position - 1
        return found

    def _after_blank_lines(self, start: int) -> int:
        blank = _BLANK_LINES.match(self.held, start)
        return blank.end() if blank else start

    def _count_to(self, index: int) -> None:
        begin = max(0, self._counted)
        if index > begin:
            self.line += self.held.count(b"\n", begin, index)
            self._counted = index

    def _drop(self, size: int) -> None:
        self.held = self.held[size:]
        self._position += size
        self._counted -= size
