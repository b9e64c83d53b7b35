"""Paths on a command line to runs: ledgers, folders of them, TensorBoard folders, W&B exports.

The one idea: a path is looked at once to tell what it is, the module of that source makes a ledger
of it, and from there on all are read the same. A run is called by its folder, and where two folders
are called alike by as many of the folders above as tell them apart. Of an export with several runs
``FILE.csv:RUN`` names one.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
_CSV = ".csv"
_PLAIN = Vocabulary()


class _Named(NamedTuple):
    """A file or folder that is read, and the run in it that is meant; None for all."""

    place: Path
    run: str | None = None


def read_runs(
    paths: Sequence[Path], vocabulary: Vocabulary = _PLAIN, loss_columns: Sequence[str] = ()
) -> list[RecordedRun]:
    """Read the runs that paths name.

    Args:
        paths: each a ledger, an event file of TensorBoard or a CSV export of W&B, with a colon and
            the name of one of its runs or not; a run's folder with its ledger or its event files;
            or a folder of ledgers or of runs' folders, such as a demo's, a sweep's or a study's.
        vocabulary: of methods that the runs may have had, for sources that do not tell of them.
        loss_columns: names of the held-out loss in W&B exports and TensorBoard folders, in place of
            Megatron's; a source's is the first that it has.

    Returns:
        The runs in the paths' order, those of one folder by name; each once, with a note where it
        was named or copied more often.

    Raises:
        UserError: a path holds no run, or not the one that is named; or it cannot be read.
    """
    named = [one for path in paths for one in _named_at(path)]
    places = list({one.place.resolve(): one.place for one in named}.values())
    runs: list[RecordedRun] = []
    for place, name in zip(places, _names_of(places), strict=True):
        asked = [one.run for one in named if one.place.resolve() == place.resolve()]
        ledgers = _chosen(place, name, _ledgers(place, vocabulary, loss_columns), asked)
        found = [run_of_ledger(of, own or name, vocabulary) for own, of in ledgers.items()]
        times = Counter(asked)
        found = [
            _noted(run, "It is named more than once and counts once.")
            if times[None] + times[run.name] > 1
            else run
            for run in found
        ]
        runs += _unique(found, name, {run.name for run in runs})
    return _once(runs)


def _ledgers(place: Path, vocabulary: Vocabulary, loss_columns: Sequence[str]) -> dict[str, Ledger]:
    """By the names that their source has for them; empty where it has none."""
    if place.is_dir() or is_event_file(place):
        return {"": ledger_of_events(place, vocabulary, loss_columns)}
    if place.suffix == _CSV:
        return ledgers_of_csv(place, vocabulary, loss_columns)
    return {"": read_ledger(place)}


def _chosen(
    place: Path, name: str, ledgers: dict[str, Ledger], asked: Sequence[str | None]
) -> dict[str, Ledger]:
    """Those of a source's runs that are meant."""
    if None in asked:
        return ledgers
    # A path has one slash where a name has two; with its own spelling a name counts first.
    there = {
        written: own
        for spelt in (_as_a_path, str.strip, str)
        for own in ledgers
        for written in [spelt(own or name)]
    }
    for run in asked:
        if run not in there:
            raise UserError(
                f'{place} has no run "{run}": it has '
                + ", ".join(f'"{own or name}"' for own in ledgers)
            )
    meant = {there[run] for run in asked if run is not None}
    return {own: of for own, of in ledgers.items() if own in meant}


def _as_a_path(name: str) -> str:
    return str(Path(name))


def _unique(runs: list[RecordedRun], name: str, taken: set[str]) -> list[RecordedRun]:
    """With names that no run before them has: runs of an export bring their own."""
    return [replace(run, name=f"{name}: {run.name}") if run.name in taken else run for run in runs]


def _named_at(path: Path) -> list[_Named]:
    """What a path names: all that is there, or a run of an export."""
    if path.exists():
        return list(map(_Named, _runs_at(path)))
    text = str(path)
    # Names of files and of runs may have colons of their own: the longest file that is there.
    for at in range(len(text) - 1, 0, -1):
        file = Path(text[:at])
        if text[at] == ":" and file.suffix == _CSV and file.is_file():
            return [_Named(file, text[at + 1 :])]
    raise UserError(
        f"{path} is not there: give a run's ledger or its folder, or a run of an export as "
        "FILE.csv:RUN"
    )


def _runs_at(path: Path) -> list[Path]:
    """What there is to read at a path."""
    if path.is_file():
        return [path]
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
    # Some may have been made while it went on; of those that got as far a ledger tells most.
    run = max(copies, key=lambda copy: (_last_step(copy), copy.source == "ledger"))
    others = [f"{copy.name} ({copy.path})" for copy in copies if copy is not run]
    return _noted(run, f"It is also in {', '.join(others)} and counts once.") if others else run


def _last_step(run: RecordedRun) -> float:
    return max([0.0, *run.steps.steps, *run.curve.steps])


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
