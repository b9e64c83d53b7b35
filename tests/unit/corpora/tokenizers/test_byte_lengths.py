"""Bytes of each id add up to the text's, for every library."""

from pathlib import Path

import made_tokenizers as made
import pytest

from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.byte_lengths import byte_lengths
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.corpora.tokenizers.encoders import reference_encoder

# Those that leave text as it is.
FAITHFUL = ("sp-as-ours", "hf-gpt2", "hf-unsplit", "tiktoken", "bytes")


@pytest.mark.parametrize("name", FAITHFUL)
def test_the_bytes_of_ids_are_those_of_the_text(name: str, tmp_path: Path) -> None:
    spec = name if name == "bytes" else str(made.tokenizer(tmp_path, name))
    if name == "tiktoken":
        spec += "?pattern=v2"
    description = describe(spec)
    lengths = byte_lengths(description)
    assert lengths is not None
    assert len(lengths) == description.vocab_size
    assert lengths[description.eod] == 0
    # SentencePiece itself takes its mark of a space for one, and NUL for none.
    texts = [text for _, text in awkward_strings() if not {"\0", "▁"} & set(text)]
    encoded = reference_encoder(description).encode(texts)
    at = 0
    for text, number in zip(texts, encoded.lengths.tolist(), strict=True):
        ids = encoded.ids[at : at + number]
        at += number
        assert lengths[ids.astype(int)].sum() == len(text.encode()), repr(text[:40])


def test_ids_that_came_as_ids_stand_for_nothing_known() -> None:
    assert byte_lengths(describe("null:100")) is None
