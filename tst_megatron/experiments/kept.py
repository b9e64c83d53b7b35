"""Ledgers of finished runs, compressed and without this machine's folders, so that they can be
committed: what of a study outlives the machine that it ran on.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import tst_megatron
from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell, is_done, ledger_of
from tst_megatron.files import write_whole


@dataclass(frozen=True)
class Kept:
    """A folder of them.

    Attributes:
        folder: where they lie; it need not be there yet.
    """

    folder: Path

    def path(self, name: str) -> Path:
        """Of a cell's ledger."""
        return self.folder / f"{name}.jsonl.gz"

    def has(self, name: str) -> bool:
        """Whether a cell's ledger is kept, so that it need not be trained."""
        return self.path(name).exists()

    def make(self) -> None:
        """Make the folder.

        Raises:
            UserError: its name is a file's.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--ledgers {self.folder} is a file: give a folder")
        self.folder.mkdir(parents=True, exist_ok=True)

    def take(self, root: Path, cell: Cell) -> None:
        """Keep a finished cell's ledger; root and source folder are named in words."""
        content = ledger_of(root, cell).read_text()
        for folder, name in ((root, "OUT"), (Path(tst_megatron.__file__).parents[1], "SOURCE")):
            content = content.replace(str(folder), name)
        write_whole(self.path(cell.name), gzip.compress(content.encode(), mtime=0))

    def take_finished(self, root: Path, cells: list[Cell]) -> None:
        """Keep those that ended when nobody was there to do it."""
        for cell in cells:
            if not self.has(cell.name) and is_done(root, cell):
                self.take(root, cell)
