"""One builder a corpus: a lock that ends with its process, however that ends."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tst_megatron.errors import UserError

# Workers of a builder that was killed hold its lock for the moment they need to notice.
_PATIENCE_S = 3.0


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
