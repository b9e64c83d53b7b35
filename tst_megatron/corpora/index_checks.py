"""Whether an ``.idx`` file can be true: its header, its pointers, its document boundaries.

The one idea: every pointer is said twice, by the file and by the lengths before it, so an entry
that is wrong stands out against its neighbours and can be named by its own bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tst_megatron.corpora.index_file import (
    DTYPE_OF_CODE,
    FIXED_PART,
    HEADER,
    VERSION,
    IndexFile,
    bin_path,
)
from tst_megatron.corpora.manifest import Manifest

_CHUNK = 1 << 20  # Entries looked at together.

# The parts of `FIXED_PART`, (begin, end) in bytes.
_HEADER, _VERSION, _DTYPE, _SEQUENCES, _BOUNDARIES = (0, 9), (9, 17), (17, 18), (18, 26), (26, 34)


@dataclass(frozen=True)
class Finding:
    """Bytes that are not what they should be.

    Attributes:
        path: of the file.
        begin: the first of the bytes.
        end: one past the last.
        reason: what is wrong with them.
    """

    path: Path
    begin: int
    end: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, bytes {self.begin}-{self.end - 1}: {self.reason}"


def check_header(path: Path, manifest: Manifest | None) -> Finding | None:
    """Check the part of fixed size, and that the file is as long as it says.

    Args:
        path: of the ``.idx`` file.
        manifest: what is known of the corpus, if anything.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(FIXED_PART.size)
    if manifest is not None and size != manifest.idx.size:
        begin, end = sorted((size, manifest.idx.size))
        reason = f"the file has {size} bytes and the manifest says {manifest.idx.size}"
        return Finding(path, begin, end, reason)
    if len(head) < FIXED_PART.size:
        return Finding(path, size, FIXED_PART.size, "the file ends within its header")
    magic, version, code, num_sequences, num_boundaries = FIXED_PART.unpack(head)

    def wrong(part: tuple[int, int], reason: str) -> Finding:
        return Finding(path, *part, reason)

    if magic != HEADER:
        return wrong(_HEADER, "this is not how an index of Megatron's begins")
    if version != VERSION:
        return wrong(_VERSION, f"version {version} is not Megatron's, which is {VERSION}")
    if code not in DTYPE_OF_CODE:
        return wrong(_DTYPE, f"there is no dtype with code {code}")
    if manifest is not None:
        if DTYPE_OF_CODE[code].name != manifest.dtype:
            own = DTYPE_OF_CODE[code].name
            return wrong(_DTYPE, f"the dtype is {own} and the manifest says {manifest.dtype}")
        counts = f"and the manifest says {manifest.documents} documents of one sequence each"
        if num_sequences != manifest.documents:
            return wrong(_SEQUENCES, f"there are {num_sequences} sequences, {counts}")
        if num_boundaries != manifest.documents + 1:
            return wrong(_BOUNDARIES, f"there are {num_boundaries} boundaries, {counts}")
    if num_boundaries == 0:
        return wrong(_BOUNDARIES, "there is no document boundary, and an empty corpus has one")
    told = FIXED_PART.size + num_sequences * (4 + 8) + num_boundaries * 8
    # A corpus of text and images has a mode (int8) for every sequence after that.
    if size not in (told, told + num_sequences):
        begin, end = sorted((size, told))
        return Finding(
            path,
            begin,
            end,
            f"the file has {size} bytes and its header asks for {told} (or the header's counts, "
            f"bytes {_SEQUENCES[0]}-{_BOUNDARIES[1] - 1}, are wrong)",
        )
    return None


