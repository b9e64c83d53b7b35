"""The next byte by counting: how often it came after the last few bytes, in integers alone.

The one idea: nothing here is a floating-point number, so that the same counts give the same
frequencies on every machine, whatever its processor, libraries and number of threads. An order is
mixed with the one below it by absolute discounting (Ney, Essen and Kneser, 1994): of each byte that
was seen, three quarters of an occurrence go to what the shorter context says.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression.compiled import compiled

PRECISION = 14
"""Frequencies of the 256 bytes sum to 2 to this (arXiv 2404.03626, 3.3)."""
MAX_ORDER = 6  # A context and the byte after it fit a 64-bit key.
MAX_BYTES = 1 << 30
"""Of text that is counted: sums stay below 2^63."""
_BYTES = 256
# What all bytes have together while orders are mixed, and what a seen one gives away: 3/4.
_ONE = 1 << 30
_GIVEN, _OF = 3, 4

Keys = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CountModel:
    """Counts of bytes after contexts of every length up to an order, one behind the other.

    Attributes:
        orders: ``[order + 2]``, int64: where the contexts of each length begin in ``contexts``.
        contexts: ``[contexts]``, uint64: the bytes of a context, the last one lowest; sorted within
            a length. That of length 0 is the first.
        begins: ``[contexts + 1]``, int64: where each one's bytes begin.
        symbols: ``[counts]``, uint8: bytes that came after it.
        counts: ``[counts]``, int64: how often.
    """

    orders: Longs
    contexts: Keys
    begins: Longs
    symbols: npt.NDArray[np.uint8]
    counts: Longs

    @property
    def order(self) -> int:
        """The longest context, in bytes."""
        return len(self.orders) - 2

    @property
    def arrays(self) -> tuple[Any, ...]:
        """As compiled loops take them."""
        return (self.orders, self.contexts, self.begins, self.symbols, self.counts)

    @classmethod
    def trained(cls, documents: Iterable[bytes], order: int) -> "CountModel":
        """Count.

        Args:
            documents: text; contexts do not reach from one into the next.
            order: the longest context, in bytes; 0 counts bytes by themselves.

        Raises:
            ValueError: the order is not from 0 to `MAX_ORDER`, or there is no text or too much.
        """
        if not 0 <= order <= MAX_ORDER:
            raise ValueError(f"the order {order} is not from 0 to {MAX_ORDER}")
        pieces = [np.frombuffer(document, np.uint8) for document in documents if document]
        if not pieces:
            raise ValueError("there is no text to count")
        text = np.concatenate(pieces)
        if len(text) > MAX_BYTES:
            raise ValueError(f"there are {len(text):,} bytes to count, and {MAX_BYTES:,} at most")
        starts = np.repeat(np.cumsum([0, *map(len, pieces[:-1])]), list(map(len, pieces)))
        depth = np.arange(len(text)) - starts  # Bytes before it in its document.
        keys, number = [], []
        key = np.zeros(len(text), np.uint64)
        for length in range(order + 1):
            if length:
                shifted = np.zeros_like(text, np.uint64)
                shifted[length:] = text[:-length]
                key |= shifted << np.uint64(8 * (length - 1))
            long_enough = depth >= length
            both = (key[long_enough] << np.uint64(8)) | text[long_enough]
            found, times = np.unique(both, return_counts=True)
            keys.append(found)
            number.append(times)
        return cls._of(keys, number)

    @classmethod
    def _of(cls, keys: list[Keys], number: list[Longs]) -> "CountModel":
        """Of keys (context, byte) of each length, sorted, and how often each came."""
        orders, contexts, begins, before = [0], [], [], 0
        for found in keys:
            context, first = np.unique(found >> np.uint64(8), return_index=True)
            contexts.append(context)
            begins.append(first + before)
            orders.append(orders[-1] + len(context))
            before += len(found)
        return cls(
            np.array(orders, np.int64),
            np.concatenate(contexts),
            np.concatenate([*begins, [before]]).astype(np.int64),
            (np.concatenate(keys) & np.uint64(255)).astype(np.uint8),
            np.concatenate(number).astype(np.int64),
        )

    def frequencies(self, contexts: npt.NDArray[np.uint8], lengths: Longs) -> npt.NDArray[np.int32]:
        """How often each byte comes next, of 2^14.

        Args:
            contexts: ``[n, width]``, the last bytes before, the last one rightmost.
            lengths: ``[n]``, how many of them are there.

        Returns:
            ``[n, 256]``, int32, each 1 or more.
        """
        out = np.empty((len(contexts), _BYTES), np.int32)
        _frequencies_of_all(
            self.orders,
            self.contexts,
            self.begins,
            self.symbols,
            self.counts,
            contexts,
            lengths,
            out,
        )
        return out


@compiled
def _frequencies_of_all(
    orders: Any,
    contexts: Any,
    begins: Any,
    symbols: Any,
    counts: Any,
    rows: Any,
    lengths: Any,
    out: Any,
) -> None:
    width, longest = rows.shape[1], len(orders) - 2
    mixed = np.empty(256, np.int64)
    for row in range(len(rows)):
        key = np.uint64(0)
        length = min(lengths[row], longest)
        for place in range(length):
            key |= np.uint64(rows[row, width - 1 - place]) << np.uint64(8 * place)
        mix(orders, contexts, begins, symbols, counts, key, length, mixed)
        rounded(mixed, out[row])


@compiled
def round_rows(shares: Any, out: Any) -> None:
    """`rounded` of each row ``[n, 256]``."""
    for row in range(len(shares)):
        rounded(shares[row], out[row])


@compiled
def mix(
    orders: Any,
    contexts: Any,
    begins: Any,
    symbols: Any,
    counts: Any,
    key: Any,
    length: int,
    mixed: Any,
) -> None:
    """Mix the orders up to a context's length, into ``mixed`` ``[256]``, int64, about 2^30 in all.

    Args:
        orders: and the four after it: a model's arrays.
        contexts: as above.
        begins: as above.
        symbols: as above.
        counts: as above.
        key: the last 8 bytes, the last one lowest.
        length: bytes of it that are there, at most the order.
        mixed: is written to.
    """
    longest, at = -1, np.empty(8, np.int64)
    for order in range(length + 1):
        mask = (np.uint64(1) << np.uint64(8 * order)) - np.uint64(1)
        at[order] = _find(contexts, orders[order], orders[order + 1], key & mask)
        if at[order] < 0:
            break  # Then no longer context was seen either.
        longest = order
    mixed[:] = 0
    left = np.int64(_ONE)  # What the longer contexts leave to this one.
    for order in range(longest, -1, -1):
        begin, end = begins[at[order]], begins[at[order] + 1]
        total = np.int64(0)
        for place in range(begin, end):
            total += counts[place]
        whole = _OF * total
        for place in range(begin, end):
            mixed[symbols[place]] += (_OF * counts[place] - _GIVEN) * left // whole
        # To the order below: 3/4 of a seen byte's occurrence, for each byte that was seen.
        left = left * (_GIVEN * (end - begin)) // whole
    mixed += left // 256


@compiled
def _find(contexts: Any, begin: int, end: int, key: Any) -> int:
    """The place of a context among sorted ones; -1 where it is not there."""
    low, high = begin, end
    while low < high:
        middle = (low + high) >> 1
        if contexts[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < end and contexts[low] == key else -1


@compiled
def rounded(mixed: Any, out: Any) -> None:
    """Shares ``[256]``, int64, to frequencies that sum to 2^14, each 1 or more.

    Args:
        mixed: below 2^48 each.
        out: ``[256]``, int32, is written to.
    """
    total, largest = np.int64(0), 0
    for byte in range(256):
        total += mixed[byte]
        if mixed[byte] > mixed[largest]:
            largest = byte
    left = (1 << 14) - 256
    given = left
    for byte in range(256):
        share = mixed[byte] * left // total
        out[byte] = 1 + share
        given -= share
    out[largest] += given
