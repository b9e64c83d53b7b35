"""Checksums of large files: one to compare with ``sha256sum``, and one a block, to say where."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType

from tst_megatron.corpora.manifest import CHECKSUM_BLOCK, FileRecord


class Checksum:
    """SHA-256 of a stream of bytes and of every `CHECKSUM_BLOCK` of it; a context manager.

    The two are made side by side, and beside the writing: hashlib lets go of the interpreter.
    """

    def __init__(self) -> None:
        self.size = 0
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._blocks: list[str] = []
        self._side = ThreadPoolExecutor(max_workers=2)

    def __enter__(self) -> "Checksum":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._side.shutdown()

    def update(
        self, data: bytes | memoryview, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """Take the next bytes, and do something else with them at the same time."""
        summing = [
            self._side.submit(self._whole.update, data),
            self._side.submit(self._update_blocks, memoryview(data).cast("B")),
        ]
        try:
            meanwhile()
        finally:
            wait(summing)

    def _update_blocks(self, data: memoryview) -> None:
        while len(data):
            room = CHECKSUM_BLOCK - self.size % CHECKSUM_BLOCK
            piece = data[:room]
            self._block.update(piece)
            self.size += len(piece)
            if len(piece) == room:
                self._blocks.append(self._block.hexdigest())
                self._block = hashlib.sha256()
            data = data[room:]

    def record(self) -> FileRecord:
        """The checksums of what was taken so far."""
        last = [self._block.hexdigest()] if self.size % CHECKSUM_BLOCK else []
        return FileRecord(self.size, self._whole.hexdigest(), [*self._blocks, *last])
