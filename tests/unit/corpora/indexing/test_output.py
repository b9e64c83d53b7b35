"""Names, journal, lock and checksums of a corpus in the making."""

import errno
import hashlib
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_megatron.corpora import blocks
from tst_megatron.corpora.blocks import Checksum
from tst_megatron.corpora.indexing import output as output_module
from tst_megatron.corpora.indexing.output import CorpusOutput, corpus_output, named_prefix
from tst_megatron.corpora.indexing.partial import partial_folder
from tst_megatron.corpora.manifest import FileRecord, Manifest, TokenizerRecord, read_manifest
from tst_megatron.errors import UserError

UINT16 = np.dtype(np.uint16)
DOCUMENTS = [np.arange(n, dtype=np.uint16) for n in (3, 1, 7, 2, 9)]


def manifest(tokens: FileRecord, index: FileRecord) -> Manifest:
    tokenizer = TokenizerRecord("null", None, "0", 100, None, [], "numpy", 0, None)
    return Manifest([], {}, tokenizer, "uint16", 5, 22, 0, 9, 0, {}, [], {}, bin=tokens, idx=index)


@pytest.mark.parametrize("by_kernel", [True, False])
def test_files_are_appended_as_their_bytes_would_be(
    by_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(output_module, "_READ_BYTES", 1000)
    if not by_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuses)
    shard = tmp_path / "shard"
    tokens = np.arange(4000, dtype=np.uint16)
    shard.write_bytes(tokens.tobytes() + b"what is known last")
    with corpus_output(tmp_path / "c") as output, output.appending(UINT16) as appending:
        appending.tokens(tokens[:3])
        with shard.open("rb", buffering=0) as file:
            appending.tokens_of(file, tokens.nbytes)
        appending.tokens(tokens[:2])
        written = (output.folder / "tokens.bin").read_bytes()
        record = appending.record()
    assert written == np.concatenate([tokens[:3], tokens, tokens[:2]]).tobytes()
    assert record.sha256 == hashlib.sha256(written).hexdigest()


def write(output: CorpusOutput, begin: int = 0, end: int = 5, sync: bool = True) -> FileRecord:
    with output.appending(UINT16) as appending:
        for document in DOCUMENTS[begin:end]:
            appending.tokens(document)
            appending.lengths(np.array([len(document)], np.int32))
        if sync:
            appending.sync({"documents": end})
        return appending.record()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "whole"
    with corpus_output(folder / "c") as output:
        output.finish(UINT16, write(output), manifest)
    return files(folder)


def test_only_whole_files_are_left(whole: dict[str, bytes]) -> None:
    assert sorted(whole) == ["c.bin", "c.idx", "c.manifest.json"]
    assert whole["c.bin"] == b"".join(document.tobytes() for document in DOCUMENTS)


@pytest.mark.parametrize("synced", [0, 2, 5])
@pytest.mark.parametrize("unsynced", [0, 2])
def test_goes_on_from_the_last_sync(
    synced: int, unsynced: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    prefix = tmp_path / "again" / "c"
    with corpus_output(prefix) as output:
        write(output, 0, synced)
        write(output, synced, synced + unsynced, sync=False)
    with corpus_output(prefix) as output:
        assert output.journal() == {"documents": synced}
        output.finish(UINT16, write(output, synced), manifest)
    assert files(prefix.parent) == whole


@pytest.mark.parametrize("renames", range(4))
def test_goes_on_from_any_rename(
    renames: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "again" / "c"
    rename, left = Path.rename, [renames]

    def dies(self: Path, target: Path) -> Path:
        if target.parent == prefix.parent:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return rename(self, target)

    with corpus_output(prefix) as output:
        output.tokenizer_folder.mkdir()
        (output.tokenizer_folder / "tokenizer.model").write_text("model")
        tokens = write(output)
        monkeypatch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            output.finish(UINT16, tokens, manifest)
        monkeypatch.undo()
    assert read_manifest(prefix) is None
    with corpus_output(prefix) as output:
        assert not list(prefix.parent.glob("c.*[!l]")), "no name is given to anything unfinished"
        (output.tokenizer_folder).mkdir(exist_ok=True)
        (output.tokenizer_folder / "tokenizer.model").write_text("model")
        output.finish(UINT16, write(output, 5), manifest)
    assert files(prefix.parent) == whole
    assert (prefix.parent / "c.tokenizer" / "tokenizer.model").read_text() == "model"


def hold(prefix: Path, held: Any, let_go: Any) -> None:
    with corpus_output(prefix):
        held.set()
        let_go.wait()


def test_two_builders_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tst_megatron.corpora.indexing.partial._PATIENCE_S", 0.2)
    fork = multiprocessing.get_context("fork")
    held, let_go = fork.Event(), fork.Event()
    other = fork.Process(target=hold, args=(tmp_path / "c", held, let_go))
    other.start()
    held.wait()
    with (
        pytest.raises(UserError, match=rf"is being built by another process \({other.pid} on"),
        corpus_output(tmp_path / "c"),
    ):
        pass
    let_go.set()
    other.join()
    with corpus_output(tmp_path / "c"):
        pass
    assert list(tmp_path.iterdir()) == [], "nothing is left of a build that has done nothing"


def test_who_waited_is_told_what_the_other_has_finished(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held, let_go = fork.Event(), fork.Event()

    def finish() -> None:
        with corpus_output(tmp_path / "c") as output:
            tokens = write(output)
            held.set()
            let_go.wait()
            time.sleep(0.3)
            output.finish(UINT16, tokens, manifest)

    other = fork.Process(target=finish)
    other.start()
    held.wait()
    let_go.set()
    with (
        pytest.raises(UserError, match=r"c\.bin is there already"),
        corpus_output(tmp_path / "c"),
    ):
        pass
    other.join()
    assert other.exitcode == 0
    assert not partial_folder(tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["c.bin", "c.idx", "c.manifest.json", "c.tokenizer"])
def test_never_writes_over_what_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("somebody's")
    with pytest.raises(UserError, match=f"{name} is there already"), corpus_output(tmp_path / "c"):
        pass
    assert (tmp_path / name).read_text() == "somebody's"
    assert not partial_folder(tmp_path / "c").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output_module, "write_index", full)
    with (
        pytest.raises(UserError, match=r"the disk of .* is full: free some space and run"),
        corpus_output(tmp_path / "c") as output,
    ):
        output.finish(UINT16, write(output), manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["c.partial"]


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=300), max_size=8))
def test_checksums_are_of_the_whole_and_of_every_block(pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CHECKSUM_BLOCK", 128)
        with Checksum() as summing:
            for piece in pieces:
                summing.update(piece)
            record = summing.record()
    data = b"".join(pieces)
    pieces_of = [data[i : i + 128] for i in range(0, len(data), 128)]
    assert record.size == len(data)
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert record.block_sha256 == [hashlib.sha256(block).hexdigest() for block in pieces_of]


@pytest.mark.parametrize("output", ["data/", "/", ".", "data/.", ".."])
def test_a_folder_is_no_prefix(output: str) -> None:
    with pytest.raises(UserError, match=f"--output {output} is a folder: add how"):
        named_prefix(output)


def test_a_prefix_may_be_called_as_a_folder_beside_it(tmp_path: Path) -> None:
    assert named_prefix(str(tmp_path)) == tmp_path
