"""Windows as a table: text to window numbers by a walk, and back by copying.

The one idea: a walk goes down the tree of windows byte by byte until there is no longer one, gives
that one's number, and begins anew; what it gives is never ambiguous, as it is numbers that are
written and not the coder's bits (padding those is not lossless). No model takes part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression.compiled import compiled
from tst_megatron.corpora.compression.growing import LONGEST, Strings

Longs = npt.NDArray[np.int64]
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
# Knuth's multiplicative hash: 2^32 over the golden ratio.
_SPREAD = 2654435769


@dataclass(frozen=True)
class Windows:
    """All windows, numbered in the order of `Strings`."""

    strings: Strings

    def __post_init__(self) -> None:
        lengths, last = self.strings.lengths, self.strings.last
        steps = np.diff(lengths.astype(np.int64), prepend=0)
        first = last[lengths == 1]
        if len(first) != 256 or (steps > 1).any() or not (np.diff(first.astype(int)) == 1).all():
            raise ValueError("it is no tree of strings that has every single byte")

    def __len__(self) -> int:
        return len(self.strings)

    @property
    def content(self) -> bytes:
        """What defines them: the length and the last byte of each, two bytes a window."""
        return np.stack((self.strings.lengths, self.strings.last), axis=1).tobytes()

    @property
    def sha256(self) -> str:
        """Of `content`."""
        return sha256(self.content).hexdigest()

    @classmethod
    def of(cls, content: bytes) -> "Windows":
        """What `content` gave.

        Raises:
            ValueError: it is nothing of the kind.
        """
        if not content or len(content) % 2:
            raise ValueError("it is not two bytes a window")
        both = np.frombuffer(content, np.uint8).reshape(-1, 2)
        return cls(Strings(both[:, 0].copy(), both[:, 1].copy()))

    @cached_property
    def _bytes(self) -> tuple[npt.NDArray[np.uint8], Longs]:
        """All windows' bytes, one behind the other, and where each begins, ``[n + 1]``."""
        lengths = self.strings.lengths.astype(np.int64)
        begins = np.concatenate(([0], np.cumsum(lengths)))
        out = np.empty(begins[-1], np.uint8)
        _spell(self.strings.lengths, self.strings.last, begins, out)
        return out, begins

    @cached_property
    def _children(self) -> tuple[npt.NDArray[np.uint64], Longs]:
        """An open table of (window, byte) to the longer window, and the 256 shortest ones."""
        slots = np.full(1 << max(10, (2 * len(self)).bit_length()), _NONE, np.uint64)
        first = np.empty(256, np.int64)
        _fill(self.strings.lengths, self.strings.last, slots, first)
        return slots, first

    def string(self, number: int) -> bytes:
        """A window's bytes."""
        text, begins = self._bytes
        return text[begins[number] : begins[number + 1]].tobytes()

    @property
    def lengths(self) -> npt.NDArray[np.uint8]:
        """``[n]``, bytes of each window."""
        return self.strings.lengths

    def encode(self, documents: Sequence[bytes]) -> tuple[npt.NDArray[np.int32], Longs]:
        """Numbers of the windows of documents, each by itself.

        Returns:
            ``[windows]`` of all of them, and ``[documents]`` how many of each.
        """
        text = np.frombuffer(b"".join(documents), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents)))
        numbers = np.empty(len(text), np.int32)
        counts = np.empty(len(documents), np.int64)
        written = _walk(text, ends, *self._children, numbers, counts)
        return numbers[:written].copy(), counts

    def decode(self, numbers: npt.NDArray[np.integer[Any]]) -> bytes:
        """The text of windows.

        Raises:
            ValueError: a number is not a window's.
        """
        if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < len(self)):
            wrong = next(int(one) for one in numbers if not 0 <= one < len(self))
            raise ValueError(f"there is no window {wrong:,}: they are 0 to {len(self) - 1:,}")
        text, begins = self._bytes
        indices = np.asarray(numbers, np.int64)
        lengths = self.strings.lengths[indices].astype(np.int64)
        out = np.empty(int(lengths.sum()), np.uint8)
        _copy(indices, text, begins, out)
        return out.tobytes()


@compiled
def _spell(lengths: Any, last: Any, begins: Any, out: Any) -> None:
    path = np.empty(LONGEST + 1, np.uint8)
    for number in range(len(lengths)):
        length = lengths[number]
        path[length - 1] = last[number]
        out[begins[number] : begins[number] + length] = path[:length]


@compiled
def _place(window: Any, byte: Any, mask: Any) -> Any:
    key = (np.uint64(window) << np.uint64(8)) | np.uint64(byte)
    return key, (key * np.uint64(_SPREAD) >> np.uint64(16)) & mask


@compiled
def _fill(lengths: Any, last: Any, slots: Any, first: Any) -> None:
    mask = np.uint64(len(slots) - 1)
    path = np.zeros(LONGEST + 1, np.int64)
    for number in range(len(lengths)):
        length = lengths[number]
        path[length] = number
        if length == 1:
            first[last[number]] = number
            continue
        key, at = _place(path[length - 1], last[number], mask)
        while slots[at] != np.uint64(0xFFFFFFFFFFFFFFFF):
            at = (at + np.uint64(1)) & mask
        slots[at] = (key << np.uint64(32)) | np.uint64(number)


@compiled
def _walk(text: Any, ends: Any, slots: Any, first: Any, numbers: Any, counts: Any) -> int:
    mask = np.uint64(len(slots) - 1)
    written, begin = 0, 0
    for document in range(len(ends)):
        before, end = written, ends[document]
        window = np.int64(-1)
        for place in range(begin, end):
            byte = text[place]
            if window >= 0:
                key, at = _place(window, byte, mask)
                longer = np.int64(-1)
                while slots[at] != np.uint64(0xFFFFFFFFFFFFFFFF):
                    if slots[at] >> np.uint64(32) == key:
                        longer = np.int64(slots[at] & np.uint64(0xFFFFFFFF))
                        break
                    at = (at + np.uint64(1)) & mask
                if longer >= 0:
                    window = longer
                    continue
                numbers[written] = window
                written += 1
            window = first[byte]
        if window >= 0:
            numbers[written] = window
            written += 1
        counts[document] = written - before
        begin = end
    return written


@compiled
def _copy(numbers: Any, text: Any, begins: Any, out: Any) -> None:
    at = 0
    for number in numbers:
        begin, end = begins[number], begins[number + 1]
        for place in range(begin, end):
            out[at] = text[place]
            at += 1
