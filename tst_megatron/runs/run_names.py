"""Short names of runs, from their paths.

The one idea: a run is called by its folder, and where two folders are called alike by as many of
the folders above as tell them apart.
"""

from collections.abc import Sequence
from pathlib import Path

_SUFFIXES = (".gz", ".jsonl", ".csv")
OF_ANY_RUN = ("ledger", "checkpoints", "tensorboard", "wandb")
"""What folders and files are called in every run."""


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name each, all different.

    Args:
        paths: of files or folders, all different.
    """
    parts = [_parts(path) for path in paths]
    depth = 1
    while True:
        names = ["/".join(of_path[-depth:]) for of_path in parts]
        if len(set(names)) == len(names):
            return names
        if depth > max(map(len, parts)):
            # Only what is called so in every run tells them apart.
            return [str(path) for path in paths]
        depth += 1


def _parts(path: Path) -> list[str]:
    *folders, name = path.absolute().parts[1:]
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    parts = [part for part in (*folders, name) if part not in OF_ANY_RUN]
    return parts or [name]
