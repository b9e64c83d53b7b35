"""Documents that are coded step by step, all of them at once.

The one idea: a step asks the byte model once for what comes next in every document, which is what
makes a model worth its call; what is done with the answer is `cells` or `arithmetic`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression.growing import ByteModel

MAX_STEPPED_BITS = 128

Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Text = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stepping:
    """How text is cut and what the model sees.

    Attributes:
        model: of the bytes.
        context: bytes that it looks back at most.
        window_bits: W; 0 for one arithmetic code a document.
        reset_every: windows after which the model begins anew; 0 for never.
    """

    model: ByteModel
    context: int
    window_bits: int
    reset_every: int = 1

    @property
    def window_bytes(self) -> int:
        """Of a window's number."""
        return self.window_bits // 8


class Streams:
    """Where each of some documents is, and what the model sees of it."""

    def __init__(self, stepping: Stepping, number: int) -> None:
        self._stepping = stepping
        self.windows = np.zeros(number, np.int64)
        self.seen = np.zeros(number, np.int64)
        self.cells = np.empty((number, 2), np.uint64)
        self.base = np.zeros((number, 2), np.uint64)
        self.cells[:] = self._all_cells()
        self._recent = np.zeros((number, max(1, stepping.context)), np.uint8)

    def _all_cells(self) -> Words:
        """2^W - 1, beside the empty window's: high and low words."""
        behind = (1 << (self._stepping.window_bits or MAX_STEPPED_BITS)) - 1
        return np.array([behind >> 64, behind & ((1 << 64) - 1)], np.uint64)

    def frequencies(self, streams: Longs) -> npt.NDArray[np.int32]:
        """``[n, 256]`` of what comes next in some streams."""
        lengths = np.minimum(self.seen[streams], self._stepping.context)
        width = max(1, int(lengths.max()))
        rows = self._recent[streams, self._recent.shape[1] - width :]
        return self._stepping.model.frequencies(rows, lengths)

    def see(self, streams: Longs, byte: npt.NDArray[Any]) -> None:
        """Go on by a byte in some streams."""
        self._recent[streams, :-1] = self._recent[streams, 1:]
        self._recent[streams, -1] = byte
        self.seen[streams] += 1

    def end_windows(self, streams: Longs) -> None:
        """Begin the next window of some streams."""
        self.cells[streams] = self._all_cells()
        self.base[streams] = 0
        self.windows[streams] += 1
        if every := self._stepping.reset_every:
            self.seen[streams[self.windows[streams] % every == 0]] = 0


def joined_bytes(pieces: Sequence[Any]) -> tuple[Text, Longs, Longs]:
    """All bytes, and where each piece begins and ends."""
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
    begins = np.concatenate(([0], ends[:-1])).astype(np.int64)
    return np.frombuffer(b"".join(map(bytes, pieces)), np.uint8), begins, ends


def by_stream(found: list[tuple[Longs, Text]], number: int) -> list[Text]:
    """What every stream wrote, of pieces ``[n, width]`` in the order of time."""
    if not found:
        return [np.empty(0, np.uint8)] * number
    streams = np.concatenate([one for one, _ in found])
    pieces = np.concatenate([piece for _, piece in found])
    ordered = pieces[np.argsort(streams, kind="stable")]
    ends = np.cumsum(np.bincount(streams, minlength=number))
    return [one.reshape(-1) for one in np.split(ordered, ends[:-1])]
