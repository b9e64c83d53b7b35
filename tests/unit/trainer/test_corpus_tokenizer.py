"""A run's tokenizer comes from its corpora's manifests, which must agree with each other."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from tst_megatron.corpora.manifest import FileRecord, Manifest, TokenizerRecord, write_manifest
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.errors import UserError
from tst_megatron.trainer.corpus_tokenizer import corpus_tokenizer_flags, tokenizer_sha256

EMPTY = FileRecord(0, "", [])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    for size in (330, 340):
        text = "\n".join(f"{number} lines, {number * 7} words of it" for number in range(500))
        train_tokenizer([text], folder / f"{size}.model", size)
    return folder / "330.model", folder / "340.model"


def indexed(folder: Path, name: str, spec: str, **changes: Any) -> str:
    """A corpus's manifest and tokenizer, as a builder leaves them; flags need no more of it."""
    description = describe(spec)
    values = {
        "kind": description.kind,
        "folder": f"{name}.tokenizer" if description.files else None,
        "sha256": description.sha256,
        "vocab_size": description.vocab_size,
        "eod": description.eod,
        "megatron_flags": list(description.megatron_flags),
        "encoder": "gigatoken 0.10.0",
        "checked_documents": 1,
        "fell_back": None,
    }
    record = TokenizerRecord(**values | changes)
    manifest = Manifest([], {}, record, "uint16", 1, 1, 1, 1, 0, {}, [], {}, EMPTY, EMPTY)
    write_manifest(folder / name, manifest)
    if description.files:
        description.copy_to(folder / f"{name}.tokenizer")
    return str(folder / name)


def arguments(*prefixes: str, **given: Any) -> argparse.Namespace:
    values = {
        "mock_data": False,
        "split": "1,0,0",
        "sft": False,
        "tokenizer_type": None,
        "tokenizer_model": None,
        "vocab_file": None,
        "merge_file": None,
        "data_path": list(prefixes) or None,
        "data_args_path": None,
        "train_data_path": None,
        "valid_data_path": None,
        "test_data_path": None,
        "per_split_data_args_path": None,
        "blend": None,
    }
    return argparse.Namespace(**values | given)


