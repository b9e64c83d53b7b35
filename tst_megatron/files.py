"""Files that are either whole or not there."""

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

_DAY_S = 24 * 60 * 60


@contextmanager
def replace_when_whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name; it takes its own when all of it is on the disk.

    Raises:
        OSError: the file cannot be written; what was there before still is.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def put_when_whole(path: Path, is_whole: Callable[[Path], bool]) -> Iterator[BinaryIO]:
    """Likewise a file that several processes and hosts may write at once, with the same content.

    Each writes under a name of its own, and leaves the file alone if it is whole by then: a client
    of NFS loses a file that it has mapped when another replaces it. What killed ones have left goes
    after a day, and not before, as its writer may be another host's.

    Args:
        path: the file.
        is_whole: whether it is there, and need not be put.

    Raises:
        OSError: the file cannot be written; what was there before still is.
    """
    own = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with own.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        now = own.stat().st_mtime  # By the file server's clock, as those of the others.
        if not is_whole(path):
            own.replace(path)
        for other in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            with suppress(FileNotFoundError):
                if now - other.stat().st_mtime > _DAY_S:
                    other.unlink()
    finally:
        own.unlink(missing_ok=True)


@contextmanager
def folder_when_whole(out: Path) -> Iterator[Path]:
    """A folder beside it that takes its name in the end, and is gone if that does not come.

    Raises:
        OSError: it cannot be made, or something has that name by then.
    """
    partial = out.with_name(f"{out.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        sync_folder(partial)
        partial.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last, as fsync makes the content of a file.

    Raises:
        OSError: the folder cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a small file whole.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with replace_when_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
