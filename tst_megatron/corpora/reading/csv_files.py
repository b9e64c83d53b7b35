"""CSV and TSV: rows under a header, cells of text.

The one idea: a cell may hold line ends, so where a row ends is known by quotes alone, and quotes
that do not fit end the reading. Python's own parser says so, in its strict mode; pyarrow's goes on,
and a quote that is never closed takes the rows after it for its text. Many writers of TSV quote
nothing, so there a cell over several lines may be several rows, and ends the reading too.
"""

import codecs
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tst_megatron.corpora.reading.batches import (
    Bad,
    BrokenFile,
    DamagedError,
    DocumentBatch,
    UnusableError,
)
from tst_megatron.corpora.reading.cells import Cell
from tst_megatron.corpora.reading.documents import ReadOptions, decoded, document_checker
from tst_megatron.corpora.reading.fields import Missing
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, Stream, block_size, open_stream

BATCH_CHARACTERS = 8 << 20
_BLOCK_BYTES = 1 << 20
_MOST_ROWS = 1 << 16
_DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_csv(file: InputFile, options: ReadOptions) -> Iterator[tuple[DocumentBatch, int]]:
    """Read the rows under a header; blank ones are none.

    Yields:
        Batches, and how much of the file has been read.

    Raises:
        BrokenFile: it is damaged, has no such column, or quotes that do not fit.
        OSError: it cannot be read.
    """
    limit = options.max_record_bytes
    csv.field_size_limit(limit)  # Python's for all files of the process; this alone reads them.
    number = 0
    batch = DocumentBatch()
    try:
        with open_stream(file.path, file.compression) as stream:
            parser = csv.reader(
                _lines(stream, limit), delimiter=_DELIMITERS[file.format], strict=True
            )
            rows = _without_doubt(parser) if file.format == "tsv" else parser
            if header := next(filter(None, rows), None):
                _check_separated(header, file, options.field)
                take, held = _row_taker(header, options), 0
                for number, row in enumerate(rows, 1):
                    batch.records += 1
                    held += sum(map(len, row))
                    if row:
                        take(number, row, parser.line_num, batch)
                    if held >= BATCH_CHARACTERS or batch.records >= _MOST_ROWS:
                        yield batch, stream.tell()
                        batch, held = DocumentBatch(), 0
            yield batch, stream.tell()
    except (csv.Error, DamagedError) as error:
        yield batch, 0
        if isinstance(error, DamagedError):
            raise BrokenFile(number + 1, error.reason, error.detail) from None
        what = str(error)
        if what.startswith("new-line character"):  # Python speaks of its own open().
            what = "a carriage return outside of quotes, where a line ends with a line feed"
        detail = f"{what}, in the row that ends on line {parser.line_num:,}"
        reason = f"not {file.format.upper()} that can be read"
        raise BrokenFile(number + 1, reason, detail) from None


def _lines(stream: Stream, limit: int) -> Iterator[str]:
    """Lines with their ends; bytes that are not UTF-8 stay what they are, in surrogates."""
    unfinished = b""
    mark = BYTE_ORDER_MARK
    while block := stream.read(block_size(_BLOCK_BYTES, len(unfinished))):
        first, *others = (unfinished + block).split(b"\n")
        lines, unfinished = ([first, *others[:-1]], others[-1]) if others else ([], first)
        if len(unfinished) > limit:
            raise csv.Error(f"a line is longer than {limit:,} bytes")
        for line in lines:
            yield _text(line, mark) + "\n"
            mark = b""
    if unfinished:
        yield _text(unfinished, mark)


def _text(line: bytes, mark: bytes) -> str:
    """A line as text; ``mark`` may stand before the first, and is nothing before others."""
    if mark and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BrokenFile(0, "the file is in UTF-16: write it in UTF-8")
    return line.removeprefix(mark).decode(errors="surrogateescape")


def _check_separated(header: Sequence[str], file: InputFile, field: str) -> None:
    """Refuse a header that has the column between other separators."""
    ours = _DELIMITERS[file.format]
    others = [one for one in ",;|\t" if field in " ".join(header).split(one)]
    if field in header or not others:
        return
    names = {"\t": "tabs"}
    theirs, wanted = (names.get(one, f'"{one}"') for one in (others[0], ours))
    raise BrokenFile(
        0,
        f"the header has {theirs} between its columns, not {wanted}",
        "read it with --format tsv" if others[0] == "\t" else f"write it with {wanted}",
    )


def _without_doubt(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Rows of TSV, up to one that is several to those who quote nothing."""
    for row in rows:
        if any("\t" in cell or "\n" in cell for cell in row):
            raise csv.Error(
                "quotes around a tab or a line end, which to some is several cells (write CSV)"
            )
        yield row


def _row_taker(
    header: Sequence[str], options: ReadOptions
) -> Callable[[int, list[str], int, DocumentBatch], None]:
    """A function that takes a row, of a number and a last line, into a batch.

    Raises:
        BrokenFile: the header has no such column, or two.
    """
    if options.field not in header:
        has = [name.encode(errors="replace").decode() for name in header]
        raise BrokenFile(0, f'no column "{options.field}"', has=has)
    place, check, where = header.index(options.field), document_checker(options), options.where
    filtering = where.fields if where is not None else ()
    for name in (options.field, *filtering):
        if header.count(name) > 1:
            raise BrokenFile(0, f'the header has the column "{name}" twice')
    filtered_by = _cell_readers(header, filtering)

    def take(number: int, row: list[str], line: int, batch: DocumentBatch) -> None:
        try:
            if len(row) != len(header):
                raise UnusableError(
                    "the row has not as many cells as the header",
                    f"{len(row):,}, not {len(header):,}, on line {line:,}",
                )
            if where is not None and not where.of_values([read(row) for read in filtered_by]):
                batch.filtered += 1
                return
            cell = row[place]
            if not cell.isascii():
                cell = decoded(cell.encode(errors="surrogateescape"))
            document, num_bytes = check(cell)
        except UnusableError as error:
            batch.bad.append(Bad.of(number, error))
        else:
            batch.documents.append(document)
            batch.numbers.append(number)
            batch.text_bytes += num_bytes

    return take


def _cell_readers(header: Sequence[str], fields: Sequence[str]) -> list[Callable[[list[str]], Any]]:
    def reader(field: str) -> Callable[[list[str]], Any]:
        if field not in header:
            missing = Missing(UnusableError(f'no field "{field}"', has=header))
            return lambda row: missing
        place = header.index(field)
        return lambda row: Cell(row[place]) if row[place] else None

    return [reader(field) for field in fields]
