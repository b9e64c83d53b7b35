"""Text in one arithmetic code a document: the range coder without carries (Subbotin, 1999).

The end of a document is a symbol of its own, so that a code says by itself where it ends.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tst_megatron.corpora.compression.compiled import compiled
from tst_megatron.corpora.compression.streams import (
    Longs,
    Stepping,
    Streams,
    Text,
    by_stream,
    joined_bytes,
)

# The end of a document comes after the 256 bytes, with a frequency of 1 beside their 2^14.
_END = 256
# An interval of the coder, and how many bytes it writes at once at most.
_WHOLE, _MOST = np.uint64(0xFFFFFFFFFFFFFFFF), 16


def code(stepping: Stepping, documents: Sequence[bytes]) -> list[Text]:
    """Text to one arithmetic code a document, with its end."""
    text, place, ends = joined_bytes(documents)
    streams, found = Streams(stepping, len(documents)), []
    low, size = np.zeros(len(documents), np.uint64), np.full(len(documents), _WHOLE, np.uint64)
    active = np.flatnonzero(place <= ends)
    while len(active):
        symbol = np.full(len(active), _END, np.int64)
        goes_on = place[active] < ends[active]
        symbol[goes_on] = text[place[active[goes_on]]]
        out, counts = np.empty((len(active), _MOST), np.uint8), np.zeros(len(active), np.int64)
        _narrow(streams.frequencies(active), symbol, active, low, size, out, counts)
        found.append((np.repeat(active, counts), _first_of(out, counts)))
        streams.see(active[goes_on], symbol[goes_on])
        place[active] += 1
        active = active[goes_on]
    return by_stream(found, len(documents))


def _first_of(rows: Text, counts: Longs) -> Text:
    """``[sum of counts, 1]``, so many bytes of each row."""
    return rows[np.arange(rows.shape[1]) < counts[:, None]][:, None]


def decode(stepping: Stepping, codes: Sequence[Text]) -> list[bytes]:
    """What `code` made of text; zeros stand behind a code."""
    padding = np.zeros(_MOST, np.uint8)
    text, begins, _ = joined_bytes([piece for one in codes for piece in (one, padding)])
    place, last = begins[::2].copy(), begins[1::2]
    streams, found = Streams(stepping, len(codes)), []
    low, size = np.zeros(len(codes), np.uint64), np.full(len(codes), _WHOLE, np.uint64)
    value = np.zeros(len(codes), np.uint64)
    active = np.arange(len(codes))
    _read(text, active, place, last, value)
    while len(active):
        symbol = np.empty(len(active), np.int64)
        _widen(streams.frequencies(active), active, text, place, last, low, size, value, symbol)
        goes_on = symbol != _END
        written = symbol[goes_on].astype(np.uint8)
        streams.see(active[goes_on], written)
        found.append((active[goes_on], written[:, None]))
        active = active[goes_on]
        if (place[active] > last[active] + _MOST).any():
            raise ValueError("a code has no end")
    return [one.tobytes() for one in by_stream(found, len(codes))]


@compiled
def _settled(low: Any, size: Any) -> Any:
    """(whether the first byte is settled, the size for that)."""
    if low ^ (low + size) < np.uint64(1) << np.uint64(56):
        return True, size
    narrow = np.uint64(1) << np.uint64(48)
    if size < narrow:  # Cut where a carry would come.
        return True, (np.uint64(0) - low) & (narrow - np.uint64(1))
    return False, size


@compiled
def _interval(frequencies: Any, symbol: int) -> Any:
    before = np.uint64(0)
    for byte in range(symbol):
        before += np.uint64(frequencies[byte])
    return before, np.uint64(1) if symbol == 256 else np.uint64(frequencies[symbol])


@compiled
def _narrow(
    frequencies: Any, symbols: Any, streams: Any, low: Any, size: Any, out: Any, counts: Any
) -> None:
    """Code each stream's next symbol; behind the last one all that is left."""
    eight, top = np.uint64(8), np.uint64(56)
    for row in range(len(streams)):
        stream = streams[row]
        before, width = _interval(frequencies[row], symbols[row])
        unit = size[stream] // np.uint64(16385)
        at, wide = low[stream] + unit * before, unit * width
        while True:
            is_settled, wide = _settled(at, wide)
            if not is_settled:
                break
            out[row, counts[row]] = at >> top
            counts[row] += 1
            at, wide = at << eight, wide << eight
        if symbols[row] == 256:
            # The fewest bytes that with zeros behind them lie in the interval.
            for number in range(1, 9):
                shift = np.uint64(64 - 8 * number)
                rounded = ((at + (np.uint64(1) << shift) - np.uint64(1)) >> shift) << shift
                if rounded - at < wide:
                    break
            for place in range(number):
                out[row, counts[row]] = (rounded >> (top - eight * np.uint64(place))) & np.uint64(
                    255
                )
                counts[row] += 1
        low[stream], size[stream] = at, wide


@compiled
def _next_byte(code: Any, place: Any, last: Any, stream: int) -> Any:
    at = place[stream]
    place[stream] += 1
    return np.uint64(code[at]) if at < last[stream] else np.uint64(0)


@compiled
def _read(code: Any, streams: Any, place: Any, last: Any, value: Any) -> None:
    for stream in streams:
        for _ in range(8):
            value[stream] = (value[stream] << np.uint64(8)) | _next_byte(code, place, last, stream)


@compiled
def _widen(
    frequencies: Any,
    streams: Any,
    code: Any,
    place: Any,
    last: Any,
    low: Any,
    size: Any,
    value: Any,
    symbols: Any,
) -> None:
    """Find each stream's next symbol."""
    for row in range(len(streams)):
        stream = streams[row]
        unit = size[stream] // np.uint64(16385)
        count = (value[stream] - low[stream]) // unit
        before, symbol = np.uint64(0), 0
        while symbol < 256 and before + np.uint64(frequencies[row, symbol]) <= count:
            before += np.uint64(frequencies[row, symbol])
            symbol += 1
        width = np.uint64(1) if symbol == 256 else np.uint64(frequencies[row, symbol])
        at, wide = low[stream] + unit * before, unit * width
        while True:
            is_settled, wide = _settled(at, wide)
            if not is_settled:
                break
            value[stream] = (value[stream] << np.uint64(8)) | _next_byte(code, place, last, stream)
            at, wide = at << np.uint64(8), wide << np.uint64(8)
        low[stream], size[stream] = at, wide
        symbols[row] = symbol
