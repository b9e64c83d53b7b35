"""Merged corpora against Megatron's builder, and what cannot be merged."""

import argparse
import errno
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora import EOD, random_documents, write_corpus, write_its_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from tst_megatron.corpora.commands import index_merge
from tst_megatron.corpora.index_file import bin_path, index_path, read_index
from tst_megatron.corpora.indexing.output import Appending, corpus_output
from tst_megatron.corpora.manifest import (
    InputRecord,
    SkippedRecord,
    manifest_path,
    read_manifest,
    write_manifest,
)
from tst_megatron.corpora.verification import verify
from tst_megatron.errors import UserError

ENDINGS = ("bin", "idx", "manifest.json", "tokenizer", "partial")
KILLS = 12
SCRIPT = """
import argparse, sys
from tst_megatron.corpora.commands import index_merge
parser = argparse.ArgumentParser()
index_merge.add_arguments(parser)
args = parser.parse_args()
print("ready", flush=True)
sys.exit(index_merge.main(args))
"""


def command(*words: Path | str) -> int:
    parser = argparse.ArgumentParser()
    index_merge.add_arguments(parser)
    return index_merge.main(parser.parse_args(list(map(str, words))))


def merged(*prefixes: Path, output: Path) -> Path:
    assert command(*prefixes, "--output", output) == 0
    return output


def megatrons(prefixes: list[Path], folder: Path) -> tuple[bytes, bytes]:
    """The two files that Megatron's builder makes of the corpora."""
    builder = IndexedDatasetBuilder(
        str(folder / "its.bin"), dtype=read_index(prefixes[0]).dtype.type
    )
    for prefix in prefixes:
        builder.add_index(str(prefix))
    builder.finalize(str(folder / "its.idx"))
    return (folder / "its.bin").read_bytes(), (folder / "its.idx").read_bytes()


def files(prefix: Path) -> tuple[bytes, bytes]:
    return bin_path(prefix).read_bytes(), index_path(prefix).read_bytes()


