"""Held-out text: windows, and figures against a float64 computation that knows no windows."""

import math

import numpy as np
import pytest
from answerers import Bag
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.evaluation.held_out import evaluate_text, windows
from tst_megatron.evaluation.results import Evaluated
from tst_megatron.runs.evaluations import BITS_A_BYTE, NATS_A_TOKEN


@given(
    st.lists(st.integers(0, 9), max_size=40),
    st.sampled_from([None, 99]),
    st.integers(1, 12),
    st.data(),
)
def test_windows_score_every_token_once_with_what_came_before(ids, start, length, data) -> None:
    stride = data.draw(st.integers(1, length))
    rows = list(windows(ids, start, length, stride))
    scored = [target for row in rows for target in row.targets]
    assert scored == (ids[1:] if start is None else ids)
    whole = [*([] if start is None else [start]), *ids]
    end = 1
    for row in rows:
        assert 1 <= len(row.inputs) <= length
        end += row.scored
        assert list(row.ids) == whole[end - len(row.ids) : end]
    for row in rows[1:]:
        assert row.scored <= stride
        assert len(row.inputs) == length - stride + row.scored


def by_hand(answerer, documents: list[str], length: int) -> tuple[list[float], list[int]]:
    """Nats and bytes of each, a token at a time: each after the tokens of its window before it."""
    nats, sizes = [], []
    for document in documents:
        ids = [answerer.document_start, *document.encode()]
        total = 0.0
        for at in range(1, len(ids)):
            begin = (at - 1) // length * length
            total -= math.log(answerer.share(tuple(ids[begin:at]), ids[at]))
        nats.append(total)
        sizes.append(len(document.encode()))
    return nats, sizes


class Ordered(Bag):
    """One whose answer is that of each token after those before it in the row."""

    def _answer(self, row):
        from tst_megatron.evaluation.answerer import Answer

        begin = len(row.ids) - row.scored
        shares = [self.share(row.ids[:at], row.ids[at]) for at in range(begin, len(row.ids))]
        return Answer(math.fsum(map(math.log, shares)), False)


@pytest.fixture
def evaluated() -> tuple[Evaluated, Ordered, list[str]]:
    answerer = Ordered()
    answerer.max_length = 16
    documents = ["def f(x):\n    return x\n" * 3, "你好，世界。", "a", "Ünïcode — ✓ " * 4]
    return evaluate_text("mixed", documents, answerer), answerer, documents


def test_bits_a_byte_are_of_the_texts_own_bytes_with_the_error_of_documents(evaluated) -> None:
    found, answerer, documents = evaluated
    nats, sizes = map(np.array, by_hand(answerer, documents, 16))
    score = found.scores[BITS_A_BYTE]
    assert score.value == pytest.approx(nats.sum() / sizes.sum() / math.log(2), rel=1e-12)
    assert found.facts["bytes"] == sizes.sum() == sum(len(one.encode()) for one in documents)
    assert found.facts["nats"] == pytest.approx(nats.sum(), rel=1e-12)
    residuals = (nats / math.log(2) - score.value * sizes) / sizes.sum()
    assert score.stderr == pytest.approx(math.sqrt((residuals**2).sum() * 4 / 3))
    assert (score.n, score.higher_is_better) == (4, False)
    for item, document in zip(found.items, documents, strict=True):
        assert item.weights[BITS_A_BYTE] == len(document.encode())
    # Bytes are this one's tokens.
    assert found.scores[NATS_A_TOKEN].value == pytest.approx(score.value * math.log(2))


def test_more_context_helps_who_uses_it_and_no_start_is_said(evaluated) -> None:
    found, answerer, documents = evaluated
    near = evaluate_text("mixed", documents, answerer, stride=1)
    assert near.facts["tokens"] == found.facts["tokens"]
    assert near.scores[BITS_A_BYTE].value < found.scores[BITS_A_BYTE].value
    assert near.hash == found.hash
    assert found.notes == ()
    answerer.document_start = None
    without = evaluate_text("mixed", documents, answerer)
    assert without.facts["tokens"] == found.facts["tokens"] - len(documents)
    assert without.facts["bytes"] == found.facts["bytes"]
    assert "first token of a document is not scored" in without.notes[0]
    # A document of one token is read, and nothing of it is scored.
    assert NATS_A_TOKEN not in without.items[2].values
    assert without.scores[NATS_A_TOKEN].n == 3
