"""Training a tokenizer: text survives it, and the sample it sees is bounded and drawn by a seed."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest

from tst_megatron.corpora.tokenizers import training
from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.corpora.tokenizers.proof import choose_encoder
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.errors import UserError

DOCUMENT = "\n".join(made.TEXT)


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_text_survives(model: Any, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    train_tokenizer([DOCUMENT], file, 500, model=model, symbols=["<|im_start|>"])
    description = describe(str(file))
    assert (description.vocab_size, description.eod) == (500, 2)
    for _, text in awkward_strings():
        # SentencePiece's sign for a space becomes one.
        text = text.replace("▁", " ")
        assert description.library.decode(description.library.encode(text)) == text
    for symbol in ("<|im_start|>", "\n", "\t"):
        assert len(description.library.encode(f"{symbol}{symbol}")) == 2
    expected = "gigatoken" if model == "bpe" else "sentencepiece"
    assert choose_encoder(description, [DOCUMENT]).encoder.name == expected


def test_normalised_where_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    train_tokenizer([DOCUMENT], file, 400, normalization="nmt_nfkc")
    library = describe(str(file)).library
    assert library.encode("ﬁ Ａ") == library.encode("fi A")


def test_the_same_text_makes_the_same_model(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        train_tokenizer([DOCUMENT], tmp_path / name, 400, max_lines=1_000, seed=seed)
    one, two, other = ((tmp_path / name).read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_without_a_seed_no_more_is_read_than_needed(tmp_path: Path) -> None:
    endless = itertools.cycle([DOCUMENT])
    train_tokenizer(endless, tmp_path / "tokenizer.model", 400, max_lines=5_000)


def test_lines_are_drawn_evenly() -> None:
    """Each of 100 lines in a tenth of the samples, to five standard deviations."""
    lines = [str(number) for number in range(100)]
    draws = 4_000
    counts = Counter(
        line for seed in range(draws) for line in training._drawn(iter(lines), 10, seed)
    )
    assert sum(counts.values()) == 10 * draws
    spread = 5 * (draws * 0.1 * 0.9) ** 0.5
    assert all(abs(counts[line] - draws * 0.1) < spread for line in lines)
    assert training._drawn(iter(lines), 200, 0) == lines


def test_long_lines_are_cut() -> None:
    assert list(training._lines("a\n\n  \nb" + "x" * 10_000)) == [
        "a",
        "b" + "x" * 1047,
        *["x" * 1048] * 8,
        "x" * (10_001 - 9 * 1048),
    ]
    assert list(training._lines("x" * 4192)) == ["x" * 4192]
    assert [len(line) for line in training._lines("漢" * 1400)] == [1048, 352]


@pytest.mark.parametrize(
    ("documents", "vocab_size", "says"),
    [
        ([DOCUMENT], 300, "a vocabulary of 300 is too small"),
        ([], 400, "the inputs are empty"),
        (["\n \n"], 400, "the inputs are empty"),
        (["a few words"], 4_000, "no tokenizer of 4000 pieces"),
    ],
)
def test_what_cannot_be_trained(
    documents: list[str], vocab_size: int, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says) as raised:
        train_tokenizer(documents, tmp_path / "tokenizer.model", vocab_size)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
