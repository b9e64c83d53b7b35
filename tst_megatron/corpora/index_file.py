"""Megatron's index file, ``.idx``: read and written as arrays, without importing Megatron.

Layout (megatron/core/datasets/indexed_dataset.py, ``_IndexWriter``), little-endian: the header, the
version (uint64), the code of the tokens' dtype (uint8), the numbers of sequences and of document
boundaries (uint64 each), then the arrays of sequence lengths (int32), of sequence pointers in bytes
(int64), and of document boundaries (int64), of which there is one more than documents.

The one idea: Megatron takes seconds to import and loops over sequences one by one; tools for
corpora of billions of documents can afford neither.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.errors import UserError

HEADER = b"MMIDIDX\x00\x00"
VERSION = 1
FIXED_PART = struct.Struct("<9sQBQQ")
"""Header, version, code of the dtype, and the numbers of sequences and of boundaries."""
# indexed_dataset.DType
_CODE_OF_DTYPE = {
    "uint8": 1,
    "int8": 2,
    "int16": 3,
    "int32": 4,
    "int64": 5,
    "float64": 6,
    "float32": 7,
    "uint16": 8,
}
DTYPE_OF_CODE = {code: np.dtype(name) for name, code in _CODE_OF_DTYPE.items()}
_LARGEST_UINT16_VOCABULARY = 65500  # indexed_dataset.DType.optimal_dtype


@dataclass(frozen=True)
class IndexFile:
    """What an ``.idx`` file says; the arrays are views of the file, which stays mapped with them.

    Attributes:
        path: of the file.
        dtype: of the tokens in the ``.bin`` file.
        lengths: ``[sequences]``, int32, tokens of every sequence.
        pointers: ``[sequences]``, int64, where each begins in the ``.bin`` file, in bytes.
        document_boundaries: ``[documents + 1]``, int64, the first sequence of every document.
    """

    path: Path
    dtype: np.dtype[np.generic]
    lengths: npt.NDArray[np.int32]
    pointers: npt.NDArray[np.int64]
    document_boundaries: npt.NDArray[np.int64]

    @property
    def lengths_begin(self) -> int:
        """Where the lengths begin in the file, in bytes."""
        return FIXED_PART.size

    @property
    def pointers_begin(self) -> int:
        """Where the pointers begin in the file, in bytes."""
        return self.lengths_begin + self.lengths.nbytes

    @property
    def boundaries_begin(self) -> int:
        """Where the document boundaries begin in the file, in bytes."""
        return self.pointers_begin + self.pointers.nbytes

    @property
    def end(self) -> int:
        """Where they end; indices of multimodal corpora go on with a mode for every sequence."""
        return self.boundaries_begin + self.document_boundaries.nbytes

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def num_documents(self) -> int:
        """Documents of the corpus: one sequence each, as every tool for GPT data writes them."""
        return max(0, len(self.document_boundaries) - 1)


def index_path(prefix: str | Path) -> Path:
    """The ``.idx`` file of a prefix."""
    return Path(f"{prefix}.idx")


def bin_path(prefix: str | Path) -> Path:
    """The ``.bin`` file of a prefix."""
    return Path(f"{prefix}.bin")


def dtype_of_vocabulary(vocab_size: int) -> np.dtype[np.generic]:
    """The dtype that Megatron stores ids in (``DType.optimal_dtype``)."""
    return np.dtype(np.uint16 if vocab_size < _LARGEST_UINT16_VOCABULARY else np.int32)


def read_index(prefix: str | Path) -> IndexFile:
    """Map the index of a corpus.

    Raises:
        UserError: it is missing, cut short, or not an index of Megatron's.
    """
    path = index_path(prefix)
    try:
        with path.open("rb") as file:
            head = file.read(FIXED_PART.size)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"the corpus index {path} cannot be read: {error.strerror}") from None
    if len(head) < FIXED_PART.size or not head.startswith(HEADER):
        raise UserError(f"the corpus index {path} is broken: it is not an index of Megatron's")
    _, version, code, num_sequences, num_boundaries = FIXED_PART.unpack(head)
    if version != VERSION or code not in DTYPE_OF_CODE:
        raise UserError(
            f"the corpus index {path} is broken: version {version} with dtype code {code} is not "
            "Megatron's"
        )
    least = FIXED_PART.size + num_sequences * (4 + 8) + num_boundaries * 8
    if size < least:
        raise UserError(
            f"the corpus file {path} is cut short: it has {size:,} bytes of {least:,}; "
            "index the corpus again"
        )
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    lengths_end = FIXED_PART.size + num_sequences * 4
    pointers_end = lengths_end + num_sequences * 8
    return IndexFile(
        path,
        DTYPE_OF_CODE[code],
        np.frombuffer(mapped, np.int32, num_sequences, FIXED_PART.size),
        np.frombuffer(mapped, np.int64, num_sequences, lengths_end),
        np.frombuffer(mapped, np.int64, num_boundaries, pointers_end),
    )


def write_index(
    write: Callable[[bytes], Any],
    dtype: np.dtype[np.generic],
    num_documents: int,
    blocks_of_lengths: Callable[[], Iterable[npt.NDArray[np.int32]]],
) -> None:
    """Write an index of documents of one sequence each, byte for byte as Megatron's builder does.

    Memory is that of a block: the lengths are gone through twice and never held at once.

    Args:
        write: takes the next bytes of the file.
        dtype: of the tokens.
        num_documents: lengths in all blocks.
        blocks_of_lengths: ``[n]`` tokens of each document, in order; called twice.

    Raises:
        OSError: the file cannot be written.
    """
    code = _CODE_OF_DTYPE[dtype.name]
    write(FIXED_PART.pack(HEADER, VERSION, code, num_documents, num_documents + 1))
    for lengths in blocks_of_lengths():
        write(lengths.astype("<i4", copy=False).tobytes())
    for pointers in _pointers(blocks_of_lengths(), dtype.itemsize):
        write(pointers.astype("<i8", copy=False).tobytes())
    block = 1 << 20
    for begin in range(0, num_documents + 1, block):
        end = min(begin + block, num_documents + 1)
        write(np.arange(begin, end, dtype="<i8").tobytes())


def _pointers(
    blocks_of_lengths: Iterable[npt.NDArray[np.int32]], itemsize: int
) -> Iterator[npt.NDArray[np.int64]]:
    begin = 0
    for lengths in blocks_of_lengths:
        ends = np.cumsum(lengths, dtype=np.int64)
        yield (begin + ends - lengths) * itemsize
        begin += int(ends[-1]) if len(ends) else 0
