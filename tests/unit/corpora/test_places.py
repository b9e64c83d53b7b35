"""The places that documents take up, and which documents each stage gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.corpora.parts import (
    DocumentPart,
    bags_of_documents,
    document_parts,
    documents_of_part,
    places_needed,
    places_of_documents,
    sample_tokens,
    tokens_needed,
)
from tst_megatron.methods.superposition.schedule import BagSchedule

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=60)
BAG_SIZE = st.integers(1, 17)


@given(LENGTHS, BAG_SIZE)
def test_a_document_takes_up_whole_bags(lengths: list[int], bag_size: int) -> None:
    documents = [len(range(0, n, bag_size)) for n in lengths]
    array = np.array(lengths, dtype=np.int32)
    assert bags_of_documents(array, bag_size).tolist() == documents
    assert bags_of_documents(array, bag_size).dtype == np.int32
    places = places_of_documents(array, bag_size, "document")
    assert places.tolist() == [bags * bag_size for bags in documents]
    assert np.array_equal(places_of_documents(array, bag_size, "any"), array)


@given(st.integers(1, 50), st.integers(1, 40), BAG_SIZE)
def test_neighbours_share_a_token_or_a_bag(
    num_samples: int, seq_length: int, bag_size: int
) -> None:
    assert sample_tokens(seq_length, bag_size, "any") == (seq_length + 1) * bag_size - 1
    assert sample_tokens(seq_length, bag_size, "document") == seq_length * bag_size
    one = (seq_length + 1) * bag_size
    assert places_needed(1, seq_length, bag_size, "any") == one
    assert places_needed(1, seq_length, bag_size, "document") == one
    of_all = places_needed(num_samples, seq_length, bag_size, "document")
    assert of_all == (num_samples * seq_length + 1) * bag_size


@given(LENGTHS, st.lists(BAG_SIZE, min_size=1, max_size=4, unique=True), st.integers(0, 9))
def test_documents_are_shared_out_whole(lengths: list[int], sizes: list[int], seed: int) -> None:
    shares = [(s, 0.9 / len(sizes)) for s in sizes]
    schedule = BagSchedule.from_shares(shares, 100, lambda steps: steps)
    array, documents = np.array(lengths, dtype=np.int32), np.arange(len(lengths), dtype=np.int32)
    for boundary in ("any", "document"):
        parts = document_parts(schedule, 8, boundary).values()
        given_out = [documents_of_part(array, documents, part, seed) for part in parts]
        assert np.array_equal(np.sort(np.concatenate(given_out)), documents)
        if len(lengths) >= len(given_out):
            assert all(len(own) for own in given_out)


@pytest.mark.parametrize("longest", [3, 40, 2000])
@pytest.mark.parametrize("shares", [((16, 0.3),), ((6, 0.2), (2, 0.3)), ((4, 0.1), (1, 0.2))])
def test_every_stage_has_what_it_needs_as_many_times_over(shares, longest: int) -> None:
    """Short documents fill their bags badly, and the stages with large bags feel it most."""
    lengths = np.random.default_rng(longest).integers(1, longest + 1, size=5000).astype(np.int32)
    documents = np.arange(len(lengths), dtype=np.int32)
    schedule = BagSchedule.from_shares(shares, 1000, lambda steps: steps)
    needed = tokens_needed(schedule, 8, "document")
    times = [
        places_of_documents(
            lengths[documents_of_part(lengths, documents, part, seed=1)], bag_size, "document"
        ).sum()
        / needed[bag_size]
        for bag_size, part in document_parts(schedule, 8, "document").items()
    ]
    # Documents are whole ones.
    slack = 2 * (longest + 16) / min(needed.values())
    assert max(times) - min(times) <= slack


def test_one_part_is_everything() -> None:
    documents = np.arange(3, dtype=np.int32)
    lengths = np.array([5, 1, 9], dtype=np.int32)
    assert documents_of_part(lengths, documents, DocumentPart(), seed=1) is documents
