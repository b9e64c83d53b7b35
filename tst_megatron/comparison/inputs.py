"""Paths on a command line to runs: ledgers, folders of them, TensorBoard folders, W&B exports.

The one idea: a path is looked at once to tell what it is, the module of that source reads it, and
what every run needs (a name, its phases, where its decay starts) is added here, the same for all.
"""

from collections.abc import Sequence
from pathlib import Path

from tst_megatron.comparison.ledger_runs import run_of_ledger
from tst_megatron.comparison.run import Run
from tst_megatron.comparison.run_names import names_of
from tst_megatron.errors import UserError
from tst_megatron.training.ledger import read_ledger

_LEDGERS = ("ledger.jsonl", "ledger.jsonl.gz")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the runs that paths name.

    Args:
        paths: each a ledger, a folder with one in it, or a folder of such folders.

    Returns:
        The runs in the paths' order, those of one folder by name.

    Raises:
        UserError: a path holds no run, cannot be read, or a run is named twice.
    """
    files = [file for path in paths for file in _runs_at(path)]
    _check_once(files)
    runs = [
        run_of_ledger(read_ledger(file), name)
        for file, name in zip(files, names_of(files), strict=True)
    ]
    _check_different(runs)
    return runs


def _runs_at(path: Path) -> list[Path]:
    """What there is to read at a path."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} is not there: give a run's ledger or its folder")
    here = _in_folder(path)
    if here is not None:
        return [here]
    below = [_in_folder(folder) for folder in sorted(path.iterdir()) if folder.is_dir()]
    found = [file for file in below if file is not None]
    if not found:
        raise UserError(
            f"{path} holds no run: give a ledger.jsonl, or a folder with one in it or one below"
        )
    return found


def _in_folder(folder: Path) -> Path | None:
    return next((folder / name for name in _LEDGERS if (folder / name).is_file()), None)


def _check_once(files: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(f"{file} is named twice: name every run once")
        seen.add(file.resolve())


def _check_different(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        run_id = run.header.get("run_id")
        if run_id is None:
            continue
        if run_id in seen:
            raise UserError(
                f"{seen[run_id].path} and {run.path} are of the same run ({run_id}): name it once"
            )
        seen[run_id] = run
