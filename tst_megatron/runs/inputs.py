"""Paths on a command line to runs: ledgers, folders of them, TensorBoard folders, W&B exports.

The one idea: a path is looked at once to tell what it is, the module of that source reads it, and
what every run needs (a name, its phases, where its decay starts) is added here, the same for all.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tst_megatron.analysis.compare.derived import complete
from tst_megatron.runs.ledger_runs import run_of_ledger
from tst_megatron.runs.run import Run, is_same_run
from tst_megatron.runs.run_names import OF_ANY_RUN, names_of
from tst_megatron.runs.tensorboard import event_files, is_event_file, run_of_events
from tst_megatron.runs.wandb_csv import runs_of_csv
from tst_megatron.errors import UserError
from tst_megatron.runs.ledger import read_ledger

_LEDGERS = ("ledger.jsonl", "ledger.jsonl.gz")
_LEDGERS_BY_NAME = (".jsonl", ".jsonl.gz")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the runs that paths name.

    Args:
        paths: each a ledger, an event file of TensorBoard or a CSV export of W&B; a run's folder
            with its ledger or its event files; or a folder of ledgers or of runs' folders, such as
            a demo's, a sweep's or a study's.

    Returns:
        The runs in the paths' order, those of one folder by name; each once, with a note where it
        was named or copied more often.

    Raises:
        UserError: a path holds no run or cannot be read.
    """
    named = [place for path in paths for place in _runs_at(path)]
    times = Counter(place.resolve() for place in named)
    places = list({place.resolve(): place for place in named}.values())
    runs: list[Run] = []
    for place, name in zip(places, names_of(places), strict=True):
        found = _unique(_read(place, name), name, {run.name for run in runs})
        if times[place.resolve()] > 1:
            found = [_noted(run, "It is named more than once and counts once.") for run in found]
        runs += found
    return _once(runs)


def read_sides(baseline: Sequence[Path], tst: Sequence[Path]) -> tuple[list[Run], list[Run]]:
    """Read both sides, each completed with what only the other tells.

    Args:
        baseline: as of `read_runs`.
        tst: likewise.

    Raises:
        UserError: as `read_runs`.
    """
    theirs, ours = read_runs(baseline), read_runs(tst)
    return complete(theirs, ours), complete(ours, theirs)


def _read(place: Path, name: str) -> list[Run]:
    if place.is_dir() or is_event_file(place):
        return [run_of_events(place, name)]
    if place.suffix == ".csv":
        return runs_of_csv(place, name)
    return [run_of_ledger(read_ledger(place), name)]


def _unique(runs: list[Run], name: str, taken: set[str]) -> list[Run]:
    """With names that no run before them has: runs of an export bring their own."""
    return [replace(run, name=f"{name}: {run.name}") if run.name in taken else run for run in runs]


def _runs_at(path: Path) -> list[Path]:
    """What there is to read at a path."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} is not there: give a run's ledger or its folder")
    here = _in_folder(path)
    # A sweep's runs lie in a folder of their own below it.
    found = (
        [here] if here else _below(path) or [f for folder in _folders(path) for f in _below(folder)]
    )
    if not found:
        raise UserError(
            f"{path} holds no run: give a ledger.jsonl, a TensorBoard folder, a CSV export of W&B "
            "or a folder of these"
        )
    return found


def _in_folder(folder: Path) -> Path | None:
    """The ledger of a run's folder, else the folder itself if it holds event files."""
    ledger = next((folder / name for name in _LEDGERS if (folder / name).is_file()), None)
    if ledger is None and event_files(folder):
        return folder
    return ledger


def _below(folder: Path) -> list[Path]:
    """Ledgers by their own names, and the runs of the folders in a folder."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name.endswith(_LEDGERS_BY_NAME)
    ]
    found += [place for below in _folders(folder) if (place := _in_folder(below)) is not None]
    if any(place.is_file() for place in found):
        # Beside a run's ledger, its TensorBoard folder tells of the same run.
        return [place for place in found if place.is_file() or place.name not in OF_ANY_RUN]
    return found


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir())


def _once(runs: Sequence[Run]) -> list[Run]:
    """Every run once, however many copies there are of it: copies are no samples of their own."""
    found: list[list[Run]] = []
    for run in runs:
        copies = next((copies for copies in found if is_same_run(run, copies[0])), None)
        if copies is None:
            found.append([run])
        else:
            copies.append(run)
    return list(map(_of_copies, found))


def _of_copies(copies: Sequence[Run]) -> Run:
    # Some may have been made while it went on.
    run = max(copies, key=lambda copy: max([0.0, *copy.steps.steps, *copy.curve.steps]))
    others = [f"{copy.name} ({copy.path})" for copy in copies if copy is not run]
    return _noted(run, f"It is also in {', '.join(others)} and counts once.") if others else run


def _noted(run: Run, note: str) -> Run:
    return replace(run, notes=(*run.notes, note))
