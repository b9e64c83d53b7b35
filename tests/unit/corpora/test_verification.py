"""Corpora that are whole, and corpora with any byte of them changed, cut off or added."""

import argparse
import fcntl
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora import EOD, random_documents, write_corpus, write_its_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_megatron.corpora import blocks, verification
from tst_megatron.corpora.blocks import IdCheck, check_blocks
from tst_megatron.corpora.commands import index_verify
from tst_megatron.corpora.index_checks import Finding
from tst_megatron.corpora.index_file import FIXED_PART, bin_path, index_path, read_index
from tst_megatron.corpora.indexing.partial import leftovers
from tst_megatron.corpora.manifest import write_manifest
from tst_megatron.corpora.verification import verify
from tst_megatron.errors import UserError

VOCAB_SIZE = 500
NUM_DOCUMENTS = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with its manifest."""
    prefix = tmp_path_factory.mktemp("whole") / "corpus.of.mine"
    write_corpus(prefix, random_documents(NUM_DOCUMENTS))
    write_its_manifest(prefix)
    return prefix


def copied(whole: Path, folder: Path, with_manifest: bool = True) -> Path:
    names = ["bin", "idx", *(["manifest.json"] if with_manifest else [])]
    for name in names:
        (folder / f"corpus.{name}").write_bytes(Path(f"{whole}.{name}").read_bytes())
    if not with_manifest:
        (folder / "corpus.manifest.json").unlink(missing_ok=True)
    return folder / "corpus"


def flip(path: Path, position: int, mask: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def test_a_whole_corpus_is_whole(whole: Path) -> None:
    seen: list[int] = []
    verdict = verify(whole, on_progress=seen.append)
    assert not verdict.findings
    assert not verdict.unchecked
    assert verdict.documents == NUM_DOCUMENTS
    assert verdict.tokens == read_index(whole).num_tokens
    assert sum(seen) == sum(path(whole).stat().st_size for path in (bin_path, index_path))


@pytest.mark.parametrize("path_of", [bin_path, index_path])
@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_is_in_the_range_named_first(
    whole: Path, scratch: Path, path_of, place: float, mask: int
) -> None:
    prefix = copied(whole, scratch)
    path = path_of(prefix)
    position = int(place * path.stat().st_size)
    flip(path, position, mask)
    first = verify(prefix).findings[0]
    assert first.path == path
    assert first.begin <= position < first.end
    if path_of is index_path:
        assert first.end - first.begin <= 9, "named by its entry"


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_without_a_manifest_a_wrong_length_or_pointer_is_named(
    whole: Path, scratch: Path, place: float, mask: int
) -> None:
    prefix = copied(whole, scratch, with_manifest=False)
    index = read_index(prefix)
    begin, end = index.lengths_begin, index.boundaries_begin
    position = begin + int(place * (end - begin))
    last_length = range(index.pointers_begin - 4, index.pointers_begin)
    flip(index_path(prefix), position, mask)
    first = verify(prefix).findings[0]
    if position in last_length and first.path == bin_path(prefix):
        # The tokens' file could as well be too short or too long; the other range is named too.
        assert f"bytes {last_length[0]}-{last_length[-1]}" in first.reason
    else:
        assert first.path == index_path(prefix)
        assert first.begin <= position < first.end


@settings(max_examples=50, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_without_a_manifest_a_wrong_boundary_is_named_if_it_cannot_be(
    whole: Path, scratch: Path, place: float, mask: int
) -> None:
    prefix = copied(whole, scratch, with_manifest=False)
    index = read_index(prefix)
    position = index.boundaries_begin + int(place * index.document_boundaries.nbytes)
    flip(index_path(prefix), position, mask)
    boundaries = read_index(prefix).document_boundaries.astype(np.int64)
    can_be = (np.diff(boundaries) >= 0).all() and boundaries[0] == 0
    findings = verify(prefix).findings
    assert bool(findings) != bool(can_be and boundaries[-1] == NUM_DOCUMENTS)
    assert all(f.begin <= position < f.end for f in findings)


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("path_of", [bin_path, index_path])
@pytest.mark.parametrize("change", [-1, -2, -200, 1, 2, 300])
def test_files_cut_short_or_grown(
    whole: Path, tmp_path: Path, path_of, change: int, with_manifest: bool
) -> None:
    prefix = copied(whole, tmp_path, with_manifest)
    path = path_of(prefix)
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    first = verify(prefix, VOCAB_SIZE).findings[0]
    size = len(content)
    assert first.path == path
    assert (first.begin, first.end) == tuple(sorted((size, size + change)))
    assert str(size) in first.reason


@pytest.mark.parametrize("size", range(FIXED_PART.size))
def test_an_index_cut_within_its_header(whole: Path, tmp_path: Path, size: int) -> None:
    prefix = copied(whole, tmp_path, with_manifest=False)
    path = index_path(prefix)
    path.write_bytes(path.read_bytes()[:size])
    assert verify(prefix).findings[0].begin == size


def test_an_id_outside_the_vocabulary_is_named_with_its_document(tmp_path: Path) -> None:
    documents = random_documents(20)
    documents[7][0] = VOCAB_SIZE
    prefix = write_corpus(tmp_path / "corpus", documents)
    at = 2 * sum(map(len, documents[:7]))
    write_its_manifest(prefix)
    for vocab_size in (None, VOCAB_SIZE):
        (finding,) = verify(prefix, vocab_size).findings
        assert (finding.path, finding.begin, finding.end) == (bin_path(prefix), at, at + 2)
        assert "id 500 of document 7" in finding.reason
    assert not verify(prefix, VOCAB_SIZE + 1).findings


def test_a_negative_id_is_outside_the_vocabulary(tmp_path: Path) -> None:
    prefix = write_corpus(tmp_path / "corpus", [[5, 6], [7, -2, 8]], dtype=np.int32)
    (finding,) = verify(prefix, 100).findings
    assert (finding.begin, finding.end) == (12, 16)
    assert "id -2 of document 1" in finding.reason


def test_documents_of_several_sequences_count_as_one(tmp_path: Path) -> None:
    documents = [[5, 6, 7], [8, 9, 10, 11, 99]]
    prefix = write_corpus(tmp_path / "corpus", documents, sequences=[[1, 0, 2], [2, 3]])
    assert not verify(prefix, 100).findings
    assert "id 99 of document 1" in verify(prefix, 50).findings[0].reason


def test_a_document_without_its_end_is_named(tmp_path: Path) -> None:
    documents = random_documents(20)
    documents[4][-1] = 17
    prefix = write_corpus(tmp_path / "corpus", documents)
    manifest = write_its_manifest(prefix)
    (finding,) = verify(prefix).findings
    end = 2 * sum(map(len, documents[:5]))
    assert (finding.begin, finding.end) == (end - 2, end)
    assert f"id 17 of document 4 is its last, and not its end {EOD}" in finding.reason
    write_manifest(prefix, replace(manifest, settings={"append_eod": False}))
    assert not verify(prefix).findings


def test_a_corpus_of_megatrons_own_tool_says_what_cannot_be_checked(whole: Path, tmp_path) -> None:
    prefix = copied(whole, tmp_path, with_manifest=False)
    verdict = verify(prefix)
    assert not verdict.findings
    assert "checksums" in verdict.unchecked[0]
    assert "--vocab-size" in verdict.unchecked[1]
    assert "--vocab-size" not in " ".join(verify(prefix, VOCAB_SIZE).unchecked)


def test_an_empty_corpus(tmp_path: Path) -> None:
    prefix = write_corpus(tmp_path / "corpus", [])
    assert not verify(prefix, 10).findings
    bin_path(prefix).write_bytes(b"\x01\x00")
    assert verify(prefix, 10).findings[0] == Finding(
        bin_path(prefix), 0, 2, "the index holds no sequence"
    )


def test_a_manifest_that_is_wrong_itself(whole: Path, tmp_path: Path) -> None:
    prefix = copied(whole, tmp_path)
    manifest = write_its_manifest(prefix)
    write_manifest(prefix, replace(manifest, bin=replace(manifest.bin, sha256="0" * 64)))
    assert "the manifest is wrong" in verify(prefix).findings[0].reason
    write_manifest(prefix, replace(manifest, tokens=manifest.tokens + 1))
    assert verify(prefix).findings[0].path.name == "corpus.manifest.json"
    write_manifest(prefix, replace(manifest, dtype="int32"))
    assert (verify(prefix).findings[0].begin, verify(prefix).findings[0].end) == (17, 18)
    write_manifest(prefix, replace(manifest, dtype="nonsense"))
    with pytest.raises(UserError, match="'nonsense' is no dtype"):
        verify(prefix)


def test_what_is_missing_or_unfinished_is_said(whole: Path, tmp_path: Path) -> None:
    prefix = copied(whole, tmp_path)
    assert not leftovers(prefix)
    folder = tmp_path / "corpus.partial"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        assert "left unfinished" in leftovers(prefix)[0]
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is writing it" in leftovers(prefix)[0]
    index_path(prefix).unlink()
    with pytest.raises(UserError, match=re.escape(f"{index_path(prefix)}; {folder}")):
        verify(prefix)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_block_with_a_changed_byte_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Blocks of 64 MiB as they are, of a few bytes here: everything else is the same."""
    block = 1 << 10
    monkeypatch.setattr(blocks, "CHECKSUM_BLOCK", block)
    monkeypatch.setattr(verification, "CHECKSUM_BLOCK", block)
    prefix = write_corpus(tmp_path / "corpus", random_documents(300))
    write_its_manifest(prefix)
    assert not verify(prefix, workers=workers).findings
    for position in (3, 5 * block, 7 * block - 1):
        path = bin_path(prefix)
        # The lowest bit: ids stay in the vocabulary, so that only the checksum tells.
        flip(path, position // 2 * 2, 1)
    found = verify(prefix, workers=workers).findings
    assert [f.begin // block for f in found] == [0, 5, 6]
    # A changed end of a document is named itself; the others by their block.
    for finding in found:
        begin = finding.begin // block * block
        assert finding.end - finding.begin == 2 or (finding.begin, finding.end) == (
            begin,
            begin + block,
        )
    path.write_bytes(path.read_bytes()[: 6 * block + 7])
    cut = verify(prefix, workers=workers).findings
    assert [f.begin // block for f in cut] == [0, 5, 6]
    assert cut[-1].begin == 6 * block + 7


def test_ends_at_the_edges_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CHECKSUM_BLOCK", 16)
    documents = [[9, 9, 9, 9, 9, 9, 9, EOD], [9, EOD], [9] * 20 + [EOD], [EOD]]
    prefix = write_corpus(tmp_path / "corpus", documents)
    index = read_index(prefix)
    check = IdCheck(bin_path(prefix), index.dtype, 10, EOD, index)
    ends = 2 * np.cumsum([len(document) for document in documents])
    assert not check_blocks(bin_path(prefix), None, check, 2, lambda size: None)
    whole = bin_path(prefix).read_bytes()
    for end in ends:
        content = bytearray(whole)
        content[end - 2] = 9
        bin_path(prefix).write_bytes(content)
        (finding,) = check_blocks(bin_path(prefix), None, check, 2, lambda size: None)
        assert (finding.begin, finding.end) == (end - 2, end)


def test_a_block_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    # A folder opens no better than a file on a broken disk.
    size = tmp_path.stat().st_size
    (finding,) = check_blocks(tmp_path, None, None, 1, lambda done: None)
    assert (finding.begin, finding.end) == (0, size)
    assert "cannot be read: Is a directory" in finding.reason


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    index_verify.add_arguments(parser)
    return index_verify.main(parser.parse_args(words))


def test_the_command_says_what_it_found(whole: Path, tmp_path: Path, capsys) -> None:
    assert command(str(whole)) == 0
    said = capsys.readouterr().out
    assert f"{whole}: whole: {NUM_DOCUMENTS} documents" in said
    assert "Not checked" not in said
    prefix = copied(whole, tmp_path, with_manifest=False)
    assert command(str(prefix)) == 0
    assert "as far as it can be checked" in capsys.readouterr().out
    flip(index_path(prefix), 2, 1)
    (tmp_path / "corpus.partial").mkdir()
    assert command(str(prefix), "--vocab-size=500", "--workers=1") == 1
    said = capsys.readouterr().out
    assert f"First bad bytes: {index_path(prefix)}, bytes 0-8: " in said
    assert "Beside it: " in said
    with pytest.raises(UserError, match="--workers 0 is below 1"):
        command(str(prefix), "--workers=0")
    with pytest.raises(UserError, match="there is no file"):
        command(str(tmp_path / "nothing"))
