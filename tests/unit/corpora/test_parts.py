"""The places that documents take up, and which documents each part of a run's text gets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_megatron.corpora.parts import (
    DocumentPart,
    TextPart,
    document_parts,
    documents_of_part,
    ordinary_text,
    places_of_documents,
    units_of_documents,
)

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=60)
UNIT = st.integers(1, 17)


def part(samples: int, tokens: int, unit: int, seq_length: int = 8) -> TextPart:
    return TextPart(f"{tokens} at once", "the part", samples, seq_length, tokens, unit)


@given(LENGTHS, UNIT)
def test_a_document_takes_up_whole_units(lengths: list[int], unit: int) -> None:
    documents = [len(range(0, n, unit)) for n in lengths]
    array = np.array(lengths, dtype=np.int32)
    assert units_of_documents(array, unit).tolist() == documents
    assert units_of_documents(array, unit).dtype == np.int32
    places = places_of_documents(array, unit)
    assert places.tolist() == [units * unit for units in documents]
    assert np.array_equal(places_of_documents(array), array)


@given(st.integers(1, 50), st.integers(1, 40), UNIT)
def test_neighbours_share_a_unit(num_samples: int, seq_length: int, tokens: int) -> None:
    of_tokens = part(num_samples, tokens, 1, seq_length)
    of_units = part(num_samples, tokens, tokens, seq_length)
    assert (of_tokens.step, of_tokens.shared) == ((seq_length + 1) * tokens - 1, 1)
    assert (of_units.step, of_units.shared) == (seq_length * tokens, tokens)
    for unit in (1, tokens):
        assert part(1, tokens, unit, seq_length).needed == (seq_length + 1) * tokens
    assert of_units.needed == (num_samples * seq_length + 1) * tokens
    assert of_tokens.data_tokens == of_units.data_tokens == num_samples * seq_length * tokens


def test_an_ordinary_run_reads_as_megatron_does() -> None:
    ordinary = ordinary_text(10, 8)
    assert (ordinary.step, ordinary.shared, ordinary.needed) == (8, 1, 81)
    assert document_parts([ordinary]) == [DocumentPart()]


@settings(deadline=None)
@given(LENGTHS, st.lists(UNIT, min_size=1, max_size=4, unique=True), st.integers(0, 9))
def test_documents_are_shared_out_whole(lengths: list[int], sizes: list[int], seed: int) -> None:
    array, documents = np.array(lengths, dtype=np.int32), np.arange(len(lengths), dtype=np.int32)
    for in_units in (False, True):
        text = [part(30, size, size if in_units else 1) for size in sizes]
        given_out = [documents_of_part(array, documents, one, seed) for one in document_parts(text)]
        assert np.array_equal(np.sort(np.concatenate(given_out)), documents)
        if len(lengths) >= len(given_out):
            assert all(len(own) for own in given_out)


@pytest.mark.parametrize("longest", [3, 40, 2000])
@pytest.mark.parametrize("samples", [{16: 300, 1: 700}, {6: 200, 2: 300, 1: 500}, {4: 100, 1: 900}])
def test_every_part_has_what_it_needs_as_many_times_over(samples, longest: int) -> None:
    """Short documents fill their units badly, and the parts with large ones feel it most."""
    lengths = np.random.default_rng(longest).integers(1, longest + 1, size=5000).astype(np.int32)
    documents = np.arange(len(lengths), dtype=np.int32)
    text = [part(number, unit, unit) for unit, number in samples.items()]
    times = [
        places_of_documents(
            lengths[documents_of_part(lengths, documents, of_documents, seed=1)], one.unit
        ).sum()
        / one.needed
        for one, of_documents in zip(text, document_parts(text), strict=True)
    ]
    # Documents are whole ones.
    slack = 2 * (longest + 16) / min(one.needed for one in text)
    assert max(times) - min(times) <= slack


def test_one_part_is_everything() -> None:
    documents = np.arange(3, dtype=np.int32)
    lengths = np.array([5, 1, 9], dtype=np.int32)
    assert documents_of_part(lengths, documents, DocumentPart(), seed=1) is documents


def test_caches_are_named_by_bounds_part_and_units() -> None:
    """As they always were: a corpus that was laid out before is found again."""
    in_tokens = document_parts([part(30, 4, 1), part(70, 1, 1)])[0]
    # 30 samples of 9 · 4 − 1 tokens and one, 70 of 8 and one.
    share = 1051 / (1051 + 561)
    assert in_tokens.unique_identifiers == [(0.0, share, 1.0), 0, ()]
    in_units = document_parts([part(30, 4, 4), part(70, 1, 1)])[1]
    share = 964 / (964 + 561)
    assert in_units.unique_identifiers == [(0.0, share, 1.0), 1, (4, 1)]
