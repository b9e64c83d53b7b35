"""Bytes to ids and back, by every way of compressing them.

The one idea: a code takes documents of bytes, whatever they hold, and gives ids from 0 up; the end
of a document is the id after the last one. What it gives back is what it was given: each is tested
on random bytes, and each corpus on its own text (`measuring`).
"""

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression import arithmetic, cells
from tst_megatron.corpora.compression.streams import Stepping
from tst_megatron.corpora.compression.windows import Windows
from tst_megatron.corpora.tokenizers.encoders import Encoded, joined

Ids = npt.NDArray[np.integer[Any]]


class Code(Protocol):
    """A lossless code.

    Attributes:
        num_ids: ids are below it; it is itself the end of a document.
        ids_a_piece: how many ids in a row stand for some bytes, whatever is around them; 0 where
            those of a whole document do.
    """

    num_ids: int
    ids_a_piece: int

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        """Documents to ids, each by itself, without ends."""
        ...

    def decode(self, documents: Sequence[Ids]) -> list[bytes]:
        """Ids of whole documents, without ends, to bytes.

        Raises:
            ValueError: it is no code of a document.
        """
        ...

    def pieces(self, ids: Ids) -> list[tuple[int, bytes]]:
        """What a document's ids stand for, in order: how many ids, and their bytes."""
        ...


class WindowCode:
    """Windows out of a table.

    Args:
        windows: the table.
        token_bits: of an id: W, or 8 for as many ids a window as it has bytes.
        window_bits: W.
    """

    def __init__(self, windows: Windows, window_bits: int, token_bits: int) -> None:
        self.windows = windows
        self.ids_a_piece = window_bits // token_bits
        self._bits = token_bits
        self.num_ids = len(windows) if self.ids_a_piece == 1 else 1 << token_bits

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        """See `Code`."""
        numbers, counts = self.windows.encode(documents)
        return Encoded(self._split(numbers), counts * self.ids_a_piece)

    def _split(self, numbers: Ids) -> Ids:
        if self.ids_a_piece == 1:
            return numbers
        shifts = np.arange(self.ids_a_piece - 1, -1, -1) * self._bits
        return ((numbers[:, None] >> shifts) & ((1 << self._bits) - 1)).reshape(-1)

    def decode(self, documents: Sequence[Ids]) -> list[bytes]:
        """See `Code`."""
        return [self.windows.decode(self._numbers(ids)) for ids in documents]

    def _numbers(self, ids: Ids) -> Ids:
        _check(ids, self.num_ids)
        if self.ids_a_piece == 1:
            return ids
        if len(ids) % self.ids_a_piece:
            raise ValueError(f"it ends within a window of {self.ids_a_piece} ids")
        shifts = np.arange(self.ids_a_piece - 1, -1, -1) * self._bits
        return (ids.reshape(-1, self.ids_a_piece).astype(np.int64) << shifts).sum(axis=1)

    def pieces(self, ids: Ids) -> list[tuple[int, bytes]]:
        """See `Code`."""
        numbers = self._numbers(ids[: len(ids) // self.ids_a_piece * self.ids_a_piece])
        return [(self.ids_a_piece, self.windows.string(int(one))) for one in numbers]


class ByteCode:
    """Bytes as they are."""

    num_ids = 256
    ids_a_piece = 1

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        """See `Code`."""
        return joined([np.frombuffer(document, np.uint8) for document in documents])

    def decode(self, documents: Sequence[Ids]) -> list[bytes]:
        """See `Code`."""
        return [_to_bytes(ids, 8) for ids in documents]

    def pieces(self, ids: Ids) -> list[tuple[int, bytes]]:
        """See `Code`."""
        return [(1, bytes([one])) for one in _to_bytes(ids, 8)]


class GzipCode:
    """zlib's stream of each document, at its default level, header and checksum with it
    (arXiv 2404.03626, 3.4)."""

    ids_a_piece = 0

    def __init__(self, token_bits: int) -> None:
        self._bits = token_bits
        self.num_ids = 1 << token_bits

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        """See `Code`."""
        return joined([_to_ids(zlib.compress(document), self._bits) for document in documents])

    def decode(self, documents: Sequence[Ids]) -> list[bytes]:
        """See `Code`."""
        try:
            return [
                zlib.decompressobj().decompress(_to_bytes(ids, self._bits)) for ids in documents
            ]
        except zlib.error as error:
            raise ValueError(f"it is no zlib stream: {error}") from None

    def pieces(self, ids: Ids) -> list[tuple[int, bytes]]:
        """See `Code`; a document is one piece."""
        return [(len(ids), self.decode([ids])[0])] if len(ids) else []


class SteppedCode:
    """Large windows, or one arithmetic code a document.

    Args:
        stepping: how.
        token_bits: of an id, 8 or 16.
    """

    def __init__(self, stepping: Stepping, token_bits: int) -> None:
        self._stepping = stepping
        self._bits = token_bits
        self.num_ids = 1 << token_bits
        resets = stepping.reset_every == 1
        self.ids_a_piece = stepping.window_bits // token_bits if resets else 0

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        """See `Code`."""
        write = cells.cut if self._stepping.window_bits else arithmetic.code
        return joined([_to_ids(code, self._bits) for code in write(self._stepping, documents)])

    def decode(self, documents: Sequence[Ids]) -> list[bytes]:
        """See `Code`."""
        codes = [np.frombuffer(_to_bytes(ids, self._bits), np.uint8) for ids in documents]
        read = cells.join if self._stepping.window_bits else arithmetic.decode
        return read(self._stepping, codes)

    def pieces(self, ids: Ids) -> list[tuple[int, bytes]]:
        """See `Code`; an arithmetic code is one piece."""
        number = self.ids_a_piece
        if not number:
            return [(len(ids), self.decode([ids])[0])] if len(ids) else []
        windows = [ids[at : at + number] for at in range(0, len(ids) - number + 1, number)]
        return [(number, text) for text in self.decode(windows)]


def _check(ids: Ids, num_ids: int) -> None:
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < num_ids):
        wrong = next(int(one) for one in ids if not 0 <= one < num_ids)
        raise ValueError(f"there is no id {wrong:,}: they are 0 to {num_ids - 1:,}")


def _to_ids(code: bytes | npt.NDArray[np.uint8], bits: int) -> Ids:
    """Bytes as ids of 8 or 16 bits, the first byte highest; a last half one gets a zero."""
    content = np.frombuffer(code, np.uint8) if isinstance(code, bytes) else code
    if bits == 8:
        return content.astype(np.int32)
    if len(content) % 2:
        content = np.append(content, np.uint8(0))
    return np.ascontiguousarray(content).view(">u2").astype(np.int32)


def _to_bytes(ids: Ids, bits: int) -> bytes:
    """The other way.

    Raises:
        ValueError: an id has more bits.
    """
    _check(ids, 1 << bits)
    return ids.astype(np.uint8 if bits == 8 else ">u2").tobytes()
