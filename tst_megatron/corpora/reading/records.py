"""Documents of a part of a file, whatever its format.

The one idea: reading a part needs nothing but the part, so any process can read any of them, and
what all of them yield, in their order, is what one process would.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tst_megatron.corpora.reading.batches import Batch, BrokenFile, sentence
from tst_megatron.corpora.reading.chunks import Part, can_be_cut, cut
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.json_array import read_json_array
from tst_megatron.corpora.reading.json_lines import read_json_lines
from tst_megatron.corpora.reading.options import ReadOptions
from tst_megatron.corpora.reading.plain_text import read_between_blank_lines, read_whole
from tst_megatron.errors import UserError

_COUNTED_BYTES = 1 << 20
_SEQUENTIAL_CHUNK_BYTES = 1 << 60


def read_part(
    files: Sequence[InputFile], part: Part, options: ReadOptions, scratch: Path
) -> Iterator[Batch]:
    """Read the documents of a part, a batch at a time, in memory that does not grow with it.

    Args:
        files: all inputs.
        part: of one of them.
        options: what is a document.
        scratch: a folder for a copy of a Parquet file that is compressed as a whole.

    Raises:
        BrokenFile: the file cannot be read from here on; what came before has been yielded.
        UserError: it is missing or cannot be read, or there is no room in ``scratch``.
    """
    file = files[part.file]
    try:
        yield from _read(file, part, options, scratch)
    except OSError as error:
        raise UserError(f"the input {file.path} cannot be read: {error.strerror}") from None


def records_before(files: Sequence[InputFile], part: Part) -> int:
    """How many records of a file come before a part: what its own numbers are to be added to.

    It reads the file up to the part, or the footer of a Parquet file.

    Raises:
        OSError: the file cannot be read.
    """
    file = files[part.file]
    if part.begin == 0:
        return 0
    if file.format == "parquet":
        from tst_megatron.corpora.reading.tables import rows_before

        return rows_before(file, part.begin)
    # Lines begin after line ends, and the first at the beginning.
    count, left = 1, part.begin - 1
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
        skips: whether a record that gives none is passed over, and the rest of a broken file.

    Raises:
        UserError: a record gives none, or a file is broken; the message names it.
    """
    with TemporaryDirectory(prefix="tst-megatron-") as scratch:
        for chunk in cut(files, options, _SEQUENTIAL_CHUNK_BYTES):
            for part in chunk.parts:
                path = files[part.file].path
                try:
                    for batch in read_part(files, part, options, Path(scratch)):
                        if batch.bad and not skips:
                            bad = batch.bad[0]
                            what = sentence(bad.reason, bad.detail)
                            raise UserError(f"{path}, record {bad.record:,}: {what}")
                        yield from batch.documents
                except BrokenFile as error:
                    if skips:
                        continue
                    what = sentence(error.reason, error.detail)
                    where = f"{path}, record {error.record:,}" if error.record else path
                    raise UserError(f"{where}: {what}") from None


def _read(file: InputFile, part: Part, options: ReadOptions, scratch: Path) -> Iterator[Batch]:
    end = part.end if can_be_cut(file, options) else None
    if file.format == "parquet":
        from tst_megatron.corpora.reading.tables import read_parquet, unpacked

        if file.compression is None:
            yield from read_parquet(file, part.begin, end, options)
            return
        with unpacked(file, scratch) as copy:
            yield from read_parquet(copy, 0, None, options)
        return
    batches: Iterator[tuple[Batch, int]]
    if file.format == "arrow":
        from tst_megatron.corpora.reading.tables import read_arrow

        batches = read_arrow(file, options)
    elif file.format == "jsonl":
        batches = read_json_lines(file, part.begin, end, options)
    elif file.format == "json":
        batches = read_json_array(file, options)
    elif options.text_documents == "file":
        batches = read_whole(file, options)
    else:
        batches = read_between_blank_lines(file, part.begin, end, options)
    yield from _measured(batches, part.begin, file.size if end is None else end)


def _measured(batches: Iterator[tuple[Batch, int]], begin: int, end: int) -> Iterator[Batch]:
    """Batches with the bytes read since the last one, for how much of the file has been read."""
    done = begin
    for batch, position in batches:
        position = max(done, min(position, end))
        batch.bytes_read, done = position - done, position
        yield batch
    if done < end:
        yield Batch(bytes_read=end - done)
