"""JSON lines: blocks of bytes, cut at line ends, parsed line by line.

Steps: a range of the file is read a block at a time; each block, with what was left of the last
one, is split at its line ends; each line is parsed, filtered, and gives its document.

The one idea: a range of bytes has the lines that begin in it, so that ranges can be read apart from
each other and every line is read once.
"""

from collections.abc import Callable, Iterator, Sequence

import orjson

from tst_megatron.corpora.reading.batches import Bad, Batch, BrokenFile, DamagedError, UnusableError
from tst_megatron.corpora.reading.documents import document_checker
from tst_megatron.corpora.reading.fields import field_reader, kind_of
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.options import ReadOptions
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, Stream, block_size, open_stream

BLOCK_BYTES = 1 << 20
"""Read at a time: enough to be quick, and little enough to stay in a processor's cache."""
_END_BLOCK_BYTES = 64 << 10

Parser = Callable[[Sequence[bytes | None], int], Batch]


def json_parser(options: ReadOptions, one: str) -> Parser:
    """A function that parses records and gives their documents.

    It takes the records, None for one that is too long to be held, and the number of records that
    came before them.

    Args:
        options: what is a document.
        one: what a record is called.
    """
    read, check, where = field_reader(options.field), document_checker(options), options.where

    def parse(records: Sequence[bytes | None], number: int) -> Batch:
        batch = Batch(records=len(records))
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
                batch.bad.append(Bad(record_number, error.reason, error.detail))
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
) -> Iterator[tuple[Batch, int]]:
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
