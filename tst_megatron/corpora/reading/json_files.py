"""JSON records: lines, or the elements of one array.

Steps: a range of the file is read a block at a time; each block, with what was left of the last
one, is cut into records, at line ends or at the commas of the array; each record is parsed,
filtered, and gives its document.

The one idea: what cuts needs to parse nothing. A range of bytes has the lines that begin in it, so
that ranges are read apart from each other; and where strings and brackets of an array begin and end
is found for a whole block at a time, as arrays of positions, so that an element that is bad is bad
alone.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import orjson

from tst_megatron.corpora.reading.batches import (
    Bad,
    BrokenFile,
    DamagedError,
    DocumentBatch,
    UnusableError,
)
from tst_megatron.corpora.reading.documents import ReadOptions, document_checker
from tst_megatron.corpora.reading.fields import field_reader, kind_of
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, Stream, block_size, open_stream

BLOCK_BYTES = 1 << 20
"""Read at a time: enough to be quick, and little enough to stay in a processor's cache."""
_END_BLOCK_BYTES = 64 << 10

_QUOTE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4
_SIGNS = {'"': _QUOTE, "[": _OPEN, "{": _OPEN, "]": _CLOSE, "}": _CLOSE, ",": _COMMA}
_SIGN_OF_BYTE = bytes(_SIGNS.get(chr(byte), 0) for byte in range(256))

Parser = Callable[[Sequence[bytes | None], int], DocumentBatch]


def json_parser(options: ReadOptions, one: str) -> Parser:
    """A function that parses records and gives their documents.

    It takes the records, None for one that is too long to be held, and the number of records that
    came before them.

    Args:
        options: what is a document.
        one: what a record is called.
    """
    read, check, where = field_reader(options.field), document_checker(options), options.where

    def parse(records: Sequence[bytes | None], number: int) -> DocumentBatch:
        batch = DocumentBatch(records=len(records))
        append, append_number, num_bytes = batch.documents.append, batch.numbers.append, 0
        for record_number, content in enumerate(records, number + 1):
            try:
                record = orjson.loads(content)  # type: ignore[arg-type]  # None fails as it should
                if type(record) is not dict:
                    raise UnusableError(f"not a JSON object but {kind_of(record)}")
                if where is not None and not where.of_record(record):
                    batch.filtered += 1
                    continue
                document, length = check(read(record))
                append(document)
                append_number(record_number)
                num_bytes += length
            except UnusableError as error:
                batch.bad.append(Bad.of(record_number, error))
            except orjson.JSONDecodeError as error:
                if content is None:
                    reason = f"the {one} is longer than {options.max_record_bytes:,} bytes"
                    batch.bad.append(Bad(record_number, reason))
                elif content.strip() or one != "line":
                    batch.bad.append(_not_json(record_number, content, error))
        batch.text_bytes = num_bytes
        return batch

    return parse


def _not_json(number: int, content: bytes, error: orjson.JSONDecodeError) -> Bad:
    try:
        content.decode()
    except UnicodeDecodeError as not_utf8:
        return Bad(number, "not valid UTF-8", f"byte {not_utf8.start + 1:,} of the record")
    return Bad(number, "not valid JSON", f"{error.msg}, character {error.pos + 1:,}")


def read_json_lines(
    file: InputFile, begin: int, end: int | None, options: ReadOptions
) -> Iterator[tuple[DocumentBatch, int]]:
    """Read the lines that begin in a range of bytes.

    Args:
        file: to read.
        begin: of the range.
        end: of the range; None for the end of the file.
        options: what is a document.

    Yields:
        Batches, and how much of the file has been read.

    Raises:
        BrokenFile: the file is damaged.
        OSError: it cannot be read.
    """
    parse, number = json_parser(options, "line"), 0
    splitter = _LineSplitter(options.max_record_bytes)
    try:
        with open_stream(file.path, file.compression, max(0, begin - 1)) as stream:
            for lines in _lines(stream, begin, end, splitter):
                if number == 0 == begin and lines and lines[0] is not None:
                    lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
                batch = parse(lines, number)
                number += len(lines)
                yield batch, stream.tell()
    except DamagedError as error:
        raise BrokenFile(number + 1, error.reason, error.detail) from None


