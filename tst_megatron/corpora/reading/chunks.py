"""Where inputs are cut into pieces of work.

The one idea: the cuts follow from the files alone, so that however many workers there are, and
however often the work is begun again, the pieces and their order are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tst_megatron.corpora.reading.batches import BrokenFile
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.options import ReadOptions
from tst_megatron.errors import UserError


@dataclass(frozen=True)
class Part:
    """Some of a file.

    Attributes:
        file: which one.
        begin: of the part: a byte of JSON lines and of text with blank lines between documents, if
            they are not compressed; a row group of a Parquet file that is not; 0 otherwise.
        end: of the part, not in it; 1 for the whole of a file that cannot be cut. A Parquet file
            with ``begin`` and ``end`` 0 has no rows or is broken: reading it says which.
    """

    file: int
    begin: int
    end: int


@dataclass(frozen=True)
class Chunk:
    """A piece of work: parts of one file or of several, in their order."""

    parts: tuple[Part, ...]


def cut(files: Sequence[InputFile], options: ReadOptions, target_bytes: int) -> list[Chunk]:
    """Cut files into chunks, in their order.

    A chunk has about ``target_bytes`` of input, as it lies on the disk, for Parquet of the
    documents' column without compression; more where a file cannot be cut. Small files share one.
    Of a Parquet file the footer is read here, of others nothing.

    Raises:
        UserError: a file has vanished, or ``where`` is to filter plain text, which has no fields.
    """
    chunks: list[Chunk] = []
    parts: list[Part] = []
    held = 0
    for part, num_bytes in _pieces(files, options, target_bytes):
        if parts and held + num_bytes > target_bytes:
            chunks.append(Chunk(tuple(parts)))
            parts, held = [], 0
        parts.append(part)
        held += num_bytes
    if parts:
        chunks.append(Chunk(tuple(parts)))
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
) -> Iterator[tuple[Part, int]]:
    """Parts of at most ``target_bytes`` where a file can be cut so, and the bytes of each."""
    for index, file in enumerate(files):
        if file.format == "text" and options.where is not None:
            raise UserError(
                f"--where {options.where.expression} needs fields, and {file.path} is plain text: "
                "leave it out or give other files"
            )
        if not can_be_cut(file, options):
            yield Part(index, 0, 1), file.size
        elif file.format == "parquet":
            yield from _row_groups(index, file, options, target_bytes)
        else:
            number = max(1, -(-file.size // target_bytes))
            cuts = [file.size * i // number for i in range(number + 1)]
            for begin, end in pairwise(cuts):
                yield Part(index, begin, end), end - begin


def _row_groups(
    index: int, file: InputFile, options: ReadOptions, target_bytes: int
) -> Iterator[tuple[Part, int]]:
    from tst_megatron.corpora.reading.tables import row_group_bytes

    try:
        sizes = row_group_bytes(file, options)
    except BrokenFile:
        sizes = []
    except OSError as error:
        raise UserError(f"the input {file.path} cannot be read: {error.strerror}") from None
    if not sizes:
        yield Part(index, 0, 0), 0
    begin = held = 0
    for group, num_bytes in enumerate(sizes):
        if held and held + num_bytes > target_bytes:
            yield Part(index, begin, group), held
            begin, held = group, 0
        held += num_bytes
    if sizes:
        yield Part(index, begin, len(sizes)), held
