"""Plain text: a file is a document, or what stands between its blank lines is.

The one idea: a range of bytes has the documents that begin in it, so that ranges can be read apart
from each other and every document is read once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

from tst_megatron.corpora.reading.batches import (
    NO_TEXT,
    Bad,
    BrokenFile,
    DamagedError,
    DocumentBatch,
    UnusableError,
)
from tst_megatron.corpora.reading.documents import ReadOptions, decoded, document_checker, too_long
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, block_size, open_stream

BLOCK_BYTES = 1 << 20
_SPACE = b" \t\r\n"
_BACKWARDS_BYTES = 4096
# A line end and the blank lines after it: empty, or of nothing but spaces.
_SEPARATOR = re.compile(rb"\n(?:[ \t\r]*\n)+")
# In parentheses, so that splitting gives what stands between the documents as well.
_TEXT_SEPARATOR = re.compile(f"({_SEPARATOR.pattern.decode()})")
_BLANK_LINES = re.compile(rb"(?:[ \t\r]*\n)*")
_MOST_BYTES_OF_CHARACTER = 4


def read_whole(file: InputFile, options: ReadOptions) -> Iterator[tuple[DocumentBatch, int]]:
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
    batch = DocumentBatch(records=1)
    if content:
        _add(1, content if len(content) <= limit else None, options, batch)
    else:
        batch.bad.append(Bad(1, NO_TEXT))
    yield batch, file.size


def read_between_blank_lines(
    file: InputFile, begin: int, end: int | None, options: ReadOptions
) -> Iterator[tuple[DocumentBatch, int]]:
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
    splitter = _RegionSplitter(first, begin, end, options.max_document_bytes)
    line = 0
    try:
        with open_stream(file.path, file.compression, first) as stream:
            while not splitter.done:
                block = stream.read(block_size(BLOCK_BYTES, len(splitter.held)))
                regions = splitter.feed(block) if block else splitter.finish()
                yield _batch(regions, splitter.line - line, options), stream.tell()
                line = splitter.line
    except DamagedError as error:
        raise BrokenFile(max(1, splitter.line), error.reason, error.detail) from None


@dataclass(frozen=True)
class _Region:
    """Documents and the blank lines between them.

    Attributes:
        line: that it begins in, from the first that begins in the range.
        content: the bytes; None for a document that is too long to be held.
    """

    line: int
    content: bytes | None


def _batch(regions: list[_Region], lines: int, options: ReadOptions) -> DocumentBatch:
    """The documents of regions that have so many lines."""
    batch = DocumentBatch(records=lines)
    for region in regions:
        if not _add_all(region, options, batch):
            _add_one_by_one(region, options, batch)
    return batch


def _add_all(region: _Region, options: ReadOptions, batch: DocumentBatch) -> bool:
    """Add the documents of a region at once, if there is nothing wrong with any."""
    if region.content is None:
        return False
    try:
        text = region.content.decode()
    except UnicodeDecodeError:
        return False
    pieces = _TEXT_SEPARATOR.split(text)
    lines = accumulate((piece.count("\n") for piece in pieces), initial=region.line)
    found = [one for one in zip(pieces[::2], list(lines)[::2], strict=False) if one[0]]
    documents = [document for document, _ in found]
    if "\r" in text:
        documents = [document.removesuffix("\r") for document in documents]
    lengths = list(map(len, documents))
    if max(lengths, default=0) * _MOST_BYTES_OF_CHARACTER > options.max_document_bytes:
        return False
    batch.documents += documents
    batch.numbers += [line for _, line in found]
    if options.reads == "text":
        # All that is not in a document is ASCII.
        batch.text_bytes += len(region.content) - (len(text) - sum(lengths))
    return True


def _add_one_by_one(region: _Region, options: ReadOptions, batch: DocumentBatch) -> None:
    content, begin, line = region.content, 0, region.line
    if content is None:
        _add(line, None, options, batch)
        return
    for blank in chain(_SEPARATOR.finditer(content), [None]):
        stop, next_begin = blank.span() if blank else (len(content), len(content))
        if begin < stop:
            _add(line, content[begin:stop].removesuffix(b"\r"), options, batch)
        line += content.count(b"\n", begin, next_begin)
        begin = next_begin


def _add(line: int, content: bytes | None, options: ReadOptions, batch: DocumentBatch) -> None:
    """Add a document that begins in a line; None for one that is too long to be held."""
    try:
        if content is None:
            raise too_long(options.max_document_bytes)
        document, num_bytes = document_checker(options)(decoded(content))
    except UnusableError as error:
        batch.bad.append(Bad.of(line, error))
    else:
        batch.documents.append(document)
        batch.numbers.append(line)
        batch.text_bytes += num_bytes


def _back_over_space(path: Path, begin: int) -> int:
    """Where the white space before ``begin`` begins, in bytes; a byte order mark is part of it."""
    mark = len(BYTE_ORDER_MARK)
    with path.open("rb", buffering=0) as file:
        while begin:
            size = min(begin, _BACKWARDS_BYTES)
            file.seek(begin - size)
            kept = len(file.read(size).rstrip(_SPACE))
            begin -= size - kept
            if kept:
                break
        file.seek(0)
        return 0 if begin <= mark and file.read(mark) == BYTE_ORDER_MARK else begin


class _RegionSplitter:
    """Cuts blocks of bytes, at blank lines, into the documents that begin in a range.

    Args:
        first: where the first block begins: at the beginning of the file, or within the document
            before the range's first, or the space after that.
        begin: of the range.
        end: of the range; None for the end of the file.
        limit: bytes of the longest document that is held.

    Attributes:
        held: bytes of what has not ended.
        line: that ``held`` begins in, from the first that begins in the range.
        done: whether no more documents begin in the range.
    """

    def __init__(self, first: int, begin: int, end: int | None, limit: int) -> None:
        self._position = first  # Of ``held`` in the file.
        self._begin, self._end, self._limit = begin, end, limit
        self._skips = first > 0  # All up to the next blank line.
        self._uncounted = max(0, begin - 1) - first  # Bytes before lines are counted.
        self.held = b""
        self.line = 0 if begin else 1
        self.done = False

    def feed(self, block: bytes) -> list[_Region]:
        """The documents that end in a block, after those before it."""
        self.held += block
        if self._position == 0 and BYTE_ORDER_MARK.startswith(self.held[: len(BYTE_ORDER_MARK)]):
            if len(self.held) < len(BYTE_ORDER_MARK):
                return []
            self._drop(len(BYTE_ORDER_MARK))
        if self._skips and not self._skip():
            return []
        self._drop(_blank_lines(self.held))
        if self._position < self._begin:  # Its first line begins there, with spaces.
            self._skips = bool(self.held.strip(_SPACE))
            return self.feed(b"") if self._skips else []
        if self._is_at_end():
            return []
        regions = []
        if stop := self._stop():
            regions.append(self._take(stop))
        self._drop(_blank_lines(self.held))
        if not self._is_at_end() and len(self.held.rstrip(_SPACE)) > self._limit:
            regions.append(_Region(self.line, None))
            self._skips = True
            self._let_go()
        return regions

    def finish(self) -> list[_Region]:
        """The last document, which has no blank line after it."""
        self._drop(_blank_lines(self.held))
        stop = len(self.held.rstrip(_SPACE))
        line_end = self.held.find(b"\n", stop)
        wanted = stop and not self._skips and self._position >= self._begin
        regions = []
        if wanted and not self._is_at_end():
            regions.append(self._take(len(self.held) if line_end < 0 else line_end))
        self._drop(len(self.held))
        self.done = True
        return regions

    def _stop(self) -> int:
        """Where the last blank line ends that is held, or the first after the end of the range."""
        if self._end is not None and self._position + len(self.held) >= self._end:
            for blank in _SEPARATOR.finditer(self.held):
                if self._position + blank.end() >= self._end:
                    return blank.end()
        end = self.held.rfind(b"\n")
        while (before := self.held.rfind(b"\n", 0, max(0, end))) >= 0:
            if not self.held[before + 1 : end].strip(_SPACE):
                return end + 1
            end = before
        return 0

    def _take(self, stop: int) -> _Region:
        region = _Region(self.line, self.held[:stop])
        self._drop(stop)
        return region

    def _is_at_end(self) -> bool:
        """Whether what is held begins after the range."""
        self.done = self._end is not None and self._position >= self._end
        return self.done

    def _skip(self) -> bool:
        """Drop what is held up to the first blank line; whether there is one."""
        blank = _SEPARATOR.search(self.held)
        if blank is None:
            self._let_go()
            return False
        self._drop(blank.end())
        self._skips = False
        return True

    def _let_go(self) -> None:
        """Drop all that is held, but a line end that may be before a blank line."""
        line_end = self.held.find(b"\n", len(self.held.rstrip(_SPACE)))
        self._drop(len(self.held) if line_end < 0 else line_end)

    def _drop(self, size: int) -> None:
        begin = max(0, self._begin - 1 - self._position)
        self.line += self.held.count(b"\n", begin, max(begin, size))
        self._position += size
        self.held = self.held[size:]


def _blank_lines(content: bytes) -> int:
    """Bytes of the blank lines that content begins with."""
    blank = _BLANK_LINES.match(content)
    return blank.end() if blank else 0
