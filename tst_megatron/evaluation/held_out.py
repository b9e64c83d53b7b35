"""Held-out text in nats a token and bits a byte, whatever the tokenizer.

The one idea: a document is scored by itself, every one of its tokens once, and the bytes are those
of its own UTF-8 text. A document that is longer than the model takes is cut into windows. The first
scores as many tokens as the model takes, those after it ``stride`` each, after as many tokens of
the same document as fill the window up. By default the stride is all that the model takes: windows
do not overlap, and each knows of those before it only their last token. The first token is scored
after the token that the model was trained to begin a document after; the end of a document is not
scored.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.corpora.reading.chunks import read_documents
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import find_inputs
from tst_megatron.errors import UserError
from tst_megatron.evaluation.answerer import Row, Scorer
from tst_megatron.evaluation.results import Evaluated, Item, hash_of
from tst_megatron.runs.evaluations import BITS_A_BYTE, NATS_A_TOKEN, Score
from tst_megatron.statistics.weighted_mean import influences, variance_of, weighted_mean

# Documents that are asked of together: enough that rows of like length fill batches.
_TOGETHER = 256
_NO_START = (
    "The tokenizer names no token that begins or ends a document, so the first token of a document "
    "is not scored, and bits a byte are a little too low."
)


def find_texts(
    specs: Sequence[str], field: str, flag: str, format: str | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Files of each text by its name: that of the file, or all of its path where two have one.

    The first document of each is read, so that a wrong file is known before any work.

    Args:
        specs: files, folders or globs, each a text.
        field: of records, that has the text.
        flag: that named them.
        format: of all files, whatever their names; None to tell by the names.

    Returns:
        Beside them a sentence on each folder's files that are not read.

    Raises:
        UserError: one is not there, cannot be read, holds nothing, or is named twice.
    """
    names = [Path(spec).name for spec in specs]
    found: dict[str, Any] = {}
    left_out: list[str] = []
    for spec, name in zip(specs, names, strict=True):
        own = spec if names.count(name) > 1 else name
        if own in found:
            raise UserError(f"{flag} {spec} is given twice: leave one out")
        inputs = find_inputs([spec], format)
        found[own] = inputs.files
        left_out += [f"{one.in_words}." for one in inputs.left_out]
        if next(read_documents(found[own], ReadOptions(field=field)), None) is None:
            raise UserError(f"{flag} {spec} holds no document: give a text")
    return found, tuple(left_out)


@dataclass(frozen=True)
class _Document:
    """What a document came to: its own bytes, the tokens of it that were scored, their nats."""

    hash: str
    num_bytes: int
    tokens: int
    nats: float


def windows(ids: Sequence[int], start: int | None, max_length: int, stride: int) -> Iterator[Row]:
    """Rows that score every token of a document once, but the first where nothing comes before.

    Args:
        ids: of the document.
        start: what its first token is scored after; None for nothing.
        max_length: ids that the model takes at a time.
        stride: tokens that a row after the first scores, from 1 to ``max_length``.
    """
    all_ids = (*(() if start is None else (start,)), *ids)
    at, size, context = 1, max_length, max_length - stride
    while at < len(all_ids):
        end = min(at + size, len(all_ids))
        yield Row(all_ids[max(0, at - 1 - context) : end], end - at)
        at, size = end, stride


def evaluate_text(
    name: str, documents: Iterable[str], answerer: Scorer, stride: int | None = None
) -> Evaluated:
    """Score a text.

    Args:
        name: of it.
        documents: its documents, at least one.
        answerer: who is asked.
        stride: of `windows`; None for what the model takes at a time.
    """
    stride = stride or answerer.max_length
    found = [
        scored
        for some in batched(documents, _TOGETHER)
        for scored in _scored(some, answerer, stride)
    ]
    items = tuple(_item(place, one) for place, one in enumerate(found))
    return Evaluated(
        name,
        "text",
        {metric: _score(items, metric) for metric in (BITS_A_BYTE, NATS_A_TOKEN)},
        items,
        {
            "documents": len(found),
            "bytes": sum(one.num_bytes for one in found),
            "tokens": sum(one.tokens for one in found),
            "nats": math.fsum(one.nats for one in found),
            "stride": stride,
        },
        () if answerer.document_start is not None else (_NO_START,),
    )


def _scored(documents: Sequence[str], answerer: Scorer, stride: int) -> Iterator[_Document]:
    rows: list[Row] = []
    ends: list[int] = []
    for document in documents:
        ids = answerer.encode(document)
        rows += windows(ids, answerer.document_start, answerer.max_length, stride)
        ends.append(len(rows))
    answers = answerer.score(rows)
    begin = 0
    for document, end in zip(documents, ends, strict=True):
        of_document = slice(begin, end)
        yield _Document(
            hash_of(document),
            len(document.encode()),
            sum(row.scored for row in rows[of_document]),
            -math.fsum(answer.log_probability for answer in answers[of_document]),
        )
        begin = end


def _item(place: int, one: _Document) -> Item:
    values = {BITS_A_BYTE: one.nats / math.log(2) / one.num_bytes}
    weights = {BITS_A_BYTE: float(one.num_bytes)}
    if one.tokens:
        values[NATS_A_TOKEN] = one.nats / one.tokens
        weights[NATS_A_TOKEN] = float(one.tokens)
    return Item(place, one.hash, values, weights)


def _score(items: Sequence[Item], metric: str) -> Score:
    """A weighted mean and its error over documents."""
    pairs = [(one.values[metric], one.weights[metric]) for one in items if metric in one.values]
    if not pairs:
        return Score(None, n=0, higher_is_better=False)
    values, weights = np.array(pairs, np.float64).T
    variance = variance_of(influences(values, weights))
    return Score(
        weighted_mean(values, weights),
        None if variance is None else math.sqrt(variance.value),
        len(pairs),
        higher_is_better=False,
    )
