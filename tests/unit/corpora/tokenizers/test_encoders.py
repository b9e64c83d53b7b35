"""Encoders give one flat array with the reference's ids, and say what they cannot encode."""

import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path

import made_tokenizers as made
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_megatron.corpora.tokenizers import fast
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import Encoder, reference_encoder
from tst_megatron.corpora.tokenizers.fast import fast_encoder
from tst_megatron.corpora.tokenizers.proof import differs

Described = Callable[[str], TokenizerDescription]


@functools.cache
def _pair(name: str) -> tuple[Encoder, Encoder, tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        description = describe(str(made.tokenizer(Path(folder), name)))
    return fast_encoder(description), reference_encoder(description), description.special_tokens


_PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(made.TEXT),
    st.sampled_from(("\n", "  ", "\t", "\r\n", "▁", "\u0301", "\u0338", "한", "'s", "ﬁ", "１")),
    st.integers(0, 10**9).map(str),
)


@pytest.mark.parametrize("name", made.FAST)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_fast_encoder_has_the_references_ids(name: str, data: st.DataObject) -> None:
    ours, reference, special_tokens = _pair(name)
    pieces = st.one_of(_PIECES, st.sampled_from(special_tokens or ("",)))
    documents = data.draw(st.lists(st.lists(pieces, max_size=12).map("".join), max_size=6))
    assert differs(ours, reference, documents) is None


@pytest.mark.parametrize("name", ["sp-as-ours", "hf-llama3", "hf-qwen2", "tiktoken"])
def test_documents_that_are_no_text(name: str) -> None:
    for encoder in _pair(name)[:2]:
        for document, says in [
            ("ok\ud800", "lone surrogate U\\+D800"),
            (None, "NoneType, not text"),
            (3, "int, not text"),
        ]:
            with pytest.raises(ValueError, match=says):
                encoder.encode(["fine", document])


@pytest.mark.parametrize("name", ["sp-as-ours", "hf-llama3", "hf-qwen2", "tiktoken"])
def test_documents_without_tokens_are_counted(name: str) -> None:
    for encoder in _pair(name)[:2]:
        assert encoder.encode([]).lengths.tolist() == []
        some, none = encoder.encode(["a", "", "a", ""]), encoder.encode(["", ""])
        assert some.lengths[0] == some.lengths[2] > some.lengths[1] == some.lengths[3]
        assert none.lengths.tolist() == [some.lengths[1]] * 2
        assert len(some.ids) == some.lengths.sum()


def _ids_and_threads(name: str, is_fast: bool) -> tuple[list[int], int]:
    ids = _pair(name)[0 if is_fast else 1].encode(list(made.TEXT)).ids.tolist()
    return ids, _threads()


def _threads() -> int:
    return psutil.Process().num_threads()


@pytest.mark.parametrize("name", ["sp-as-ours", "hf-gpt2", "tiktoken"])
@pytest.mark.parametrize("is_fast", [True, False])
def test_made_in_one_process_and_used_in_its_fork(name: str, is_fast: bool) -> None:
    encoder = _pair(name)[0 if is_fast else 1]
    expected = encoder.encode(list(made.TEXT)).ids.tolist()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        threads = pool.apply(_threads)
        assert pool.apply(_ids_and_threads, (name, is_fast)) == (expected, threads)


@pytest.mark.parametrize("name", ["hf-gpt2", "tiktoken"])
def test_characters_newer_than_a_librarys_tables_get_the_references_ids(name: str) -> None:
    """U+A7CF is of Unicode 17: a letter to gigatoken, and nothing to tokenizers."""
    ours, reference, _ = _pair(name)
    texts = ["plain", 'a\ua7cf", b', "é", "漢字", '\U00016ea0x", y', "", "z"]
    assert fast.holding_new_characters(texts).tolist() == [text in texts[1:5:3] for text in texts]
    assert differs(ours, reference, texts) is None


def test_a_full_cache_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its share of memory the library begins again, to the same ids."""
    ours, reference, _ = _pair("hf-gpt2")
    rng = np.random.default_rng(0)
    words = rng.integers(97, 123, (300_000, 8), dtype=np.uint8)
    words[:, -1] = 32
    text = words.tobytes().decode()
    monkeypatch.setattr(fast, "_CACHE_BYTES", 8 << 20)
    gigatoken = ours._encoder
    first = gigatoken._tokenizer
    for begin in range(0, len(text), len(text) // 4):
        ours.encode([text[begin : begin + len(text) // 4]])
    assert gigatoken._tokenizer is not first
    assert differs(ours, reference, [text[:10_000], *made.TEXT]) is None


def test_ids_are_read_as_they_are() -> None:
    encoder = reference_encoder(describe("null:100"))
    encoded = encoder.encode(["1 2 99", [3, 4], "", [], np.arange(3, dtype=np.uint16), "7"])
    assert encoded.ids.tolist() == [1, 2, 99, 3, 4, 0, 1, 2, 7]
    assert encoded.lengths.tolist() == [3, 2, 0, 0, 3, 1]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("1 100", "id 100"),
        ([1, 100], "id 100"),
        ([1, -1], "id -1"),
        ("1 -1", "not whole numbers"),
        ("1 x", "not whole numbers"),
        ("1.5", "not whole numbers"),
        ("99999999999999999999", "holds id"),
        ([1.5], "neither a list of whole numbers"),
        ([[1], [2]], "neither a list of whole numbers"),
        (["1"], "neither a list of whole numbers"),
        (None, "neither a list of whole numbers"),
    ],
)
def test_ids_that_are_refused(document: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        reference_encoder(describe("null:100")).encode([[1, 2], document])
