"""The files of an indexed corpus in the making, and how they get their names.

The steps a corpus takes, each of which can be the last of a process and is gone on from:

1. everything unfinished lies in ``PREFIX.partial/``, whose lock says who writes there
   (``partial.py``);
2. tokens and lengths are appended, in order; now and then they are synced, and a journal says up
   to where;
3. the index is written from the lengths, and the manifest from both files' checksums;
4. the files and the tokenizer's folder are renamed, the manifest last, and the folder is removed.

The one idea: a name without ``.partial`` is given to nothing but whole files.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.blocks import Checksum
from tst_megatron.corpora.index_file import bin_path, index_path, write_index
from tst_megatron.corpora.indexing.partial import (
    LOCK,
    done_folder,
    in_words,
    locked,
    partial_folder,
)
from tst_megatron.corpora.manifest import (
    FileRecord,
    Manifest,
    manifest_path,
    tokenizer_folder,
    write_manifest,
)
from tst_megatron.errors import UserError
from tst_megatron.files import sync_folder, write_whole

# Of file systems, or pairs of them, whose files the kernel does not copy (copy_file_range(2)).
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
SHARD_SUFFIX = ".shard"
_READ_BYTES = 8 << 20


@contextmanager
def corpus_output(prefix: Path) -> Iterator["CorpusOutput"]:
    """Write a corpus, alone.

    Raises:
        UserError: another process writes it, files of that name are there, or the disk is full.
    """
    folder = partial_folder(prefix)
    try:
        # Of a process that was killed when all was done but this.
        shutil.rmtree(done_folder(prefix), ignore_errors=True)
        if not folder.exists():
            check_free(prefix)
        with locked(folder / LOCK, f"the corpus {prefix}"):
            output = CorpusOutput(prefix, folder)
            try:
                output.take_back_names()
                check_free(prefix)
                yield output
            finally:
                _remove_if_empty(folder)
    except OSError as error:
        raise UserError(in_words(error, prefix)) from None


def named_prefix(output: str) -> Path:
    """The prefix that ``--output`` names.

    Raises:
        UserError: it names a folder, beside which the files would come to lie.
    """
    if not Path(output).name or output.endswith(("/", "/.", "/..")) or output == "..":
        raise UserError(
            f"--output {output} is a folder: add how the files in it are to be called, "
            f"{Path(output) / 'corpus'}"
        )
    return Path(output)


def _remove_if_empty(folder: Path) -> None:
    if folder.exists() and [path.name for path in folder.iterdir()] == [LOCK]:
        shutil.rmtree(folder)


def _names(prefix: Path) -> tuple[Path, ...]:
    return (
        bin_path(prefix),
        index_path(prefix),
        tokenizer_folder(prefix),
        manifest_path(prefix),
    )


def check_free(prefix: Path) -> None:
    """Check that no corpus of that name is there.

    Raises:
        UserError: one is, or a file of one.
    """
    for path in _names(prefix):
        if path.exists():
            raise UserError(f"{path} is there already: give another --output, or remove it")


class CorpusOutput:
    """What is written of one corpus so far. Made by `corpus_output`.

    Attributes:
        prefix: path of the files without their endings.
        folder: of what is unfinished.
        tokenizer_folder: for the tokenizer's files, if the corpus has any.
    """

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.prefix = prefix
        self.folder = folder
        self.tokenizer_folder = folder / "tokenizer"
        self._naming = folder / "naming"
        self._tokens_file = folder / "tokens.bin"
        self._lengths_file = folder / "lengths"
        self._journal_file = folder / "journal.json"

    def take_back_names(self) -> None:
        """Undo the renames that a killed process left half-way.

        Raises:
            OSError: they cannot be undone.
        """
        if not self._naming.exists():
            return
        manifest_path(self.prefix).unlink(missing_ok=True)
        index_path(self.prefix).unlink(missing_ok=True)
        if tokenizer_folder(self.prefix).exists():
            shutil.rmtree(tokenizer_folder(self.prefix))
        if bin_path(self.prefix).exists():
            bin_path(self.prefix).rename(self._tokens_file)
        self._naming.unlink()

    def has_shards(self) -> bool:
        """Whether a build has finished something: a shard that is joined, or one that is not."""
        return "shards" in self.journal() or any(self.folder.glob(f"*{SHARD_SUFFIX}"))

    def clear(self) -> None:
        """Forget all that is written; the lock stays.

        Raises:
            OSError: it cannot be removed.
        """
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def journal(self) -> dict[str, Any]:
        """The note of the last `Appending.sync`; empty before the first."""
        if not self._journal_file.exists():
            return {}
        note: dict[str, Any] = json.loads(self._journal_file.read_bytes())["note"]
        return note

    @contextmanager
    def appending(self, dtype: np.dtype[np.generic]) -> Iterator["Appending"]:
        """Go on from the last `Appending.sync`.

        Raises:
            OSError: the files cannot be written.
        """
        sizes = {"tokens": 0, "documents": 0}
        if self._journal_file.exists():
            sizes = json.loads(self._journal_file.read_bytes())["sizes"]
        for file, size in (
            (self._tokens_file, sizes["tokens"] * dtype.itemsize),
            (self._lengths_file, sizes["documents"] * 4),
        ):
            with file.open("ab") as opened:
                opened.truncate(size)
        with Checksum() as checksum:
            with self._tokens_file.open("rb", buffering=0) as before:
                while block := before.read(_READ_BYTES):
                    checksum.update(block)
            with (
                self._tokens_file.open("r+b", buffering=0) as tokens,
                self._lengths_file.open("ab") as lengths,
            ):
                # The kernel copies into no file that is opened to append.
                tokens.seek(0, os.SEEK_END)

                def sync(note: dict[str, Any]) -> None:
                    lengths.flush()
                    for file in (tokens, lengths):
                        os.fsync(file.fileno())
                    sizes = {
                        "tokens": checksum.size // dtype.itemsize,
                        "documents": lengths.tell() // 4,
                    }
                    write_whole(self._journal_file, json.dumps({"sizes": sizes, "note": note}))

                yield Appending(tokens, lengths, checksum, sync)

    def finish[Made: Manifest | None](
        self,
        dtype: np.dtype[np.generic],
        tokens: FileRecord,
        manifest: Callable[[FileRecord, FileRecord], Made],
    ) -> Made:
        """Write index and manifest, and give all three their names. Call after `appending`.

        Args:
            dtype: of the tokens.
            tokens: checksums of what was appended.
            manifest: makes the manifest from the records of the ``.bin`` and ``.idx`` files; or
                None, for a corpus that has none.

        Raises:
            OSError: they cannot be written; none then has its name.
        """
        index_file = self.folder / "index.idx"
        with index_file.open("wb") as file, Checksum() as checksum:

            def write(data: bytes) -> None:
                checksum.update(data, meanwhile=lambda: file.write(data))

            write_index(write, dtype, *self._lengths())
            file.flush()
            os.fsync(file.fileno())
        made = manifest(tokens, checksum.record())
        # The manifest is made whole before the first name is given: then only renames are left.
        staged = self.folder / "corpus"
        if made is not None:
            write_manifest(staged, made)
        write_whole(self._naming, "")
        self._tokens_file.rename(bin_path(self.prefix))
        index_file.rename(index_path(self.prefix))
        if self.tokenizer_folder.exists():
            self.tokenizer_folder.rename(tokenizer_folder(self.prefix))
        if made is not None:
            manifest_path(staged).rename(manifest_path(self.prefix))
        sync_folder(self.prefix.parent)
        # In one step, so that names are never taken back from here on.
        done = self.folder.rename(done_folder(self.prefix))
        # The next builder may be removing it as well.
        shutil.rmtree(done, ignore_errors=True)
        return made

    def _lengths(self) -> tuple[int, Callable[[], Iterator[npt.NDArray[np.int32]]]]:
        def blocks() -> Iterator[npt.NDArray[np.int32]]:
            with self._lengths_file.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    yield np.frombuffer(block, np.int32)

        return self._lengths_file.stat().st_size // 4, blocks


class Appending:
    """Tokens and lengths go in here, in order."""

    def __init__(
        self,
        tokens: FileIO,
        lengths: BinaryIO,
        checksum: Checksum,
        sync: Callable[[dict[str, Any]], None],
    ) -> None:
        self._tokens = tokens
        self._lengths = lengths
        self._checksum = checksum
        self.sync = sync
        """Make what was appended last, and remember a note with it."""

    def tokens(self, data: bytes | memoryview) -> None:
        """Append the bytes of tokens.

        Raises:
            OSError: they cannot be written.
        """
        whole = memoryview(data).cast("B")
        self._checksum.update(whole, meanwhile=lambda: self._write(whole))

    def tokens_of(self, file: FileIO, size: int) -> None:
        """Append the first ``size`` bytes of a file, which the kernel copies where it can.

        Raises:
            OSError: they cannot be read or written.
        """
        begin = 0
        while begin < size:
            block = os.pread(file.fileno(), min(size - begin, _READ_BYTES), begin)
            if not block:
                raise OSError(errno.EIO, "it is shorter than it was", str(file.name))
            at = begin
            self._checksum.update(block, meanwhile=lambda: self._copy(file, at, block))  # noqa: B023
            begin += len(block)

    def _copy(self, file: FileIO, begin: int, block: bytes) -> None:
        copied = 0
        try:
            while copied < len(block):
                copied += os.copy_file_range(
                    file.fileno(), self._tokens.fileno(), len(block) - copied, begin + copied
                )
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            self._write(memoryview(block)[copied:])

    def _write(self, data: memoryview) -> None:
        while len(data):
            data = data[self._tokens.write(data) or 0 :]

    def lengths(self, lengths: npt.NDArray[np.int32]) -> None:
        """Append ``[n]`` tokens of each of the documents appended.

        Raises:
            OSError: they cannot be written.
        """
        self._lengths.write(memoryview(np.ascontiguousarray(lengths)))

    def record(self) -> FileRecord:
        """Checksums of all tokens so far."""
        return self._checksum.record()
