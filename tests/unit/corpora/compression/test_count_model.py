"""The next byte by counting, against counts made the slow way."""

import numpy as np
import pytest

from tests.unit.corpora.compression.text import counted, source_text
from tst_megatron.corpora.compression.counts import PRECISION, CountModel
from tst_megatron.corpora.compression.making import count_model

_WHOLE = 1 << PRECISION


def by_hand(documents: list[bytes], order: int, context: bytes) -> np.ndarray:
    """Probabilities ``[256]`` in float64, by absolute discounting of 3/4."""
    found = np.full(256, 1 / 256)
    for length in range(min(order, len(context)) + 1):
        before = context[len(context) - length :]
        times = np.zeros(256)
        for document in documents:
            for place in range(length, len(document)):
                if document[place - length : place] == before:
                    times[document[place]] += 1
        if not times.any():
            break
        seen, total = np.count_nonzero(times), times.sum()
        found = np.maximum(times - 0.75, 0) / total + 0.75 * seen / total * found
    return found


@pytest.mark.parametrize("order", [0, 2, 5])
def test_frequencies_are_those_of_counts_made_by_hand(order: int) -> None:
    rng = np.random.default_rng()
    documents = [bytes(rng.integers(97, 101, size=n).astype(np.uint8)) for n in (1, 40, 300)]
    model = CountModel.trained(documents, order)
    for length in range(8):
        context = bytes(rng.integers(97, 102, size=length).astype(np.uint8))
        row = np.frombuffer(b"zz" + context, np.uint8)[None]
        (found,) = model.frequencies(row, np.array([length]))
        expected = 1 + by_hand(documents, order, context) * (_WHOLE - 256)
        assert found.sum() == _WHOLE
        # Each is rounded down, by less than 1 and by what each order's mixing rounds 2^-30 of; what
        # that leaves of 256 goes to the likeliest.
        apart = found - expected
        likeliest = expected.argmax()
        assert (np.abs(np.delete(apart, likeliest)) < 1.01).all()
        assert -1.01 < apart[likeliest] < 256


def test_contexts_do_not_reach_from_one_document_into_the_next() -> None:
    model = CountModel.trained([b"ab", b"cd"], 1)
    (after_b,) = model.frequencies(np.frombuffer(b"b", np.uint8)[None], np.array([1]))
    # Nothing came after b: the same as with nothing before.
    (alone,) = model.frequencies(np.frombuffer(b"b", np.uint8)[None], np.array([0]))
    assert (after_b == alone).all()


def test_held_out_text_costs_what_frequencies_say() -> None:
    record = counted().record
    assert record.bits_a_byte is not None
    assert 1 < record.bits_a_byte < 4
    # The fiftieth file is held out.
    assert record.text_bytes == sum(map(len, source_text())) - len(source_text()[49])
    # Of too few files nothing is said that was not held out.
    assert count_model(source_text()[:5], 1).record.bits_a_byte is None


@pytest.mark.parametrize("order", [-1, 7])
def test_an_order_that_no_key_holds_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match="not from 0 to 6"):
        CountModel.trained([b"a"], order)
