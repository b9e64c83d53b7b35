"""Text in windows too large for a table.

The one idea: a window's W bits are a number of cells, shared out exactly. A string has some cells
one behind the other; the first says that the window ends with it, and the bytes after it share out
the rest, by their frequencies. So every number is one string and every string has one number, which
zeros at the end of a code are not (the paper's own padding decodes to something else in a fifth
of the windows; arXiv 2404.03626, D.5, has a rule that guesses).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tst_megatron.corpora.compression.compiled import compiled
from tst_megatron.corpora.compression.streams import (
    Stepping,
    Streams,
    Text,
    Words,
    by_stream,
    joined_bytes,
)

MIN_STEPPED_BITS = 16  # A byte of frequency 1 of 2^14 has a cell of its own.


def cut(stepping: Stepping, documents: Sequence[bytes]) -> list[Text]:
    """Text to windows."""
    text, place, ends = joined_bytes(documents)
    streams, found = Streams(stepping, len(documents)), []
    active = np.flatnonzero(place < ends)
    while len(active):
        byte = text[place[active]]
        went_in = np.empty(len(active), bool)
        _enter(streams.frequencies(active), byte, active, streams.base, streams.cells, went_in)
        streams.see(active[went_in], byte[went_in])
        place[active[went_in]] += 1
        ended = active[~went_in | (place[active] == ends[active])]
        found.append((ended, _big_endian(streams.base[ended], stepping.window_bytes)))
        streams.end_windows(ended)
        active = active[place[active] < ends[active]]
    return by_stream(found, len(documents))


def join(stepping: Stepping, codes: Sequence[Text]) -> list[bytes]:
    """Windows to text."""
    width = stepping.window_bytes
    if any(len(code) % width for code in codes):
        raise ValueError(f"a code is not whole windows of {width} bytes")
    code, begins, ends = joined_bytes(codes)
    numbers = _words(code, width)
    place, ends = begins // width, ends // width
    streams, found = Streams(stepping, len(codes)), []
    active = np.flatnonzero(place < ends)
    while len(active):
        byte = np.empty(len(active), np.int64)
        _leave(
            streams.frequencies(active),
            *(numbers[place[active]], active, streams.base, streams.cells, byte),
        )
        goes_on = byte >= 0
        written = byte[goes_on].astype(np.uint8)
        streams.see(active[goes_on], written)
        found.append((active[goes_on], written[:, None]))
        place[active[~goes_on]] += 1
        streams.end_windows(active[~goes_on])
        active = active[place[active] < ends[active]]
    return [one.tobytes() for one in by_stream(found, len(codes))]


def _big_endian(words: Words, width: int) -> Text:
    """``[n, 2]`` words to ``[n, width]`` bytes, the highest first."""
    return words.astype(">u8").view(np.uint8).reshape(-1, 16)[:, 16 - width :]


def _words(code: Text, width: int) -> Words:
    """``[n · width]`` bytes to ``[n, 2]`` words."""
    rows = np.zeros((len(code) // width, 16), np.uint8)
    rows[:, 16 - width :] = code.reshape(-1, width)
    return rows.view(">u8").astype(np.uint64)


@compiled
def _share(high: Any, low: Any, part: Any) -> Any:
    """(high, low) · part / 2^14, for part up to 2^14: exact, rounded down."""
    mask = np.uint64(0xFFFFFFFF)
    half, fourteen = np.uint64(32), np.uint64(14)
    first = (low & mask) * part
    second = (low >> half) * part + (first >> half)
    third = (high & mask) * part + (second >> half)
    fourth = (high >> half) * part + (third >> half)
    below = ((second & mask) << half) | (first & mask)
    above = (fourth << half) | (third & mask)
    out_low = (below >> fourteen) | (above << np.uint64(50))
    out_high = (above >> fourteen) | ((fourth >> half) << np.uint64(50))
    return out_high, out_low


@compiled
def _minus(high: Any, low: Any, other_high: Any, other_low: Any) -> Any:
    borrow = np.uint64(1) if low < other_low else np.uint64(0)
    return high - other_high - borrow, low - other_low


@compiled
def _plus(high: Any, low: Any, other_high: Any, other_low: Any) -> Any:
    total = low + other_low
    carry = np.uint64(1) if total < low else np.uint64(0)
    return high + other_high + carry, total


@compiled
def _enter(
    frequencies: Any, bytes_: Any, streams: Any, base: Any, cells: Any, went_in: Any
) -> None:
    """Give each stream's next byte its cells, where it has any.

    ``cells`` are those behind the first of a string, which says that the window ends.
    """
    one, zero = np.uint64(1), np.uint64(0)
    for row in range(len(streams)):
        stream = streams[row]
        before = np.uint64(0)
        for byte in range(bytes_[row]):
            before += np.uint64(frequencies[row, byte])
        after = before + np.uint64(frequencies[row, bytes_[row]])
        high, low = cells[stream, 0], cells[stream, 1]
        begin_high, begin_low = _share(high, low, before)
        end_high, end_low = _share(high, low, after)
        new_high, new_low = _minus(end_high, end_low, begin_high, begin_low)
        went_in[row] = new_high > zero or new_low > zero
        if went_in[row]:
            begin_high, begin_low = _plus(begin_high, begin_low, zero, one)
            base[stream, 0], base[stream, 1] = _plus(
                base[stream, 0], base[stream, 1], begin_high, begin_low
            )
            cells[stream, 0], cells[stream, 1] = _minus(new_high, new_low, zero, one)


@compiled
def _leave(
    frequencies: Any, numbers: Any, streams: Any, base: Any, cells: Any, bytes_: Any
) -> None:
    """The byte that each stream's number goes on with; -1 where its window ends."""
    one, zero = np.uint64(1), np.uint64(0)
    for row in range(len(streams)):
        stream = streams[row]
        bytes_[row] = -1
        off_high, off_low = _minus(
            numbers[row, 0], numbers[row, 1], base[stream, 0], base[stream, 1]
        )
        if off_high == zero and off_low == zero:
            continue
        off_high, off_low = _minus(off_high, off_low, zero, one)
        high, low = cells[stream, 0], cells[stream, 1]
        begin_high, begin_low, before = zero, zero, zero
        for byte in range(256):
            before += np.uint64(frequencies[row, byte])
            end_high, end_low = _share(high, low, before)
            if off_high < end_high or (off_high == end_high and off_low < end_low):
                new_high, new_low = _minus(end_high, end_low, begin_high, begin_low)
                begin_high, begin_low = _plus(begin_high, begin_low, zero, one)
                base[stream, 0], base[stream, 1] = _plus(
                    base[stream, 0], base[stream, 1], begin_high, begin_low
                )
                cells[stream, 0], cells[stream, 1] = _minus(new_high, new_low, zero, one)
                bytes_[row] = byte
                break
            begin_high, begin_low = end_high, end_low
