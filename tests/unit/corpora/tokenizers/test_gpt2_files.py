"""GPT-2's two files give the ids that tiktoken, which shares no code with tokenizers, gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest
import tiktoken
from gpt2_made import folder_of_two_files
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import reference_encoder
from tst_megatron.errors import UserError

# As in OpenAI's encoder.py, in possessive quantifiers' place.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_two_files(tmp_path_factory.mktemp("gpt2") / "two")


@pytest.fixture
def by_tiktoken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    return tiktoken.Encoding(
        "two files",
        pat_str=GPT2_SPLIT,
        mergeable_ranks=ranks,
        special_tokens={made.END: len(ranks)},
    )


def test_the_ids_are_those_of_tiktoken(folder: Path, by_tiktoken: tiktoken.Encoding) -> None:
    description = describe(str(folder))
    assert (description.kind, description.vocab_size) == ("huggingface", by_tiktoken.n_vocab)
    assert description.eod == by_tiktoken.n_vocab - 1
    # Of characters of these years the libraries have tables of different years.
    texts = [
        text
        for name, text in awkward_strings(description.special_tokens)
        if not name.startswith("the new character")
    ]
    encoded = reference_encoder(description).encode([*texts, *made.TEXT])
    theirs = [by_tiktoken.encode(text, allowed_special="all") for text in (*texts, *made.TEXT)]
    assert encoded.lengths.tolist() == list(map(len, theirs))
    assert encoded.ids.tolist() == [one for ids in theirs for one in ids]


def test_a_folder_and_two_names_are_one_tokenizer(folder: Path, tmp_path: Path) -> None:
    for old, new in (("vocab.json", "gpt2-vocab.json"), ("merges.txt", "gpt2-merges.txt")):
        shutil.copy(folder / old, tmp_path / new)
    named = describe(f"{tmp_path}/gpt2-vocab.json,{tmp_path}/gpt2-merges.txt")
    assert named.sha256 == describe(str(folder)).sha256
    named.copy_to(tmp_path / "copied")
    assert describe(str(tmp_path / "copied")).sha256 == named.sha256


@pytest.mark.parametrize(("one", "other"), [("a,b", "c"), ("a", "b,c"), ("a,b", "c,d"), (",", "x")])
def test_paths_may_have_commas(folder: Path, tmp_path: Path, one: str, other: str) -> None:
    vocabulary, merges = tmp_path / one / "vocab.json", tmp_path / other / "merges.txt"
    for file in (vocabulary, merges):
        file.parent.mkdir()
        shutil.copy(folder / file.name, file)
    assert describe(f"{vocabulary},{merges}").sha256 == describe(str(folder)).sha256
    with pytest.raises(
        UserError, match=r"the tokenizer file .*/gone\.txt cannot be read"
    ) as refused:
        describe(f"{vocabulary},{merges.with_name('gone.txt')}")
    assert str(merges.with_name("gone.txt")) in str(refused.value)


def test_a_header_and_line_ends_are_no_merges(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "vocab.json", tmp_path)
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    (tmp_path / "merges.txt").write_text("\r\n".join(merges), encoding="utf-8", newline="")
    assert describe(str(tmp_path)).sha256 == describe(str(folder)).sha256


def test_a_folder_with_a_configuration_is_loaded_by_it(
    folder: Path, tmp_path: Path, megatrons: Callable[[TokenizerDescription], Any]
) -> None:
    """Qwen 2 has the same two files, and cuts text in another way."""
    shutil.copytree(folder, tmp_path / "model")
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": made.END}
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(config))
    description = describe(str(tmp_path / "model"))
    theirs = megatrons(description)
    text = "numbers 1234567 and\n\n\n  words"
    ids = reference_encoder(description).encode([text]).ids.tolist()
    assert ids == theirs.tokenize(text)
    assert description.eod == theirs.eod
    assert ids != reference_encoder(describe(str(folder))).encode([text]).ids.tolist()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("vocab.json", b'{"a": 0}', r"vocab\.json is not one of GPT-2's kind"),
        ("vocab.json", b"[1]", "is not one of GPT-2's kind"),
        ("vocab.json", b"\xff", "is not one of GPT-2's kind"),
        ("merges.txt", b"#version: 0.2\na b c\n", r"merges\.txt have no two tokens .* on line 2"),
        ("merges.txt", b"\xff\xfe", "are not text in UTF-8"),
        ("merges.txt", "漢 字\n".encode(), "cannot be loaded: .*out of vocabulary"),
        ("merges.txt", None, "a folder without a tokenizer.json, or a vocab.json and a merges"),
    ],
)
def test_what_is_not_gpt2s(
    folder: Path, tmp_path: Path, file: str, content: bytes | None, says: str
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    if content is None:
        (tmp_path / "model" / file).unlink()
    else:
        (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(UserError, match=says) as refused:
        describe(str(tmp_path / "model"))
    assert "\n" not in str(refused.value)


def test_half_of_it(folder: Path) -> None:
    with pytest.raises(UserError, match=r"a vocabulary without its merges: name the folder"):
        describe(str(folder / "vocab.json"))
    with pytest.raises(UserError, match=r"gone\.txt cannot be read: No such file"):
        describe(f"{folder}/vocab.json,{folder}/gone.txt")