def check_pointers(index: IndexFile, bin_size: int, is_known: bool) -> Finding | None:
    """Check that lengths and pointers say the same, and that the tokens end where they say.

    Args:
        index: whose header has been checked.
        bin_size: of the ``.bin`` file, in bytes.
        is_known: that this is its right size, as a manifest tells; otherwise the file may be at
            fault as well.
    """
    itemsize, count = index.dtype.itemsize, len(index.lengths)

    def begin_of(sequence: int) -> int:
        return int(index.pointers[sequence]) if sequence < count else bin_size

    def bytes_of(sequence: int) -> int:
        return int(index.lengths[sequence]) * itemsize

    def is_wrong(sequence: int) -> bool:
        told = begin_of(sequence + 1) - begin_of(sequence)
        return told != bytes_of(sequence) or told < 0

    def wrong_pointer(sequence: int, right: int) -> Finding:
        begin = index.pointers_begin + 8 * sequence
        reason = f"sequence {sequence} begins at byte {begin_of(sequence)} and should at {right}"
        return Finding(index.path, begin, begin + 8, reason)

    if count and begin_of(0):
        return wrong_pointer(0, 0)
    first = _first_wrong_sequence(index, bin_size)
    if first is None:
        return _check_empty(index, bin_size) if not count else None
    length_begin = index.lengths_begin + 4 * first
    if bytes_of(first) < 0:
        reason = f"sequence {first} has the negative length {index.lengths[first]}"
        return Finding(index.path, length_begin, length_begin + 4, reason)
    end = begin_of(first) + bytes_of(first)
    if first + 1 < count and is_wrong(first + 1):
        right_together = end + bytes_of(first + 1) == begin_of(first + 2)
        if right_together and bytes_of(first + 1) >= 0:
            return wrong_pointer(first + 1, end)
    if first + 1 == count and not is_known:
        path = bin_path(index.path.with_suffix(""))
        begin, after = sorted((bin_size, end))
        reason = (
            f"the file has {bin_size} bytes and the index asks for {end} (or the last length, "
            f"bytes {length_begin}-{length_begin + 3} of {index.path.name}, is wrong)"
        )
        return Finding(path, begin, after, reason)
    room = (begin_of(first + 1) - begin_of(first)) / itemsize
    reason = f"sequence {first} has {index.lengths[first]} tokens and the pointers say {room:g}"
    return Finding(index.path, length_begin, length_begin + 4, reason)


def _first_wrong_sequence(index: IndexFile, bin_size: int) -> int | None:
    count = len(index.lengths)
    for begin in range(0, count, _CHUNK):
        end = min(begin + _CHUNK, count)
        lengths = index.lengths[begin:end].astype(np.int64)
        # One more than lengths: where the last one ends.
        pointers = index.pointers[begin : end + 1].astype(np.int64)
        if end == count:
            pointers = np.append(pointers, np.int64(bin_size))
        wrong = (np.diff(pointers) != lengths * index.dtype.itemsize) | (lengths < 0)
        if wrong.any():
            return begin + int(wrong.argmax())
    return None


def _check_empty(index: IndexFile, bin_size: int) -> Finding | None:
    if not bin_size:
        return None
    path = bin_path(index.path.with_suffix(""))
    return Finding(path, 0, bin_size, "the index holds no sequence")


def check_boundaries(index: IndexFile, is_one_sequence_each: bool) -> Finding | None:
    """Check that document boundaries rise from 0 to the number of sequences.

    Args:
        index: whose header has been checked.
        is_one_sequence_each: that document i is sequence i, as in every corpus with a manifest.
    """
    boundaries = index.document_boundaries
    count = len(boundaries)

    def wrong(begin: int, end: int, reason: str) -> Finding:
        at = index.boundaries_begin
        return Finding(index.path, at + 8 * begin, at + 8 * end, reason)

    if boundaries[0] != 0:
        return wrong(0, 1, f"the first document begins at sequence {boundaries[0]} and not at 0")
    for begin in range(0, count, _CHUNK):
        # One more than are looked at, to compare the last with.
        values = boundaries[begin : begin + _CHUNK + 1].astype(np.int64)
        if is_one_sequence_each:
            differs = values != np.arange(begin, begin + len(values))
            if differs.any():
                at = int(differs.argmax())
                reason = f"document {begin + at} begins at sequence {values[at]}"
                return wrong(begin + at, begin + at + 1, reason)
        falls = np.diff(values) < 0
        if falls.any():
            at = int(falls.argmax())
            reason = (
                f"document {begin + at} begins at sequence {values[at]} and the next one before "
                f"it, at {values[at + 1]}"
            )
            return wrong(begin + at, begin + at + 2, reason)
    if boundaries[-1] != len(index.lengths):
        reason = (
            f"the last document ends at sequence {boundaries[-1]} and there are "
            f"{len(index.lengths)}"
        )
        return wrong(count - 1, count, reason)
    return None
