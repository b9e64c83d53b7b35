"""Parquet and Arrow: the columns that are needed, rows by rows, by pyarrow on the calling thread.

The one idea: a column of text has its lengths in bytes beside it, so that batches are bounded, and
counted, without looking at the text.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tst_megatron.corpora.reading.batches import (
    Bad,
    BrokenFile,
    DamagedError,
    DocumentBatch,
    UnusableError,
)
from tst_megatron.corpora.reading.documents import (
    BYTES_OF_ID,
    ReadOptions,
    decoded,
    document_checker,
)
from tst_megatron.corpora.reading.fields import Missing, Where
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.streams import Stream, open_stream
from tst_megatron.errors import UserError

BATCH_BYTES = 8 << 20
_MOST_ROWS = 1 << 16
# Columns are read through a buffer of this size, not a row group of them at once.
_BUFFER_BYTES = 1 << 20
# Arrow's file format: this, a stream, a footer, and the first six bytes again.
_FRAME = b"ARROW1\0\0"
_MAGIC = b"ARROW1"
_MESSAGE_CHARACTERS = 200


def row_group_bytes(file: InputFile, options: ReadOptions) -> list[int]:
    """Bytes of the documents' column in each row group of a Parquet file, unpacked.

    Raises:
        BrokenFile: it has no footer, or no such column.
        OSError: it cannot be read.
    """
    with _parquet(file.path) as parquet:
        column = ".".join(_document_column(parquet.schema_arrow, options))
        metadata = parquet.metadata
        return [_bytes_in(metadata.row_group(i), column) for i in range(metadata.num_row_groups)]


def rows_before(file: InputFile, row_group: int) -> int:
    """Rows of a Parquet file before a row group."""
    with _parquet(file.path) as parquet:
        return _rows_before(parquet, row_group)


def read_parquet(
    file: InputFile, begin: int, end: int | None, options: ReadOptions
) -> Iterator[DocumentBatch]:
    """Read the rows of some row groups.

    Args:
        file: to read, not compressed as a whole.
        begin: the first row group.
        end: the one after the last; None to read all.
        options: what is a document.

    Yields:
        Batches, which share the bytes of the file by their rows.

    Raises:
        BrokenFile: it cannot be read from here on.
        OSError: likewise, and not because of what is in it.
    """
    with _parquet(file.path) as parquet:
        column = ".".join(_document_column(parquet.schema_arrow, options))
        columns = _columns(parquet.schema_arrow, options)
        before, rows = _rows_before(parquet, begin), parquet.metadata.num_rows
        number = 0
        try:
            for index in range(begin, parquet.metadata.num_row_groups if end is None else end):
                at_once = _rows_at_once(parquet.metadata.row_group(index), column)
                for table in parquet.iter_batches(
                    at_once, row_groups=[index], columns=columns, use_threads=False
                ):
                    for batch in _batches(table, options, number):
                        done = file.size * (before + number) // rows
                        number += batch.records
                        batch.bytes_read = file.size * (before + number) // rows - done
                        yield batch
        except (pa.ArrowException, OSError) as error:
            raise _broken(number + 1, "Parquet", error) from None
    if not rows:
        yield DocumentBatch(bytes_read=file.size)


def read_arrow(file: InputFile, options: ReadOptions) -> Iterator[tuple[DocumentBatch, int]]:
    """Read Arrow's stream format, and its file format, which is a stream with a frame around it.

    Read as a stream, a file that was cut short gives the rows that are there.

    Yields:
        Batches, and how much of the file has been read.

    Raises:
        BrokenFile: it cannot be read from here on.
        OSError: likewise, and not because of what is in it.
    """
    number = 0
    try:
        with _arrow_source(file) as (source, framed, position):
            stream = pa.ipc.open_stream(source)
            _document_column(stream.schema, options)
            for table in stream:
                for batch in _batches(table, options, number):
                    number += batch.records
                    yield batch, position()
            last = _read_out(source)
            if framed and last != _MAGIC:
                raise BrokenFile(number + 1, "the Arrow file ends early")
    except DamagedError as error:
        raise BrokenFile(number + 1, error.reason, error.detail) from None
    except (pa.ArrowException, OSError) as error:
        raise _broken(number + 1, "Arrow", error) from None


@contextmanager
def unpacked(file: InputFile, scratch: Path) -> Iterator[InputFile]:
    """A copy of a compressed file that is not compressed, for as long as it is needed.

    Args:
        file: compressed.
        scratch: the folder to write to.

    Raises:
        BrokenFile: it is damaged.
        UserError: there is no room for the copy.
        OSError: the file cannot be read.
    """
    try:
        copy = tempfile.NamedTemporaryFile(dir=scratch, prefix="unpacked-")  # noqa: SIM115
    except OSError as error:
        raise _no_copy(file, scratch, error) from None
    with copy:
        try:
            with open_stream(file.path, file.compression) as stream:
                while block := stream.read(_BUFFER_BYTES):
                    try:
                        copy.write(block)
                        copy.flush()
                    except OSError as error:
                        raise _no_copy(file, scratch, error) from None
        except DamagedError as error:
            raise BrokenFile(0, error.reason, error.detail) from None
        # The size stays that of the input: it is what has been read.
        yield replace(file, path=Path(copy.name), compression=None)


def _no_copy(file: InputFile, scratch: Path, error: OSError) -> UserError:
    return UserError(f"the input {file.path} cannot be unpacked into {scratch}: {error.strerror}")


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        parquet = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _broken(0, "Parquet", error) from None
    with parquet:
        yield parquet


def _rows_before(parquet: pq.ParquetFile, row_group: int) -> int:
    return sum(parquet.metadata.row_group(i).num_rows for i in range(row_group))


def _broken(record: int, format: str, error: Exception) -> Exception:
    """What to raise for pyarrow's error: its own, where the file is not to blame."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, os.strerror(error.errno))
    message = str(error).partition("\n")[0][:_MESSAGE_CHARACTERS]
    return BrokenFile(record, f"not {format} that can be read", message)


