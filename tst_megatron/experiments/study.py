"""A study: many runs, of which some are only known once others are done; what is left is trained.

The one idea: a study says at any time which runs there are, in their order, by the ledgers that are
kept. It can be cut off at any point: the same call trains what is not kept yet, and nothing else.
"""

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console

from tst_megatron.errors import INTERRUPTED_EXIT_CODE
from tst_megatron.experiments.cells import Cell, Places, train_cells
from tst_megatron.experiments.kept import Kept
from tst_megatron.experiments.launch import end_on_signals
from tst_megatron.experiments.tuning import ChosenRates
from tst_megatron.runs.ledger import read_ledger


class StudyRun(Protocol):
    """One run of a study; runs that are equal are one."""

    @property
    def name(self) -> str:
        """Of its folder and of its ledger."""

    def cell(self, root: Path) -> Cell:
        """As it is trained in a study's folder."""


@dataclass
class Study[Run: StudyRun](ABC):
    """What is done, and so what is to be done next.

    Attributes:
        kept: the ledgers that are there.
        losses: final held-out losses of runs that have been looked at, by name; infinite of one
            that failed.
    """

    kept: Kept
    losses: dict[str, float] = field(default_factory=dict)

    @abstractmethod
    def runs(self) -> Sequence[Run]:
        """All that can be told of now, in the order in which they are trained."""

    @property
    def rates_file(self) -> Path:
        """Chosen rates, which stay as they were chosen."""
        return self.kept.folder / "rates.json"

    @property
    def rates(self) -> ChosenRates:
        """Likewise."""
        return ChosenRates(self.rates_file)

    def loss(self, run: Run) -> float | None:
        """Held-out, at its end; None while it is not done."""
        if run.name not in self.losses and self.kept.has(run.name):
            loss = read_ledger(self.kept.path(run.name)).validations[-1]["next_token_loss"]
            self.losses[run.name] = math.inf if loss is None else float(loss)
        return self.losses.get(run.name)

    def left(self) -> list[Run]:
        """Runs of the plan that have no loss yet, each once."""
        return [run for run in dict.fromkeys(self.runs()) if self.loss(run) is None]

    def cells(self, root: Path) -> list[Cell]:
        """Of runs that are neither kept nor have failed."""
        return [
            run.cell(root)
            for run in dict.fromkeys(self.runs())
            if not self.kept.has(run.name) and self.losses.get(run.name) != math.inf
        ]

    def train(self, root: Path, jobs: int, console: Console) -> bool:
        """Train what is not kept yet; whether all is done.

        Args:
            root: the runs' folders lie in here, and their text, which is ready.
            jobs: runs at once, a core each.
            console: where progress goes.

        Raises:
            UserError: as of `train_cells`.
        """

        def note_failure(cell: Cell, reason: str) -> None:
            self.losses[cell.name] = math.inf
            console.print(f"The {cell.name} run failed: {reason}", highlight=False, soft_wrap=True)

        while True:
            # What ended when nobody was there may tell of further runs.
            before = self.cells(root)
            self.kept.take_finished(root, before)
            if self.cells(root) == before:
                break
        return train_cells(
            root,
            self.cells(root),
            Places(jobs),
            console,
            lambda cell: self.kept.take(root, cell),
            when_failed=note_failure,
            replan=lambda: self.cells(root),
        )


def run_study[Run: StudyRun](
    about: str,
    out: Path,
    make: Callable[[Kept], Study[Run]],
    prepare: Callable[[Path, Console], None],
) -> int:
    """A study's command: train what is not trained yet, or say what there is to do.

    Args:
        about: what ``--help`` says of it.
        out: default folder.
        make: the study of some kept ledgers.
        prepare: makes the text in the folder ready, where it is not.

    Returns:
        The process's exit code.

    Raises:
        UserError: as of `train_cells`, or the text cannot be made ready.
    """
    args = _flags(about, out)
    end_on_signals()
    console = Console()
    root = args.out.resolve()
    study = make(Kept((args.ledgers or root / "ledgers").resolve()))
    if args.list:
        _print_list(study, console)
        return 0
    study.kept.make()
    prepare(root, console)
    return 0 if study.train(root, args.jobs, console) else INTERRUPTED_EXIT_CODE


@runtime_checkable
class Timed(Protocol):
    """A run that says about how long it takes."""

    @property
    def hours(self) -> float:
        """Of one core."""


def _print_list[Run: StudyRun](study: Study[Run], console: Console) -> None:
    """A line a run, with what it came to, and what is left."""
    left = 0.0
    for run in {one.name: one for one in study.runs()}.values():
        loss = study.loss(run)
        told = "to do" if loss is None else f"{loss:.4f}"
        if loss is None and isinstance(run, Timed):
            left += run.hours
            told += f", {run.hours:.2f} h"
        console.print(f"{run.name}  {told}", highlight=False)
    if left:
        console.print(f"About {left:.1f} core hours are left of what is known.", highlight=False)


def _flags(about: str, out: Path) -> argparse.Namespace:
    """The command line of a study.

    Args:
        about: what ``--help`` says of it.
        out: default folder.

    Returns:
        ``out``, ``jobs``, ``ledgers`` (None for ``out/ledgers``) and ``list``.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, a core each (2)")
    parser.add_argument("--ledgers", type=Path, help="compressed ledgers (default OUT/ledgers)")
    parser.add_argument("--list", action="store_true", help="say what is done and what is not")
    return parser.parse_args()
