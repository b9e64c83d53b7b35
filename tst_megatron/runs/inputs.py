"""Paths on a command line to runs: ledgers, folders of them, TensorBoard folders, W&B exports.

The one idea: a path is looked at once to tell what it is, the module of that source makes a ledger
of it, and from there on all are read the same. A run is called by its folder, and where two folders
are called alike by as many of the folders above as tell them apart.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tst_megatron.errors import UserError
from tst_megatron.runs.ledger import Ledger, read_ledger
from tst_megatron.runs.run import RecordedRun, is_same_run, run_of_ledger
from tst_megatron.runs.stages import Vocabulary
from tst_megatron.runs.tensorboard import event_files, is_event_file, ledger_of_events
from tst_megatron.runs.wandb_csv import ledgers_of_csv

_LEDGERS = ("ledger.jsonl", "ledger.jsonl.gz")
_LEDGERS_BY_NAME = (".jsonl", ".jsonl.gz")
_SUFFIXES = (".gz", ".jsonl", ".csv")
# What folders and files are called in every run.
_OF_ANY_RUN = ("ledger", "checkpoints", "tensorboard", "wandb")
_PLAIN = Vocabulary()


def read_runs(paths: Sequence[Path], vocabulary: Vocabulary = _PLAIN) -> list[RecordedRun]:
    """Read the runs that paths name.

    Args:
        paths: each a ledger, an event file of TensorBoard or a CSV export of W&B; a run's folder
            with its ledger or its event files; or a folder of ledgers or of runs' folders, such as
            a demo's, a sweep's or a study's.
        vocabulary: of methods that the runs may have had, for sources that do not tell of them.

    Returns:
        The runs in the paths' order, those of one folder by name; each once, with a note where it
        was named or copied more often.

    Raises:
        UserError: a path holds no run or cannot be read.
    """
    named = [place for path in paths for place in _runs_at(path)]
    times = Counter(place.resolve() for place in named)
    places = list({place.resolve(): place for place in named}.values())
    runs: list[RecordedRun] = []
    for place, name in zip(places, _names_of(places), strict=True):
        found = _unique(_read(place, name, vocabulary), name, {run.name for run in runs})
        if times[place.resolve()] > 1:
            found = [_noted(run, "It is named more than once and counts once.") for run in found]
        runs += found
    return _once(runs)


def _read(place: Path, name: str, vocabulary: Vocabulary) -> list[RecordedRun]:
    return [
        run_of_ledger(ledger, own or name, vocabulary)
        for own, ledger in _ledgers(place, vocabulary).items()
    ]


def _ledgers(place: Path, vocabulary: Vocabulary) -> dict[str, Ledger]:
    """By the names that their source has for them; empty where it has none."""
    if place.is_dir() or is_event_file(place):
        return {"": ledger_of_events(place, vocabulary)}
    if place.suffix == ".csv":
        return ledgers_of_csv(place, vocabulary)
    return {"": read_ledger(place)}


def _unique(runs: list[RecordedRun], name: str, taken: set[str]) -> list[RecordedRun]:
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
        return [place for place in found if place.is_file() or place.name not in _OF_ANY_RUN]
    return found


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir())


def _once(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """Every run once, however many copies there are of it: copies are no samples of their own."""
    found: list[list[RecordedRun]] = []
    for run in runs:
        copies = next((copies for copies in found if is_same_run(run, copies[0])), None)
        if copies is None:
            found.append([run])
        else:
            copies.append(run)
    return list(map(_of_copies, found))


def _of_copies(copies: Sequence[RecordedRun]) -> RecordedRun:
    # Some may have been made while it went on.
    run = max(copies, key=lambda copy: max([0.0, *copy.steps.steps, *copy.curve.steps]))
    others = [f"{copy.name} ({copy.path})" for copy in copies if copy is not run]
    return _noted(run, f"It is also in {', '.join(others)} and counts once.") if others else run


def _noted(run: RecordedRun, note: str) -> RecordedRun:
    return replace(run, notes=(*run.notes, note))


def _names_of(paths: Sequence[Path]) -> list[str]:
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
    parts = [part for part in (*folders, name) if part not in _OF_ANY_RUN]
    return parts or [name]