class _Prefixed:
    """A stream after some bytes that were read from it already, as pyarrow wants it."""

    closed = False

    def __init__(self, prefix: bytes, stream: Stream) -> None:
        self._prefix, self._stream = prefix, stream

    def read(self, size: int) -> bytes:
        taken, self._prefix = self._prefix[:size], self._prefix[size:]
        # A stream that breaks off gives what it has before it says so.
        while len(taken) < size and (more := self._stream.read(size - len(taken))):
            taken += more
        return taken


def _column(schema: pa.Schema, path: str) -> tuple[tuple[str, ...], pa.DataType] | None:
    """Names from a column to the field within it, and the field's type; None if there is none."""
    if path in schema.names:
        return (path,), schema.field(path).type
    names = tuple(path.split("."))
    if names[0] not in schema.names:
        return None
    kind = schema.field(names[0]).type
    for name in names[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return names, kind


def _document_column(schema: pa.Schema, options: ReadOptions) -> tuple[str, ...]:
    found = _column(schema, options.field)
    if found is None:
        raise BrokenFile(0, f'no column "{options.field}"', has=schema.names)
    names, kind = found
    if not (_is_text(kind) or (options.reads == "ids" and _is_ids(kind))):
        what = "strings" if options.reads == "text" else "lists of ids"
        raise BrokenFile(0, f'column "{options.field}" is {kind}, not {what}', has=schema.names)
    return names


def _columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """The columns to read; those that ``where`` names and are not there are missed later."""
    paths = [options.field, *(options.where.fields if options.where else ())]
    found = [_column(schema, path) for path in paths]
    return [".".join(one[0]) for one in found if one is not None]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in text + binary)


def _is_ids(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists) and pa.types.is_integer(kind.value_type)


def _bytes_in(group: pq.RowGroupMetaData, column: str) -> int:
    """Bytes of a column, and all that is nested in it, in a row group, unpacked."""
    parts = (group.column(i) for i in range(group.num_columns))
    return sum(
        part.total_uncompressed_size
        for part in parts
        if part.path_in_schema == column or part.path_in_schema.startswith(f"{column}.")
    )


def _rows_at_once(group: pq.RowGroupMetaData, column: str) -> int:
    """Rows of a row group that make about a batch."""
    rows = BATCH_BYTES * group.num_rows // max(1, _bytes_in(group, column))
    return max(1, min(rows, _MOST_ROWS))


def _values(table: pa.RecordBatch, names: tuple[str, ...]) -> pa.Array:
    values = table.column(names[0])
    for name in names[1:]:
        values = pc.struct_field(values, name)
    return values