class _LineSplitter:
    """Cuts blocks of bytes into lines; a line is not held beyond ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._too_long = False
        self.unfinished = b""

    def feed(self, block: bytes) -> list[bytes | None]:
        """The lines that end in a block, without their ends; None for one that is too long."""
        lines: list[bytes | None]
        if self._too_long:
            _, end, block = block.partition(b"\n")
            if not end:
                return []
        content = self.unfinished + block
        lines = [*content.split(b"\n")]
        self.unfinished = lines.pop() or b""
        if self._too_long:
            lines.insert(0, None)
        self._too_long = False
        if len(content) > self._limit:
            lines = [None if line is None or len(line) > self._limit else line for line in lines]
            if len(self.unfinished) > self._limit:
                self.unfinished, self._too_long = b"", True
        return lines

    def finish(self) -> list[bytes | None]:
        """The last line, if it has no end."""
        if self._too_long:
            return [None]
        return [self.unfinished] if self.unfinished else []


def _lines(
    stream: Stream, begin: int, end: int | None, splitter: _LineSplitter
) -> Iterator[list[bytes | None]]:
    """The lines that begin in a range: from the line end at ``begin - 1`` or after it on, up to
    that at ``end - 1`` or after it."""
    position, inside = max(0, begin - 1), begin == 0
    while end is None or position < end - 1:
        size = block_size(BLOCK_BYTES, len(splitter.unfinished))
        block = stream.read(size if end is None else min(size, end - 1 - position))
        if not block:
            yield splitter.finish()
            return
        position += len(block)
        if not inside:
            _, line_end, block = block.partition(b"\n")
            inside = bool(line_end)
        if block:
            yield splitter.feed(block)
    if not inside:
        return
    while block := stream.read(block_size(_END_BLOCK_BYTES, len(splitter.unfinished))):
        last, line_end, _ = block.partition(b"\n")
        yield splitter.feed(last + line_end)
        if line_end:
            return
    yield splitter.finish()


def read_json_array(file: InputFile, options: ReadOptions) -> Iterator[tuple[DocumentBatch, int]]:
    """Read the elements of an array.

    Yields:
        Batches, and how much of the file has been read.

    Raises:
        BrokenFile: it is damaged, no array, or has no end.
        OSError: it cannot be read.
    """
    parse, number = json_parser(options, "element"), 0
    splitter = _ElementSplitter(options.max_record_bytes)
    try:
        with open_stream(file.path, file.compression) as stream:
            while block := stream.read(block_size(BLOCK_BYTES, len(splitter.unfinished))):
                elements = splitter.feed(block)
                batch = parse(elements, number)
                number += len(elements)
                yield batch, stream.tell()
                if splitter.wrong is not None:
                    raise BrokenFile(number + 1, splitter.wrong)
    except DamagedError as error:
        raise BrokenFile(number + 1, error.reason, error.detail) from None
    if not splitter.ended:
        raise BrokenFile(number + 1, "the JSON array ends early")


class _ElementSplitter:
    """Cuts blocks of bytes into the elements of an array; one is not held beyond ``limit`` bytes.

    Attributes:
        unfinished: what is held of the last element.
        ended: whether the array has ended.
        wrong: what makes it no array; None if nothing does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begun = self._any = self._too_long = False
        # As the next byte finds them:
        self._depth, self._in_string, self._escaped = 1, False, False
        self.unfinished = b""
        self.ended = False
        self.wrong: str | None = None

    def feed(self, block: bytes) -> list[bytes | None]:
        """The elements that end in a block; None for one that is too long."""
        if not self._begun:
            block = block.removeprefix(BYTE_ORDER_MARK).lstrip()
            if not block:
                return []
            if not block.startswith(b"["):
                self.wrong = "not a JSON array"
                return []
            self._begun, block = True, block[1:]
        elements: list[bytes | None] = []
        begin = 0
        for end in [] if self.ended else self._ends(block):
            self._hold(block[begin:end])
            elements.append(None if self._too_long else self.unfinished.strip())
            self.unfinished, self._too_long = b"", False
            begin = end + 1
        if not self.ended:
            self._hold(block[begin:])
        elif block[begin:].strip():
            self.wrong = "something stands after the JSON array"
        if self.ended and not self._any and elements == [b""]:
            elements = []  # An array of none; a comma before its end would be a bad one.
        self._any = self._any or bool(elements)
        return elements

    def _hold(self, content: bytes) -> None:
        if self._too_long or len(self.unfinished) + len(content) > self._limit:
            self.unfinished, self._too_long = b"", True
        else:
            self.unfinished += content

    def _ends(self, block: bytes) -> list[int]:
        """Where elements end in a block: at commas of the array, and at its own bracket."""
        if self._escaped:
            block = b" " + block[1:]
        # Pairs from the left, so that what is left of a run escapes what comes after it.
        block = block.replace(rb"\\", b"  ")
        self._escaped = block.endswith(b"\\")
        signs = np.frombuffer(block.replace(rb"\"", b"  ").translate(_SIGN_OF_BYTE), np.uint8)
        positions = np.flatnonzero(signs != 0)
        signs = signs[positions]
        is_quote = signs == _QUOTE
        # An even number of quotes before it: outside of strings.
        outside = (np.cumsum(is_quote) + self._in_string) % 2 == 0
        self._in_string = bool((np.count_nonzero(is_quote) + self._in_string) % 2)
        outside &= ~is_quote
        positions, signs = positions[outside], signs[outside]
        steps = (signs == _OPEN).astype(np.int64) - (signs == _CLOSE)
        depths = self._depth + np.cumsum(steps)
        if len(depths):
            self._depth = int(depths[-1])
        closing = np.flatnonzero(depths == 0)
        if len(closing):
            self.ended = True
            positions, signs, depths = (
                values[: closing[0] + 1] for values in (positions, signs, depths)
            )
        ends = (depths == 0) | ((depths == 1) & (signs == _COMMA))
        return positions[ends].tolist()
