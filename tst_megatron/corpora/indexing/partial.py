"""The folder of what is unfinished of a corpus, and the lock in it: one builder a corpus.

The one idea: the lock ends with its process, however that ends; so what lies in the folder is some
process's at work, or is there to be gone on with.
"""

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tst_megatron.errors import UserError

LOCK = "lock"
# Workers of a builder that was killed hold its lock for the moment they need to notice.
_PATIENCE_S = 3.0


def partial_folder(prefix: Path) -> Path:
    """Where the unfinished files of a corpus lie."""
    return prefix.with_name(f"{prefix.name}.partial")


def done_folder(prefix: Path) -> Path:
    """The same when it has nothing more to say; its lock with it."""
    return prefix.with_name(f"{prefix.name}.done.partial")


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while inside; forked children hold it too, until all of them have ended.

    Args:
        path: the file; its folder is made.
        what: is built, for the message.

    Raises:
        UserError: another process holds it.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        # Its holder may have finished and taken the folder away by now.
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(path)
            file.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"{path} cannot be locked: {error.strerror}") from None
            if time.monotonic() > deadline:
                raise UserError(
                    f"{what} is being built by another process{holder}: wait for it, or give "
                    "another --output"
                ) from None
            time.sleep(0.1)
            continue
        if _is_still_there(path, file.fileno()):
            break
        file.close()
    with file:
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}")
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        host, process = path.read_text().split()
    except (OSError, ValueError):
        return ""
    return f" ({process} on {host})"


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def remove_leftovers(prefix: Path) -> None:
    """Remove the folder of a process that was killed when all names were given but this was left.

    Call for a corpus that is whole: whoever finds the folder later takes its names back.

    Raises:
        UserError: another process is in there, or it cannot be removed.
    """
    folder = partial_folder(prefix)
    shutil.rmtree(done_folder(prefix), ignore_errors=True)
    if not folder.exists():
        return
    try:
        with locked(folder / LOCK, f"the corpus {prefix}"):
            shutil.rmtree(folder.rename(done_folder(prefix)))
    except OSError as error:
        raise UserError(in_words(error, prefix)) from None


def leftovers(prefix: Path) -> list[str]:
    """What a builder has left beside a corpus, or is writing there now, in a sentence each."""
    folder = partial_folder(prefix)
    if not folder.is_dir():
        return []
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return [f"another process is writing it now, in {folder}"]
    except OSError:
        # No lock yet, or a file system without locks.
        pass
    return [f"{folder} is what a builder left unfinished: run it again, or remove the folder"]


def in_words(error: OSError, prefix: Path) -> str:
    """What keeps a corpus from being written, in a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of {prefix} is full: free some space and run the same command again, "
            "which goes on from what is done"
        )
    return f"{error.filename or prefix} cannot be written or read: {error.strerror or error}"