def _batches(table: pa.RecordBatch, options: ReadOptions, number: int) -> Iterator[DocumentBatch]:
    """The documents of some rows, in batches; ``number`` rows came before."""
    values = _values(table, _document_column(table.schema, options))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_text(values.type):
        # As bytes: they can be checked quickly, and need not be UTF-8.
        values = values.cast(pa.large_binary())
        lengths = pc.binary_length(values)
    else:
        values = values.cast(pa.large_list(values.type.value_type))
        lengths = pc.multiply(pc.list_value_length(values), BYTES_OF_ID)
    values.validate(full=True)
    num_bytes = lengths.fill_null(0).to_numpy().astype(np.int64)
    which = np.cumsum(num_bytes) // BATCH_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist(), table.num_rows]
    for begin, end in pairwise(cuts):
        part = slice(begin, end)
        yield _batch(
            table.slice(begin, end - begin), values[part], num_bytes[part], options, number + begin
        )


def _batch(
    table: pa.RecordBatch,
    values: pa.Array,
    num_bytes: npt.NDArray[np.int64],
    options: ReadOptions,
    number: int,
) -> DocumentBatch:
    """The documents of all rows of a table, whose column has been taken out: ``[rows]``."""
    batch = DocumentBatch(records=table.num_rows)
    rows = np.arange(number + 1, number + 1 + table.num_rows)
    if options.where is not None:
        wanted = _wanted_rows(table, options.where, number, batch)
        rows, num_bytes = rows[wanted], num_bytes[wanted]
        values = values.take(pa.array(wanted))
    usable = (num_bytes > 0) & (num_bytes <= options.max_document_bytes)
    if pa.types.is_large_binary(values.type) and usable.all():
        try:
            strings = values.view(pa.large_string()).to_numpy(zero_copy_only=False)
        except pa.ArrowException:  # It is not UTF-8 somewhere.
            pass
        else:
            batch.documents, batch.numbers = strings.tolist(), rows.tolist()
            batch.text_bytes = int(num_bytes.sum()) if options.reads == "text" else 0
            return batch
    check = document_checker(options)
    for row, value in zip(rows.tolist(), _python_values(values), strict=True):
        try:
            document, length = check(decoded(value) if isinstance(value, bytes) else value)
        except UnusableError as error:
            batch.bad.append(Bad.of(row, error))
        else:
            batch.documents.append(document)
            batch.numbers.append(row)
            batch.text_bytes += length
    batch.bad.sort(key=lambda bad: bad.record)
    return batch


def _python_values(values: pa.Array) -> Iterator[Any]:
    """Bytes as they are; lists of ids as arrays ``[tokens]``, of None where one is missing."""
    if pa.types.is_large_binary(values.type):
        yield from values.to_pylist()
        return
    ids = values.flatten()
    whole = ids.null_count == 0
    flat = ids.to_numpy(zero_copy_only=False) if whole else None
    begin = 0
    for length in pc.list_value_length(values).to_pylist():
        if length is None:
            yield None
            continue
        end = begin + length
        yield flat[begin:end] if flat is not None else ids[begin:end].to_pylist()
        begin = end


def _wanted_rows(
    table: pa.RecordBatch, where: Where, number: int, batch: DocumentBatch
) -> npt.NDArray[np.int64]:
    """Indices of the rows that are wanted; the others are counted in ``batch``."""
    columns: list[Iterable[Any]] = []
    for path in where.fields:
        found = _column(table.schema, path)
        if found is None:
            missing = Missing(UnusableError(f'no field "{path}"', has=table.schema.names))
            columns.append(repeat(missing, table.num_rows))
        else:
            columns.append(_values(table, found[0]).to_pylist())
    wanted = []
    for row, values in enumerate(zip(*columns, strict=True)):
        try:
            if where.of_values(values):
                wanted.append(row)
            else:
                batch.filtered += 1
        except UnusableError as error:
            batch.bad.append(Bad.of(number + row + 1, error))
    return np.array(wanted, np.int64)


@contextmanager
def _arrow_source(file: InputFile) -> Iterator[tuple[Any, bool, Callable[[], int]]]:
    """Where a file's stream begins, whether it has a frame, and how much of the file was read."""
    if file.compression is None:
        with pa.memory_map(str(file.path)) as mapped:
            framed = mapped.read(len(_FRAME)) == _FRAME
            mapped.seek(len(_FRAME) if framed else 0)
            yield mapped, framed, mapped.tell
        return
    with open_stream(file.path, file.compression) as stream:
        begin = stream.read(len(_FRAME))
        framed = begin == _FRAME
        yield _Prefixed(b"" if framed else begin, stream), framed, stream.tell


def _read_out(source: Any) -> bytes:
    """The last bytes of what is left of a file."""
    last = b""
    while block := source.read(_BUFFER_BYTES):
        last = (last + block)[-len(_MAGIC) :]
    return last
