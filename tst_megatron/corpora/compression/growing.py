"""Which strings are windows: a tree of bytes, grown where a byte model says that text goes.

The one idea: with the coder and the model reset at every window, what a window holds depends on the
bytes that follow and on nothing else. So the windows of a given size are a fixed set of strings,
closed under prefixes, and may be found once, by asking the model at every node (arXiv 2404.03626
encodes step by step, and has no such set). All of it is in integers: an interval of the coder is a
place and a width in units of 2^-48.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression.counts import PRECISION

RULES = ("all", "fit", "delay")
MIN_WINDOW_BITS = 9  # 256 bytes and the end of a document.
MAX_WINDOW_BITS = 24  # 2^24 strings; beyond, a table is no answer.
LONGEST = 255
"""Bytes of a window at most: a length fits a byte."""
_UNIT_BITS = 48
_NODES_AT_ONCE = 4_096

Longs = npt.NDArray[np.int64]


class ByteModel(Protocol):
    """What comes after some bytes."""

    def frequencies(self, contexts: npt.NDArray[np.uint8], lengths: Longs) -> npt.NDArray[np.int32]:
        """How often each byte comes next, of 2^14.

        Args:
            contexts: ``[n, width]``, the bytes since the window's beginning, the last rightmost.
            lengths: ``[n]``, how many they are.

        Returns:
            ``[n, 256]``, each 1 or more.
        """
        ...


@dataclass(frozen=True)
class Strings:
    """Windows, in the order of the coder's intervals: a string before those that begin with it.

    Attributes:
        lengths: ``[n]``, uint8, bytes of each.
        last: ``[n]``, uint8, the last byte of each.
    """

    lengths: npt.NDArray[np.uint8]
    last: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.lengths)


def grown(
    model: ByteModel,
    window_bits: int,
    rule: str,
    told: Callable[[int], None] = lambda number: None,
) -> Strings:
    """Find the windows.

    Args:
        model: of the bytes.
        window_bits: W.
        rule: ``fit``, the paper's: a byte goes into a window as long as W bits are enough for it.
            ``delay``, its ablation (A.5): nor does one that leaves the bits as they are. ``all``:
            the likeliest 2^W - 1 strings, so that with the end of a document every id is used.
        told: hears how many strings were found so far.

    Returns:
        At most 2^W - 1 strings, and every single byte among them.

    Raises:
        ValueError: W or the rule is none.
    """
    if not MIN_WINDOW_BITS <= window_bits <= MAX_WINDOW_BITS:
        raise ValueError(
            f"a window of {window_bits} bits is not from {MIN_WINDOW_BITS} to {MAX_WINDOW_BITS}"
        )
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule}: take one of {', '.join(RULES)}")
    most = (1 << window_bits) - 1
    tree = _Tree(model)
    tree.expand(np.zeros(1, np.int64), lambda low, width, parents: np.ones(width.shape, bool))
    if rule == "all":
        _grow_likeliest(tree, most, told)
    else:
        _grow_fitting(tree, window_bits, rule == "delay", told)
    return tree.strings(most)


class _Tree:
    """Strings that were found; number 0 is the empty one."""

    def __init__(self, model: ByteModel) -> None:
        self._model = model
        self.parents = np.zeros(1, np.int64)
        self.last = np.zeros(1, np.uint8)
        self.depths = np.zeros(1, np.int64)
        self.low = np.zeros(1, np.int64)
        self.width = np.full(1, 1 << _UNIT_BITS, np.int64)
        self.is_expanded = np.zeros(1, bool)

    def expand(
        self, nodes: Longs, accepts: Callable[[Any, Any, Any], npt.NDArray[np.bool_]]
    ) -> None:
        """Add those strings, a byte longer than these, that are accepted.

        Args:
            nodes: ``[n]``.
            accepts: of ``low`` and ``width`` ``[n, 256]`` of the longer strings, and ``nodes``.
        """
        self.is_expanded[nodes] = True
        nodes = nodes[self.depths[nodes] < LONGEST]
        found: list[tuple[Any, ...]] = []
        for begin in range(0, len(nodes), _NODES_AT_ONCE):
            some = nodes[begin : begin + _NODES_AT_ONCE]
            low, width = self._intervals(some)
            row, byte = np.nonzero(accepts(low, width, some))
            found.append((some[row], byte, low[row, byte], width[row, byte]))
        if not found:
            return
        parents, byte, low, width = (np.concatenate(column) for column in zip(*found, strict=True))
        self.depths = np.concatenate((self.depths, self.depths[parents] + 1))
        self.parents = np.concatenate((self.parents, parents))
        self.last = np.concatenate((self.last, byte.astype(np.uint8)))
        self.low = np.concatenate((self.low, low))
        self.width = np.concatenate((self.width, width))
        self.is_expanded = np.concatenate((self.is_expanded, np.zeros(len(parents), bool)))

    def _intervals(self, nodes: Longs) -> tuple[Longs, Longs]:
        """``low`` and ``width`` ``[n, 256]`` of the strings a byte longer."""
        frequencies = self._model.frequencies(*self._contexts(nodes)).astype(np.int64)
        ends = np.cumsum(frequencies, axis=1)
        width = self.width[nodes, None]
        # Below 2^48 · 2^14.
        begin, end = (width * (ends - frequencies)) >> PRECISION, (width * ends) >> PRECISION
        return self.low[nodes, None] + begin, end - begin

    def _contexts(self, nodes: Longs) -> tuple[npt.NDArray[np.uint8], Longs]:
        depths = self.depths[nodes]
        rows = np.zeros((len(nodes), max(1, int(depths.max()))), np.uint8)
        at = nodes.copy()
        for place in range(rows.shape[1]):
            is_there = depths > place
            rows[is_there, -1 - place] = self.last[at[is_there]]
            at[is_there] = self.parents[at[is_there]]
        return rows, depths

    def strings(self, most: int) -> Strings:
        """The likeliest so many, single bytes first of all, in order."""
        rank = np.where(self.depths == 1, np.iinfo(np.int64).max, self.width)[1:]
        # A string is likelier than all that begin with it, so that these stay a tree.
        kept = 1 + np.argsort(-rank, kind="stable")[:most]
        by_interval = kept[np.lexsort((self.depths[kept], self.low[kept]))]
        return Strings(self.depths[by_interval].astype(np.uint8), self.last[by_interval])


def _grow_likeliest(tree: _Tree, most: int, told: Callable[[int], None]) -> None:
    """Until no string that was not asked about may have one of the ``most`` likeliest in it."""
    at_once = max(_NODES_AT_ONCE, most // 16)
    enough = 1
    while True:
        if len(tree.width) > most:
            enough = max(1, -int(np.partition(-tree.width[1:], most - 1)[most - 1]))
        todo = np.flatnonzero(~tree.is_expanded & (tree.width >= enough))
        if not len(todo):
            return
        if len(todo) > at_once:  # The likeliest first: what they find tells which others matter.
            todo = todo[np.argpartition(-tree.width[todo], at_once)[:at_once]]
            todo.sort()
        tree.expand(todo, _at_least(enough))
        told(min(len(tree.width) - 1, most))


def _at_least(least: int) -> Callable[[Any, Any, Any], npt.NDArray[np.bool_]]:
    def is_likely(low: Any, width: Any, parents: Any) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = width >= least
        return found

    return is_likely


def _grow_fitting(tree: _Tree, window_bits: int, delays: bool, told: Callable[[int], None]) -> None:
    shift = _UNIT_BITS - window_bits
    unit = (1 << shift) - 1

    def fits(low: Any, width: Any, parents: Any) -> npt.NDArray[np.bool_]:
        first = (low + unit) >> shift  # The first W-bit number that begins in the interval.
        holds: npt.NDArray[np.bool_] = first < (low + width) >> shift
        if delays:
            holds &= first != ((tree.low[parents] + unit) >> shift)[:, None]
        return holds

    while len(todo := np.flatnonzero(~tree.is_expanded)):
        tree.expand(todo, fits)
        told(len(tree.width) - 1)
