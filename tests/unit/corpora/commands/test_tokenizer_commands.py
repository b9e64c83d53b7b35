"""``tokenizer train`` and ``tokenizer inspect`` as a user calls them."""

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import pre_tokenizers

from tst_megatron.corpora.commands import index_build, tokenizer_inspect, tokenizer_train
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.errors import UserError

TEXT = (Path(json.__file__).parent / "decoder.py").read_text()


def call(command: ModuleType, *flags: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    command.main(parser.parse_args(flags))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    records = [{"content": f"{number} {TEXT[:2000]}", "score": number} for number in range(60)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "b.jsonl").write_text(json.dumps({"content": TEXT, "score": 99}) + "\n")
    return folder


@pytest.fixture
def train(inputs: Path, tmp_path: Path) -> Callable[..., Path]:
    def train(*flags: str) -> Path:
        prefix = tmp_path / "deep" / "mine"
        usual = ("--field=content", f"--output={prefix}", "--vocab-size=400")
        call(tokenizer_train, str(inputs), *usual, *flags)
        return prefix.with_name("mine.model")

    return train


def test_train_and_inspect(train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = train("--symbol=<|im_start|>", "--where=score>=30")
    assert "400 pieces from 31 documents" in capsys.readouterr().out
    text = "<|im_start|>x = 12\n\tö"
    call(tokenizer_inspect, str(model), "--text", text)
    shown = capsys.readouterr().out
    ids = describe(str(model)).library.encode(text)
    for line in (
        f"{model}: sentencepiece, 400 ids",
        "End of a document: id 2, </s>",
        "What it has no piece for: its bytes",
        "no space before it, runs of spaces kept, characters as they are",
        "--tokenizer-type SentencePieceTokenizer --tokenizer-model FOLDER/tokenizer.model",
        "Writes the ids: gigatoken",
        f"{len(text.encode())} bytes, {len(ids)} tokens",
        " ".join(map(str, ids)),
        "<|im_start|>|x",
        r"\n|\t",
    ):
        assert line in shown


def test_a_unigram_model_is_written_by_its_own_library(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = train("--model=unigram", "--normalization=nmt_nfkc", "--max-lines=100", "--seed=3")
    (tmp_path / "text").write_text(TEXT)
    call(tokenizer_inspect, str(model), "--file", str(tmp_path / "text"))
    shown = capsys.readouterr().out
    assert "compatible characters made one" in shown
    assert "Writes the ids: sentencepiece" in shown
    assert "since gigatoken does not load it" in shown
    assert " more" in shown.splitlines()[-1]


def test_bad_records(train: Callable[..., Path], inputs: Path) -> None:
    (inputs / "c.jsonl").write_text('{"content": "fine"}\n{"content": 3}\n')
    with pytest.raises(UserError, match=r"c\.jsonl, record 2"):
        train()
    assert train("--on-error=skip").is_file()


def test_inspect_ids_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    call(tokenizer_inspect, "null:100:eod=7", "--text", "1 2 99")
    shown = capsys.readouterr().out
    assert "null:100:eod=7: null, 100 ids" in shown
    assert "End of a document: id 7" in shown
    assert "--tokenizer-type NullTokenizer --vocab-size 100" in shown
    call(tokenizer_inspect, "null:100", "--text", "")
    assert "no tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--max-lines=0",), "--max-lines 0"),
        (("--vocab-size=40",), "vocabulary of 40 is too small"),
        (("--where=score>",), "score>"),
        (("--max-document-bytes=0",), "--max-document-bytes 0"),
    ],
)
def test_what_train_refuses(flags: tuple[str, ...], says: str, train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=says):
        train(*flags)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--text", "1 x"), "the text cannot be encoded: it is not whole numbers"),
        (("--file", "gone"), "--file gone cannot be read"),
        (("--eod-token", "<s>"), "--eod-token <s> is for Hugging Face"),
    ],
)
def test_what_inspect_refuses(flags: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call(tokenizer_inspect, "null:100", *flags)


def test_train_says_what_is_left_out(
    train: Callable[..., Path], inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inputs / "c.pdf").touch()
    (inputs / "d.txt").touch()  # Empty, and no error.
    train()
    assert f"Left out of {inputs}: 1 .pdf\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "no tokenizer is named: give --tokenizer, or --vocab-file and --merge-file"),
        ("--vocab-file a", "two halves of a tokenizer: give both"),
        ("--merge-file a --tokenizer b", "--merge-file are two tokenizers: give one"),
        ("--vocab-file a --merge-file b", "the tokenizer file a cannot be read"),
    ],
)
def test_a_tokenizer_is_named_in_one_way(tmp_path: Path, flags: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call(index_build, "x.jsonl", f"--output={tmp_path}/c", *flags.split())


def test_gpt2s_two_files_are_named_as_in_megatrons_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    characters = pre_tokenizers.ByteLevel.alphabet()
    tokens = {token: i for i, token in enumerate([*sorted(characters), "th", "<|endoftext|>"])}
    (tmp_path / "gpt2-vocab.json").write_text(json.dumps(tokens))
    (tmp_path / "gpt2-merges.txt").write_text("#version: 0.2\nt h\n")
    files = (f"--vocab-file={tmp_path}/gpt2-vocab.json", f"--merge-file={tmp_path}/gpt2-merges.txt")
    call(tokenizer_inspect, *files, "--text", "the")
    shown = capsys.readouterr().out
    assert "huggingface, 258 ids" in shown
    assert "End of a document: id 257, <|endoftext|>" in shown
    assert "th|e" in shown
