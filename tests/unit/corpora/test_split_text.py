"""The text of a split is told alike by the corpora of all tokenizers, and its bytes are its own."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tst_megatron.corpora.commands import compressor_build, index_build
from tst_megatron.corpora.sources import Source
from tst_megatron.corpora.split_text import SplitText, text_of_split
from tst_megatron.experiments import compressor_train

FILES = sorted(Path(json.__file__).parent.glob("*.py"))
TEXTS = [file.read_text() + "naïve 世界" * 9 for file in FILES] * 4
HELD_OUT = (0.75, 1.0)
# Megatron rounds where a split begins.
BYTES = sum(len(text.encode()) for text in TEXTS[round(0.75 * len(TEXTS)) :])
WAYS = {
    "a table": ("--window-bits=10",),
    "two ids a window": ("--window-bits=16", "--token-bits=8", "--rule=fit"),
    "steps": ("--window-bits=32",),
    "zlib": ("--method=gzip",),
    "bytes": (),
}


def call(command: ModuleType, *flags: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    command.main(parser.parse_args(list(flags)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name, texts in {"text": TEXTS, "less": TEXTS[:-1]}.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines)
    call(compressor_train, str(folder / "text.jsonl"), "--order=2", f"--output={folder / 'm1'}")
    return folder


@pytest.fixture(scope="module")
def indexed(root: Path) -> Callable[..., str]:
    """The prefix of a text by one of `WAYS`."""

    def index(way: str, text: str = "text") -> str:
        tokenizer, prefix = root / f"by {way}", root / f"{way} of {text}"
        named = () if way == "zlib" else (str(root / "m1"),)
        if way != "bytes" and not tokenizer.exists():
            call(compressor_build, *named, f"--output={tokenizer}", *WAYS[way])
        spec = "bytes" if way == "bytes" else str(tokenizer)
        flags = (f"--tokenizer={spec}", f"--output={prefix}")
        call(index_build, str(root / f"{text}.jsonl"), *flags)
        return str(prefix)

    return index


def text(*prefixes: str, part: tuple[float, float] = HELD_OUT, counts: bool = True) -> SplitText:
    found = text_of_split([Source(prefix, None, part) for prefix in prefixes], counts)
    assert found is not None
    return found


def test_all_tokenizers_tell_one_text_and_its_bytes(indexed: Callable[..., str]) -> None:
    found = {way: text(indexed(way)) for way in WAYS}
    assert {one.sha256 for one in found.values()} == {found["bytes"].sha256}
    assert {one.bytes for one in found.values()} == {BYTES}
    documents = len(TEXTS) - round(0.75 * len(TEXTS))
    assert {one.documents for one in found.values()} == {documents}
    # An end of a document each.
    assert found["bytes"].tokens == BYTES + documents
    assert found["a table"].tokens < found["bytes"].tokens / 2


def test_other_documents_are_another_text(indexed: Callable[..., str]) -> None:
    prefix, less = indexed("bytes"), indexed("bytes", "less")
    texts = [text(prefix), text(prefix, part=(0.5, 1.0)), text(prefix, part=(0.0, 1.0)), text(less)]
    texts.append(text(prefix, less))
    assert len({one.sha256 for one in texts}) == len(texts)
    assert texts[-1].corpora == 2


def test_of_a_whole_corpus_the_manifest_knows_and_of_a_part_it_is_counted(
    indexed: Callable[..., str],
) -> None:
    prefix = indexed("a table")
    whole = text(prefix, part=(0.0, 1.0), counts=False)
    assert whole.bytes == sum(len(one.encode()) for one in TEXTS)
    assert text(prefix, counts=False).bytes is None


def test_what_is_drawn_by_weight_or_has_no_manifest_is_no_text(
    indexed: Callable[..., str], root: Path
) -> None:
    one, other = indexed("bytes"), indexed("a table")
    assert text_of_split([Source(one, 0.3), Source(other, 0.7)], True) is None
    assert text_of_split([Source(str(root / "nothing"))], True) is None
    assert text_of_split([Source("s3://bucket/corpus")], True) is None
    assert text_of_split([], True) is None
