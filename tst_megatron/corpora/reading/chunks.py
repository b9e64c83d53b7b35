"""Where inputs are cut into pieces of work, and the documents of a piece, whatever its format.

The one idea: the cuts follow from the files alone and reading a piece needs nothing but the piece,
so however many processes there are, and however often the work is begun again, what all pieces
give, in their order, is what one process would.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from tst_megatron.corpora.reading.batches import (
    LEFT_OUT,
    Bad,
    BrokenFile,
    DocumentBatch,
    sentence,
)
from tst_megatron.corpora.reading.csv_files import read_csv
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.json_files import read_json_array, read_json_lines
from tst_megatron.corpora.reading.plain_text import read_between_blank_lines, read_whole
from tst_megatron.errors import UserError

_COUNTED_BYTES = 1 << 20
_SEQUENTIAL_CHUNK_BYTES = 1 << 60


@dataclass(frozen=True)
class Span:
    """Some of a file.

    Attributes:
        file: which one.
        begin: of the span: a byte of JSON lines and of text with blank lines between documents, if
            they are not compressed; a row group of a Parquet file that is not; 0 otherwise.
        end: of the span, not in it; 1 for the whole of a file that cannot be cut. A Parquet file
            with ``begin`` and ``end`` 0 has no rows or is broken: reading it says which.
    """

    file: int
    begin: int
    end: int


@dataclass(frozen=True)
class Chunk:
    """A piece of work: spans of one file or of several, in their order."""

    spans: tuple[Span, ...]


def cut(files: Sequence[InputFile], options: ReadOptions, target_bytes: int) -> list[Chunk]:
    """Cut files into chunks, in their order.

    A chunk has about ``target_bytes`` of input, as it lies on the disk, for Parquet of the
    documents' column without compression; more where a file cannot be cut. Small files share one.
    Of a Parquet file the footer is read here, of others nothing.

    Raises:
        UserError: a file has vanished, or ``where`` is to filter plain text, which has no fields.
    """
    chunks: list[Chunk] = []
    spans: list[Span] = []
    held = 0
    for span, num_bytes in _pieces(files, options, target_bytes):
        if spans and held + num_bytes > target_bytes:
            chunks.append(Chunk(tuple(spans)))
            spans, held = [], 0
        spans.append(span)
        held += num_bytes
    if spans:
        chunks.append(Chunk(tuple(spans)))
    return chunks


def can_be_cut(file: InputFile, options: ReadOptions) -> bool:
    """Whether a file can be read from its middle on."""
    if file.compression is not None:
        return False
    if file.format == "text":
        return options.text_documents == "blank-line"
    return file.format in ("jsonl", "parquet")


def _pieces(
    files: Sequence[InputFile], options: ReadOptions, target_bytes: int
) -> Iterator[tuple[Span, int]]:
    """Parts of at most ``target_bytes`` where a file can be cut so, and the bytes of each."""
    for index, file in enumerate(files):
        if file.format == "text" and options.where is not None:
            raise UserError(
                f"--where {options.where.expression} needs fields, and {file.path} is plain text: "
                "leave it out or give other files"
            )
        if not can_be_cut(file, options):
            yield Span(index, 0, 1), file.size
        elif file.format == "parquet":
            yield from _row_groups(index, file, options, target_bytes)
        else:
            number = max(1, -(-file.size // target_bytes))
            cuts = [file.size * i // number for i in range(number + 1)]
            for begin, end in pairwise(cuts):
                yield Span(index, begin, end), end - begin


def _row_groups(
    index: int, file: InputFile, options: ReadOptions, target_bytes: int
) -> Iterator[tuple[Span, int]]:
    from tst_megatron.corpora.reading.tables import row_group_bytes

    try:
        sizes = row_group_bytes(file, options)
    except BrokenFile:
        sizes = []
    except OSError as error:
        raise UserError(f"the input {file.path} cannot be read: {error.strerror}") from None
    if not sizes:
        yield Span(index, 0, 0), 0
    begin = held = 0
    for group, num_bytes in enumerate(sizes):
        if held and held + num_bytes > target_bytes:
            yield Span(index, begin, group), held
            begin, held = group, 0
        held += num_bytes
    if sizes:
        yield Span(index, begin, len(sizes)), held


def read_span(
    files: Sequence[InputFile], span: Span, options: ReadOptions, scratch: Path
) -> Iterator[DocumentBatch]:
    """Read the documents of a span, a batch at a time, in memory that does not grow with it.

    Args:
        files: all inputs.
        span: of one of them.
        options: what is a document.
        scratch: a folder for a copy of a Parquet file that is compressed as a whole.

    Raises:
        BrokenFile: the file cannot be read from here on; what came before has been yielded.
        UserError: it is missing or cannot be read, or there is no room in ``scratch``.
    """
    file = files[span.file]
    try:
        yield from _read(file, span, options, scratch)
    except OSError as error:
        raise UserError(f"the input {file.path} cannot be read: {error.strerror}") from None


def records_before(files: Sequence[InputFile], span: Span) -> int:
    """How many records of a file come before a span: what its own numbers are to be added to.

    It reads the file up to the span, or the footer of a Parquet file.

    Raises:
        OSError: the file cannot be read.
    """
    file = files[span.file]
    if span.begin == 0:
        return 0
    if file.format == "parquet":
        from tst_megatron.corpora.reading.tables import rows_before

        return rows_before(file, span.begin)
    # Lines begin after line ends, and the first at the beginning.
    count, left = 1, span.begin - 1
    with file.path.open("rb", buffering=0) as content:
        while block := content.read(min(left, _COUNTED_BYTES)):
            count += block.count(b"\n")
            left -= len(block)
    return count


def read_documents(
    files: Sequence[InputFile], options: ReadOptions, skips: bool = False
) -> Iterator[str]:
    """All documents of all files, one after another.

    Args:
        files: the inputs.
        options: what is a document.
        skips: whether a bad record is passed over, and the rest of a broken file.

    Raises:
        UserError: a record is bad, or a file is broken; the message names it.
    """
    with TemporaryDirectory(prefix="tst-megatron-") as scratch:
        for chunk in cut(files, options, _SEQUENTIAL_CHUNK_BYTES):
            for span in chunk.spans:
                path = files[span.file].path
                try:
                    for batch in read_span(files, span, options, Path(scratch)):
                        bad = [one for one in batch.bad if one.reason not in LEFT_OUT]
                        if bad and not skips:
                            raise UserError(
                                f"{path}, record {bad[0].record:,}: {_said(bad[0], options)}"
                            )
                        yield from batch.documents
                except BrokenFile as error:
                    if skips:
                        continue
                    where = f"{path}, record {error.record:,}" if error.record else path
                    raise UserError(f"{where}: {_said(error, options)}") from None


def _said(error: Bad | BrokenFile, options: ReadOptions) -> str:
    advice = f"; {advice_on_fields(error, options)}" if error.has else ""
    return f"{sentence(error)}{advice}"


def advice_on_fields(error: Bad | BrokenFile, options: ReadOptions) -> str:
    """What to do about a field that is not there, where others are."""
    flag = "--field" if f'"{options.field}"' in error.reason else "--where"
    return f"name one of these with {flag}"


def _read(
    file: InputFile, span: Span, options: ReadOptions, scratch: Path
) -> Iterator[DocumentBatch]:
    end = span.end if can_be_cut(file, options) else None
    if file.format == "parquet":
        from tst_megatron.corpora.reading.tables import read_parquet, unpacked

        if file.compression is None:
            yield from read_parquet(file, span.begin, end, options)
            return
        with unpacked(file, scratch) as copy:
            yield from read_parquet(copy, 0, None, options)
        return
    batches: Iterator[tuple[DocumentBatch, int]]
    if file.format == "arrow":
        from tst_megatron.corpora.reading.tables import read_arrow

        batches = read_arrow(file, options)
    elif file.format == "jsonl":
        batches = read_json_lines(file, span.begin, end, options)
    elif file.format == "json":
        batches = read_json_array(file, options)
    elif file.format in ("csv", "tsv"):
        batches = read_csv(file, options)
    elif options.text_documents == "file":
        batches = read_whole(file, options)
    else:
        batches = read_between_blank_lines(file, span.begin, end, options)
    yield from _measured(batches, span.begin, file.size if end is None else end)


def _measured(
    batches: Iterator[tuple[DocumentBatch, int]], begin: int, end: int
) -> Iterator[DocumentBatch]:
    """Batches with the bytes read since the last one, for how much of the file has been read."""
    done = begin
    for batch, position in batches:
        position = max(done, min(position, end))
        batch.bytes_read, done = position - done, position
        yield batch
    if done < end:
        yield DocumentBatch(bytes_read=end - done)