def names_of(prefix: Path) -> list[str]:
    return [ending for ending in ENDINGS if Path(f"{prefix}.{ending}").exists()]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three corpora with manifests, the second with nothing in it."""
    prefixes = []
    for i, number in enumerate((30, 0, 50)):
        prefix = write_corpus(tmp_path / f"part-{i}", random_documents(number, seed=i))
        write_its_manifest(prefix)
        prefixes.append(prefix)
    return prefixes


@settings(max_examples=15, deadline=None)
@given(
    corpora=st.lists(
        st.lists(st.lists(st.integers(0, 60_000), max_size=9), max_size=6), min_size=1, max_size=4
    ),
    dtype=st.sampled_from([np.uint16, np.int32]),
)
def test_bytes_are_those_of_megatrons_builder(tmp_path_factory, corpora, dtype) -> None:
    folder = tmp_path_factory.mktemp("merge")
    prefixes = [
        write_corpus(folder / f"part-{i}", corpus, dtype) for i, corpus in enumerate(corpora)
    ]
    output = merged(*prefixes, output=folder / "all")
    assert files(output) == megatrons(prefixes, folder)
    assert names_of(output) == ["bin", "idx"]


def test_a_corpus_may_be_given_twice(tmp_path: Path, parts: list[Path]) -> None:
    twice = [parts[0], parts[2], parts[0]]
    assert files(merged(*twice, output=tmp_path / "all")) == megatrons(twice, tmp_path)


def test_manifests_are_added(tmp_path: Path, parts: list[Path], capsys) -> None:
    first, last = (write_its_manifest(parts[i]) for i in (0, 2))
    skipped = [SkippedRecord("b.jsonl", 7, "not JSON")]
    last = replace(
        last,
        inputs=[InputRecord("b.jsonl", 9, "1" * 64, 50)],
        settings=first.settings | {"field": "content"},
        skipped={"not JSON": 1, "no field": 4},
        skipped_records=skipped,
        versions={"python": "4"},
        tokenizer=replace(last.tokenizer, encoder="ids 2", checked_documents=5, fell_back="why"),
    )
    write_manifest(parts[2], last)
    output = merged(*parts, output=tmp_path / "all")
    made = read_manifest(output)
    assert made is not None
    assert [one.path for one in made.inputs] == ["part-0.jsonl", "part-1.jsonl", "b.jsonl"]
    assert made.settings == {"append_eod": True, "eod": EOD}
    assert made.documents == 80
    assert made.tokens == first.tokens + last.tokens
    assert made.text_bytes == first.text_bytes + last.text_bytes
    assert made.longest_document == max(first.longest_document, last.longest_document)
    assert made.skipped == {"not JSON": 5, "no field": 4}
    assert made.skipped_records == skipped
    assert made.filtered == 3
    assert [one.path for one in made.left_out] == [part.name for part in parts]
    assert made.versions == {"python": "3; 4"}
    assert made.tokenizer.encoder == "ids 1; ids 2"
    assert (made.tokenizer.checked_documents, made.tokenizer.fell_back) == (5, "why")
    assert not verify(output).findings
    assert "indexed with different field" in capsys.readouterr().out


def test_the_tokenizer_goes_with_the_corpus(tmp_path: Path, parts: list[Path]) -> None:
    for prefix in parts:
        manifest = read_manifest(prefix)
        assert manifest is not None
        own = replace(manifest.tokenizer, folder=f"{prefix.name}.tokenizer")
        write_manifest(prefix, replace(manifest, tokenizer=own))
    with pytest.raises(UserError, match="there is no such folder"):
        command(*parts, "--output", tmp_path / "all")
    assert not names_of(tmp_path / "all")
    (tmp_path / "part-0.tokenizer").mkdir()
    (tmp_path / "part-0.tokenizer" / "model").write_text("pieces")
    (tmp_path / "else").mkdir()
    output = merged(*parts, output=tmp_path / "else" / "all")
    made = read_manifest(output)
    assert made is not None
    assert made.tokenizer.folder == "all.tokenizer"
    assert (tmp_path / "else" / "all.tokenizer" / "model").read_text() == "pieces"
    assert (tmp_path / "part-0.tokenizer" / "model").exists()


def test_without_one_manifest_there_is_none(tmp_path: Path, parts: list[Path], capsys) -> None:
    manifest_path(parts[2]).unlink()
    output = merged(*parts, output=tmp_path / "all")
    assert names_of(output) == ["bin", "idx"]
    assert f"there is no {manifest_path(parts[2])}" in capsys.readouterr().out
    assert files(output) == megatrons(parts, tmp_path)


def test_what_cannot_be_merged_is_one_sentence(tmp_path: Path, parts: list[Path]) -> None:
    output = tmp_path / "all"

    def refused(pattern: str, *prefixes: Path, output: Path = output) -> None:
        with pytest.raises(UserError, match=pattern):
            command(*prefixes, "--output", output)
        assert not names_of(tmp_path / "all")

    refused("--output .*part-2 is one of the corpora", *parts, output=tmp_path / "x/../part-2")
    refused("part-3.* is missing", *parts, tmp_path / "part-3")
    wide = write_corpus(tmp_path / "wide", [[1, 2]], np.int32)
    refused(
        "part-0 and .*wide cannot be one corpus: their dtypes differ, uint16 and int32",
        *parts,
        wide,
    )
    whole = read_manifest(parts[2])
    assert whole is not None
    for name, value, words in (
        ("sha256", "f" * 64, r"tokenizers \(by SHA-256\)"),
        ("vocab_size", 501, "vocabulary sizes"),
        ("eod", 0, "ends of documents"),
    ):
        other = replace(whole, tokenizer=replace(whole.tokenizer, **{name: value}))
        write_manifest(parts[2], other)
        refused(f"part-0 and .*part-2 cannot be one corpus: their {words} differ", *parts)
    write_manifest(parts[2], whole)
    refused(
        "several sequences a document",
        *parts,
        write_corpus(tmp_path / "cut", [[1, 2, 3]], sequences=[[1, 2]]),
    )
    taken = write_corpus(tmp_path / "taken", [[1, 2]])
    before = files(taken)
    refused(r"taken\.bin is there already", *parts, output=taken)
    # A folder that lies by a whole corpus does not make it unfinished.
    (tmp_path / "taken.partial").mkdir()
    refused(r"taken\.bin is there already", *parts, output=taken)
    assert files(taken) == before


def test_a_bad_corpus_is_not_merged(tmp_path: Path, parts: list[Path]) -> None:
    path = bin_path(parts[2])
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"part-2 is bad: .*part-2.bin, bytes \d+-\d+"):
        command(*parts, "--output", tmp_path / "all")
    # Of the right size, so that only its checksum tells.
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"index verify .*part-2 says where"):
        command(*parts, "--output", tmp_path / "all")
    assert not names_of(tmp_path / "all")


def test_an_unfinished_build_is_left_alone(tmp_path: Path, parts: list[Path]) -> None:
    folder = tmp_path / "all.partial"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="index build that is not finished"):
        command(*parts, "--output", tmp_path / "all")
    assert (folder / "plan.json").exists()


def test_a_merge_waits_for_no_other(tmp_path: Path, parts: list[Path]) -> None:
    with corpus_output(tmp_path / "all"), pytest.raises(UserError, match="by another process"):
        command(*parts, "--output", tmp_path / "all")


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, parts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Appending, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Appending, "tokens", full)
        with pytest.raises(UserError, match=r"the disk of .*all is full, and .* bytes: free"):
            command(*parts, "--output", tmp_path / "all")
    assert not names_of(tmp_path / "all")
    merged(*parts, output=tmp_path / "all")


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Whatever has a name is whole, and a rerun ends with the same bytes."""
    prefixes = []
    for i in range(4):
        prefix = tmp_path / f"part-{i}"
        write_corpus(prefix, [np.append(np.tile(np.arange(4, 500), 400), EOD)] * 40)
        write_its_manifest(prefix)
        prefixes.append(prefix)
    once = merged(*prefixes, output=tmp_path / "once")
    output = tmp_path / "out" / "all"

    def start() -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", SCRIPT, *map(str, prefixes), "--output", str(output)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def run() -> float:
        process, began = start(), time.monotonic()
        process.communicate()
        assert process.returncode == 0
        return time.monotonic() - began

    def named() -> list[str]:
        there = [name for name in names_of(output) if name in ("bin", "idx", "manifest.json")]
        for name in there:
            assert Path(f"{output}.{name}").read_bytes() == Path(f"{once}.{name}").read_bytes()
        return there

    takes = run()
    rng = random.Random()
    for _ in range(KILLS):
        if "manifest.json" in names_of(output):
            # Done: begin anew.
            shutil.rmtree(output.parent)
        process = start()
        time.sleep(rng.random() * takes)
        process.kill()
        process.communicate()
        named()
    if "manifest.json" not in named():
        run()
    assert named() == ["bin", "idx", "manifest.json"]
