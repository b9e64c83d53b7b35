"""How long the documents of a corpus are: the figures, a histogram for a terminal, and a PNG.

The one idea: a corpus of many short documents may have most of its tokens in a few long ones, so
shares of documents and of tokens stand side by side. Lengths are told apart by their logarithms.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.index_file import IndexFile
from tst_megatron.files import write_whole

_PERCENTILES = (50, 90, 99)
_CHUNK = 1 << 20  # Lengths looked at together.
_BAR_WIDTH = 24
_EIGHTHS = " ▏▎▍▌▋▊▉"
_PNG_BINS = (12, 60)  # Fewest, for a few documents, and most.
_PNG_INCHES = (9.0, 4.8)
_PNG_DPI = 130
_RIGHT = 0.75
_HEADROOM = 1.35
_ROW = 0.065  # Of a name, as a share of the height.
# Blue and orange differ in lightness too, so they survive a black-and-white print.
_DOCUMENTS, _TOKENS, _MARK = "#0072b2", "#d55e00", "#5f6368"


@dataclass(frozen=True)
class Lengths:
    """The lengths of a corpus's documents, in tokens.

    Attributes:
        of_documents: ``[documents]``, of an integer dtype.
        mean: of them.
        longest: of them.
        percentiles: by per cent, the length that so many of the documents do not exceed.
    """

    of_documents: npt.NDArray[np.integer]
    mean: float
    longest: int
    percentiles: dict[int, int]

    @property
    def total(self) -> int:
        """Tokens of all documents."""
        return int(self.of_documents.sum(dtype=np.int64))


@dataclass(frozen=True)
class Bin:
    """Documents of about one length.

    Attributes:
        low: tokens of the shortest that belongs here.
        high: one more than the tokens of the longest.
        documents: how many there are.
        tokens: of all of them.
    """

    low: int
    high: int
    documents: int
    tokens: int


def lengths_of(index: IndexFile) -> Lengths:
    """The lengths of a corpus's documents."""
    lengths: npt.NDArray[np.integer] = index.lengths
    if len(index.document_boundaries) != len(lengths) + 1 or index.document_boundaries[-1] != len(
        lengths
    ):
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        lengths = np.diff(ends[index.document_boundaries])
    if not len(lengths):
        return Lengths(lengths, 0.0, 0, dict.fromkeys(_PERCENTILES, 0))
    values = np.percentile(lengths, _PERCENTILES, method="lower")
    return Lengths(
        lengths,
        float(lengths.mean(dtype=np.float64)),
        int(lengths.max()),
        {p: int(value) for p, value in zip(_PERCENTILES, values, strict=True)},
    )


def bins_of(lengths: npt.NDArray[np.integer], edges: Sequence[int]) -> list[Bin]:
    """Count lengths between neighbouring edges; all must lie within the first and the last one."""
    documents = np.zeros(len(edges) - 1, np.int64)
    tokens = np.zeros(len(edges) - 1, np.int64)
    for begin in range(0, len(lengths), _CHUNK):
        chunk = lengths[begin : begin + _CHUNK].astype(np.int64)
        places = np.searchsorted(np.asarray(edges), chunk, side="right") - 1
        documents += np.bincount(places, minlength=len(documents))
        np.add.at(tokens, places, chunk)
    return [
        Bin(int(low), int(high), int(count), int(total))
        for low, high, count, total in zip(edges[:-1], edges[1:], documents, tokens, strict=True)
    ]


def histogram_lines(lengths: Lengths) -> list[str]:
    """A row for every power of two: documents, and the shares of documents and tokens as bars."""
    if not len(lengths.of_documents):
        return []
    shortest = int(lengths.of_documents.min())
    powers = range(max(1, shortest).bit_length() - 1, lengths.longest.bit_length() + 1)
    # An empty document has a row of its own: 0 is no power of two.
    edges = [*([0] if shortest == 0 else []), *(1 << power for power in powers)]
    rows = [("tokens", "documents", "share of documents", "share of tokens")]
    for one in bins_of(lengths.of_documents, edges):
        name = f"{one.low:,}" if one.high == one.low + 1 else f"{one.low:,} to {one.high - 1:,}"
        of_documents = one.documents / len(lengths.of_documents)
        of_tokens = one.tokens / max(1, lengths.total)
        rows.append((name, f"{one.documents:,}", _bar(of_documents), _bar(of_tokens)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{name:>{widths[0]}}  {count:>{widths[1]}}  {documents:<{widths[2]}}  {tokens}".rstrip()
        for name, count, documents, tokens in rows
    ]


def _bar(share: float) -> str:
    eighths = round(share * _BAR_WIDTH * 8)
    return f"{share:6.1%} {'█' * (eighths // 8)}{_EIGHTHS[eighths % 8].strip()}"


def draw_histogram(lengths: Lengths, title: str, path: Path) -> None:
    """Write a histogram as a PNG, whole or not at all. Empty documents have no place in it.

    Bars are shares for every doubling of the length, so that equal areas are equal shares whatever
    the bars' widths are.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=_PNG_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title)
    filled = lengths.of_documents[lengths.of_documents > 0]
    if len(filled):
        low, high = int(filled.min()), int(filled.max()) + 1
        count = int(np.clip(2 * np.sqrt(len(filled)), *_PNG_BINS))
        edges = np.unique(np.geomspace(low, high, count + 1).round().astype(np.int64))
        bins = bins_of(filled, edges.tolist())
        doublings = np.diff(np.log2(edges))
        for name, colour, counts, alpha in (
            ("documents", _DOCUMENTS, [one.documents for one in bins], 0.45),
            ("tokens", _TOKENS, [one.tokens for one in bins], 0.25),
        ):
            heights = 100 * np.asarray(counts) / sum(counts) / doublings
            axes.stairs(heights, edges, fill=True, color=colour, alpha=alpha)
            axes.stairs(heights, edges, color=colour, linewidth=1.4, label=f"share of {name}")
        axes.set_xscale("log", base=2)
        axes.set_xlim(low, high)
    # Above the bars there is room for the names of what is marked.
    axes.set_ylim(0, _HEADROOM * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=11))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("tokens in a document")
    axes.set_ylabel("% of all for each doubling of the length")
    axes.spines[["top", "right"]].set_visible(False)
    _mark(axes, lengths)
    if len(filled):
        axes.legend(frameon=False, loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI)
    write_whole(path, buffer.getvalue())


def _mark(axes: Any, lengths: Lengths) -> None:
    """Lines at mean and percentiles, each with its name in a row of its own."""
    marks = [("mean", lengths.mean, "--")]
    for percentile, value in lengths.percentiles.items():
        name = "median" if percentile == 50 else f"{percentile} % are no longer than"
        marks.append((name, float(value), "-"))
    for row, (name, at, style) in enumerate(sorted(marks, key=lambda mark: mark[1])):
        axes.axvline(max(at, 1.0), color=_MARK, linestyle=style, linewidth=1)
        # In the right quarter a name stands before its line, so as to end within the picture.
        place = axes.transAxes.inverted().transform(axes.transData.transform((max(at, 1.0), 0)))[0]
        before = place > _RIGHT
        axes.annotate(
            f"{name} {at:,.0f}",
            (max(at, 1.0), 0.97 - _ROW * row),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-4 if before else 4, 0),
            textcoords="offset points",
            ha="right" if before else "left",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
