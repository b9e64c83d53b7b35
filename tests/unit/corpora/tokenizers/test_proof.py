"""The fast library writes the ids where it was seen to give the reference's, and nowhere else."""

from collections.abc import Callable, Sequence
from typing import Any

import made_tokenizers as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import Encoded
from tst_megatron.corpora.tokenizers.proof import choose_encoder, differs

Described = Callable[[str], TokenizerDescription]


@pytest.mark.parametrize("name", made.FAST)
def test_the_fast_library_is_chosen(name: str, described: Described) -> None:
    sample = list(made.TEXT[:200])
    chosen = choose_encoder(described(name), sample)
    assert chosen.fell_back is None
    assert (chosen.encoder.name, chosen.checked_documents) == ("gigatoken", 200)
    assert chosen.reference.name != "gigatoken"


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("sp-unigram", "only BPE sentencepiece models"),
        ("sp-without-bytes", "only byte_fallback"),
        ("hf-unsplit", "gives other ids for"),
        ("hf-own-split", "Unknown pre_tokenizer"),
        ("hf-lower", "Unsupported normalizer"),
        ("hf-wordpiece", "WordPiece"),
    ],
)
def test_the_reference_is_fallen_back_on(name: str, because: str, described: Described) -> None:
    chosen = choose_encoder(described(name), ["text"])
    assert chosen.encoder is chosen.reference
    assert chosen.fell_back is not None
    assert because in chosen.fell_back
    assert "\n" not in chosen.fell_back
    assert chosen.checked_documents == 0


def test_a_pattern_that_the_fast_library_lacks(spec_of: Callable[[str], str]) -> None:
    chosen = choose_encoder(describe(spec_of("tiktoken") + "?pattern=v1"), ["text"])
    assert chosen.encoder.name == "tiktoken"
    assert "pattern v1" in str(chosen.fell_back)


def test_a_sample_counts_beside_the_awkward_strings(
    described: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that is wrong on nothing but one document of the corpus is dropped for it."""
    from tst_megatron.corpora.tokenizers import proof

    class Wrong:
        name, version = "gigatoken", "0"

        def __init__(self, encoder: Any) -> None:
            self._encoder = encoder

        def encode(self, documents: Sequence[str]) -> Encoded:
            return self._encoder.encode([d.replace("colour", "color") for d in documents])

    real = proof.fast_encoder
    monkeypatch.setattr(proof, "fast_encoder", lambda description: Wrong(real(description)))
    chosen = choose_encoder(described("hf-gpt2"), ["grey", "a colour"])
    assert chosen.encoder is chosen.reference
    assert chosen.fell_back == "gigatoken gives other ids for document 2 of the sample"


def test_ids_need_no_proof() -> None:
    chosen = choose_encoder(describe("null:10"), ["1 2"])
    assert (chosen.encoder.name, chosen.fell_back) == ("null", None)


class _Listed:
    name, version = "listed", "0"

    def __init__(self, documents: list[list[int]]) -> None:
        self._documents = documents

    def encode(self, documents: Sequence[Any]) -> Encoded:
        ids = [i for document in self._documents for i in document]
        return Encoded(np.array(ids, int), np.array([len(d) for d in self._documents], np.int64))


_DOCUMENTS = st.lists(st.lists(st.integers(0, 2), max_size=3), max_size=5)


@given(ours=_DOCUMENTS, data=st.data())
def test_the_first_document_that_differs(ours: list[list[int]], data: st.DataObject) -> None:
    theirs = [
        data.draw(st.one_of(st.just(d), st.lists(st.integers(0, 2), max_size=3))) for d in ours
    ]
    expected = next((i for i, d in enumerate(ours) if d != theirs[i]), None)
    assert differs(_Listed(ours), _Listed(theirs), ours) == expected


def test_awkward_strings_are_named_and_few() -> None:
    strings = list(awkward_strings(["<s>"]))
    assert all(name for name, _ in strings)
    assert sum(len(text.encode()) for _, text in strings) < 400_000
    assert any("<s>" in text for _, text in strings)