def test_the_corpus_names_its_tokenizer(models: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (indexed(tmp_path, name, str(models[0])) for name in ("one", "two"))
    expected = [
        *("--tokenizer-type", "SentencePieceTokenizer"),
        *("--tokenizer-model", str(tmp_path / "one.tokenizer" / "tokenizer.model")),
    ]
    assert corpus_tokenizer_flags(arguments(one)) == expected
    assert corpus_tokenizer_flags(arguments("3", one, "1", two)) == expected
    # A recipe's type is no tokenizer without a model.
    assert corpus_tokenizer_flags(arguments(one, tokenizer_type="HuggingFaceTokenizer")) == expected
    per_split = arguments(train_data_path=[one], valid_data_path=[two])
    assert corpus_tokenizer_flags(per_split) == expected


def test_ids_need_no_files(tmp_path: Path) -> None:
    corpus = indexed(tmp_path, "ids", "null:500:eod=3")
    expected = ["--tokenizer-type", "NullTokenizer", "--vocab-size", "500"]
    expected += ["--null-tokenizer-eod-id", "3"]
    assert corpus_tokenizer_flags(arguments(corpus)) == expected


def test_the_users_flags_stand(models: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = indexed(tmp_path, "corpus", str(models[0]))
    for given in (
        {"tokenizer_type": "SentencePieceTokenizer", "tokenizer_model": str(models[0])},
        {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": "a-hub/its-model"},
        {"tokenizer_type": "NullTokenizer", "vocab_size": 500},
        {"tokenizer_type": "GPT2BPETokenizer", "vocab_file": "vocab.json"},
        {"mock_data": True},
    ):
        assert corpus_tokenizer_flags(arguments(corpus, **given)) == []


def test_a_corpus_of_another_tool(models: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = indexed(tmp_path, "corpus", str(models[0]))
    assert corpus_tokenizer_flags(arguments(corpus, str(tmp_path / "megatrons"))) == []
    assert corpus_tokenizer_flags(arguments(str(tmp_path / "megatrons"))) == []
    assert corpus_tokenizer_flags(arguments()) == []


@pytest.mark.parametrize("given", [{}, {"tokenizer_model": "tokenizer.model"}])
def test_corpora_that_differ(
    given: dict[str, str], models: tuple[Path, Path], tmp_path: Path
) -> None:
    first = indexed(tmp_path, "first", str(models[0]))
    for name, model, changes, what in (
        ("other", models[1], {}, "different tokenizers"),
        ("end", models[0], {"eod": 1}, "different ends of a document"),
        ("flags", models[0], {"megatron_flags": ["--x"]}, "different settings of a tokenizer"),
    ):
        corpus = indexed(tmp_path, name, str(model), **changes)
        with pytest.raises(UserError, match=f"{first} and {corpus} were indexed with {what}"):
            corpus_tokenizer_flags(arguments(first, corpus, **given))


def test_another_tokenizer_than_the_corpus_has(models: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = indexed(tmp_path, "corpus", str(models[0]))
    with pytest.raises(UserError, match=f"{corpus} was indexed with another tokenizer than"):
        corpus_tokenizer_flags(arguments(corpus, tokenizer_model=str(models[1])))


def gpt2_folder(folder: Path, merges: list[str]) -> Path:
    folder.mkdir()
    tokens = [*sorted(ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return folder


def test_two_files_are_held_against_the_corpus(models: tuple[Path, Path], tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path / "gpt2", ["t h", "th e"])
    other = gpt2_folder(tmp_path / "other", ["t h", "h e"])
    corpus = indexed(tmp_path, "corpus", str(folder))
    # An older file of the same tokenizer has merges as texts.
    own = tmp_path / "corpus.tokenizer" / "tokenizer.json"
    content = json.loads(own.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    own.write_text(json.dumps(content))

    def named(two: Path) -> dict[str, Any]:
        files = {"vocab_file": str(two / "vocab.json"), "merge_file": str(two / "merges.txt")}
        return {"tokenizer_type": "GPT2BPETokenizer"} | files

    assert corpus_tokenizer_flags(arguments(corpus, **named(folder))) == []
    with pytest.raises(UserError, match=f"{corpus} was indexed with another tokenizer than --voc"):
        corpus_tokenizer_flags(arguments(corpus, **named(other)))
    of_another_kind = indexed(tmp_path, "pieces", str(models[0]))
    with pytest.raises(UserError, match=f"{of_another_kind} was indexed with another tokenizer"):
        corpus_tokenizer_flags(arguments(of_another_kind, **named(folder)))


def test_a_tokenizer_that_has_gone(models: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = indexed(tmp_path, "corpus", str(models[0]))
    (tmp_path / "corpus.tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there is no folder"):
        corpus_tokenizer_flags(arguments(corpus))


def test_what_a_tokenizer_holds_is_known_by_one_hash(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    """The manifest's, whatever file or folder it was given as; of a folder there was none."""
    held = describe(str(models[0])).sha256
    assert tokenizer_sha256(arguments(indexed(tmp_path, "one", str(models[0])))) == held
    assert tokenizer_sha256(arguments(tokenizer_model=str(models[0]))) == held
    for name in ("llama", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}")
    folders = [
        tokenizer_sha256(arguments(tokenizer_model=f"{tmp_path / n}")) for n in ("llama", "mine")
    ]
    assert folders == [hashlib.sha256(b"{}").hexdigest()] * 2


@pytest.mark.parametrize("model", ["", "a-hub/no-such", "s3://bucket/t.model", None, "a/b/c/d"])
def test_what_a_tokenizer_holds_may_not_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tokenizer_sha256(arguments(tokenizer_model=model)) is None
