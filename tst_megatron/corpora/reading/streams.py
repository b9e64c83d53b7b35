"""The bytes of a file, unpacked if it is compressed, a block at a time.

The one idea: whatever could be unpacked before the bytes turned bad is given before the error is.
Files made of several members (gzip), frames (zstd, lz4) or streams (bz2, xz) are read whole.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from tst_megatron.corpora.reading.batches import DamagedError

Compression = Literal["gz", "zst", "bz2", "xz", "lz4"]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_PIECE_BYTES = 1 << 20
# A zstd block of four bytes can become 128 KiB: what is given at a time bounds what comes out.
_ZSTD_INPUT_BYTES = 16 << 10
# Of what pyarrow has unpacked, it keeps a piece for itself when it meets bytes that are bad.
_LZ4_PIECE_BYTES = 16 << 10
_ZSTD_LARGEST_WINDOW = 1 << 31  # Files of ``zstd --long=31``.
_LARGEST_BLOCK_BYTES = 64 << 20


def block_size(least: int, held: int) -> int:
    """Bytes to read next, when some are held whose end has not come.

    As much as is held, so that a long record is not copied over and over; and no more than can be
    afforded.
    """
    return max(least, min(held, _LARGEST_BLOCK_BYTES))


class Stream(Protocol):
    """Bytes to be read from the beginning to the end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, ``size`` of them unless the end comes before; none at the end.

        Raises:
            DamagedError: they cannot be unpacked.
            OSError: they cannot be read.
        """
        ...

    def tell(self) -> int:
        """How much of the file as it lies on the disk has been read, in bytes."""
        ...


@contextmanager
def open_stream(path: Path, compression: Compression | None, begin: int = 0) -> Iterator[Stream]:
    """Open a file for reading, unpacked.

    Args:
        path: of the file.
        compression: of its content.
        begin: where to, in bytes; 0 if it is compressed.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb", buffering=0) as raw:
        raw.seek(begin)
        yield raw if compression is None else _Unpacked(raw, compression)


class _Unpacked:
    def __init__(self, raw: BinaryIO, compression: Compression) -> None:
        self._raw = raw
        own = {"zst": _zstd_pieces, "lz4": _lz4_pieces}.get(compression)
        self._pieces = _pieces(raw, compression) if own is None else own(raw)
        self._held = b""

    def read(self, size: int, /) -> bytes:
        taken, missing = [self._held], size - len(self._held)
        self._held = b""
        while missing > 0:
            try:
                piece = next(self._pieces, b"")
            except DamagedError as error:
                if missing == size:
                    raise
                self._pieces = _raising(error)
                break
            if not piece:
                break
            taken.append(piece)
            missing -= len(piece)
        content = b"".join(taken)
        if missing < 0:
            self._held = content[size:]
            content = content[:size]
        return content

    def tell(self) -> int:
        return self._raw.tell()


def _raising(error: DamagedError) -> Iterator[bytes]:
    raise error
    yield b""


def _pieces(raw: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """Unpacked bytes; ``read1`` gives what there is before it fails."""
    unpacked: gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile
    if compression == "gz":
        unpacked = gzip.GzipFile(fileobj=raw)
    elif compression == "bz2":
        unpacked = bz2.BZ2File(raw)
    else:
        unpacked = lzma.LZMAFile(raw)  # noqa: SIM115 — it does not own the file
    empty = True
    while True:
        try:
            piece = unpacked.read1(_PIECE_BYTES)
        except EOFError:
            raise _ends_early(compression) from None
        except (zlib.error, lzma.LZMAError) as error:
            raise _bad_data(compression, error) from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise _bad_data(compression, error) from None
        if not piece:
            break
        empty = False
        yield piece
    if empty and not raw.tell():  # gzip takes a file of no bytes for one of no text.
        raise _ends_early(compression)


def _zstd_pieces(raw: BinaryIO) -> Iterator[bytes]:
    """Unpacked bytes, a frame after another; the library's own streams miss that one ends early."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_LARGEST_WINDOW)
    frame = decompressor.decompressobj()
    begun = complete = False
    while block := raw.read(_ZSTD_INPUT_BYTES):
        while block:
            if complete:
                frame, complete = decompressor.decompressobj(), False
            begun = True
            try:
                piece = frame.decompress(block)
            except zstandard.ZstdError as error:
                raise _bad_data("zst", error) from None
            complete, block = frame.eof, frame.unused_data if frame.eof else b""
            if piece:
                yield piece
    if not (begun and complete):
        raise _ends_early("zst")


class _KeptOpen:
    """A file as pyarrow reads one, which it would close as soon as it has come to the end."""

    closed = False

    def __init__(self, raw: BinaryIO) -> None:
        self.read = raw.read

    def close(self) -> None:
        """Leave that to who has opened it."""


def _lz4_pieces(raw: BinaryIO) -> Iterator[bytes]:
    """Unpacked bytes of lz4's frames."""
    import pyarrow as pa

    stream = pa.CompressedInputStream(_KeptOpen(raw), "lz4")
    while True:
        try:
            piece = stream.read(_LZ4_PIECE_BYTES)
        except OSError as error:
            if error.errno is not None:
                raise
            if "Truncated" in str(error):
                raise _ends_early("lz4") from None
            raise _bad_data("lz4", error) from None
        if not piece:
            break
        yield piece
    if not raw.tell():
        raise _ends_early("lz4")


def _ends_early(compression: Compression) -> DamagedError:
    return DamagedError(f"the .{compression} data end early")


def _bad_data(compression: Compression, error: Exception) -> DamagedError:
    return DamagedError(f"the .{compression} data are damaged", str(error))
