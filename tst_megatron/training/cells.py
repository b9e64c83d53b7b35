"""Train many runs on one machine, a few at a time, so that it can be cut off at any point.

The one idea: a run is its folder. What lies there says whether it is done; a run that is not goes
on from its last checkpoint; and the same call, made again, does only what is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.training.launch import Run, start_on_cpu, start_on_gpus
from tst_megatron.training.ledger import LedgerError, read_ledger
from tst_megatron.training.progress import ProgressDisplay

_POLL_S = 1.0


@dataclass(frozen=True)
class Cell:
    """A run to be trained.

    Attributes:
        name: of its folder; a path of its own below the root.
        flags: the command line after ``pretrain``, without what `train_cells` gives: where it
            saves, loads and logs.
        num_steps: of the whole run.
    """

    name: str
    flags: tuple[str, ...]
    num_steps: int


def ledger_of(root: Path, cell: Cell) -> Path:
    """The cell's ledger."""
    return root / cell.name / "ledger.jsonl"


def is_done(root: Path, cell: Cell) -> bool:
    """Whether the cell has its last validation and its last checkpoint."""
    try:
        ledger = read_ledger(ledger_of(root, cell))
        saved = root / cell.name / "checkpoints" / "latest_checkpointed_iteration.txt"
        last_saved = saved.read_text().strip()
    except (LedgerError, OSError):
        return False
    return last_saved == str(cell.num_steps) and bool(
        ledger.validations and ledger.validations[-1]["step"] >= cell.num_steps
    )


def train_cells(
    root: Path,
    cells: Sequence[Cell],
    jobs: int,
    console: Console,
    when_done: Callable[[Cell], None] = lambda cell: None,
    nproc_per_node: int = 1,
    on_gpus: bool = False,
) -> bool:
    """Train the cells that are not done, in their order, `jobs` at a time.

    Args:
        root: the cells' folders lie in here.
        cells: with names that differ.
        jobs: runs at once.
        console: where progress goes.
        when_done: is called with each cell as it ends.
        nproc_per_node: processes of a run, a core or a GPU each.
        on_gpus: train on this machine's GPUs, which are enough for all jobs, not on its CPU.

    Returns:
        True if all are done; False if the user cut it short, after the runs have saved.

    Raises:
        UserError: a run failed; the others have saved and ended.
    """
    waiting = [cell for cell in cells if not is_done(root, cell)]
    if len(waiting) < len(cells):
        done = len(cells) - len(waiting)
        console.print(f"{done} of {len(cells)} runs are done already.", highlight=False)
    running: dict[str, tuple[Cell, Run]] = {}
    # Each run at a time has a place, with GPUs of its own.
    places = list(range(jobs))
    place_of: dict[str, int] = {}
    try:
        with ProgressDisplay(console) as display:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    place = place_of[cell.name] = places.pop(0)
                    first = place * nproc_per_node
                    gpus = range(first, first + nproc_per_node) if on_gpus else None
                    running[cell.name] = cell, _start(root, cell, nproc_per_node, gpus)
                    display.add(cell.name, ledger_of(root, cell), cell.num_steps)
                display.wait(lambda: any(_has_ended(run) for _, run in running.values()), _POLL_S)
                for name in [name for name, (_, run) in running.items() if _has_ended(run)]:
                    cell, run = running.pop(name)
                    places.append(place_of[name])
                    display.end(name)
                    _check(cell, run)
                    when_done(cell)
    except KeyboardInterrupt:
        console.print("Stopping: the runs are saving a checkpoint.", highlight=False)
        return False
    finally:
        for _, run in running.values():
            run.ask_to_stop()
        for _, run in running.values():
            run.end()
    return True


def _start(root: Path, cell: Cell, num_processes: int, gpus: Sequence[int] | None) -> Run:
    folder = root / cell.name
    own = (
        f"--save={folder / 'checkpoints'}",
        f"--load={folder / 'checkpoints'}",
        f"--tensorboard-dir={folder / 'tensorboard'}",
        f"--tst-ledger={ledger_of(root, cell)}",
    )
    flags, log = [*cell.flags, *own], folder / "log.txt"
    if gpus is None:
        return start_on_cpu(flags, log, num_processes)
    return start_on_gpus(flags, log, gpus)


def _has_ended(run: Run) -> bool:
    return run.process.poll() is not None


def _check(cell: Cell, run: Run) -> None:
    if run.process.returncode != 0:
        raise UserError(f"the {cell.name} run failed: {run.error()}")
