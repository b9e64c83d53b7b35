"""Train many runs on one machine, a few at a time, so that it can be cut off at any point.

The one idea: a run is its folder. What lies there says whether it is done; a run that is not goes
on from its last checkpoint; and the same call, made again, does only what is left.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.errors import UserError
from tst_megatron.experiments.bars import Bars
from tst_megatron.experiments.launch import Process, start_on_cpu, start_on_gpus
from tst_megatron.runs.ledger import LedgerError, read_ledger

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


@dataclass(frozen=True)
class Places:
    """Where runs are put on this machine.

    Attributes:
        jobs: runs at once.
        nproc_per_node: processes of a run, a core or a GPU each.
        on_gpus: on this machine's GPUs, which are enough for all jobs, not on its CPU.
    """

    jobs: int
    nproc_per_node: int = 1
    on_gpus: bool = False

    def gpus(self, place: int) -> Sequence[int] | None:
        """Those of the run at a place; None on a CPU."""
        first = place * self.nproc_per_node
        return range(first, first + self.nproc_per_node) if self.on_gpus else None

    def start(self, flags: list[str], log: Path, place: int = 0) -> Process:
        """Start a run at a place.

        Args:
            flags: Megatron's and ours.
            log: takes its output, after what is there.
            place: counted from 0.

        Raises:
            UserError: a run is still writing this log.
        """
        gpus = self.gpus(place)
        if gpus is None:
            return start_on_cpu(flags, log, self.nproc_per_node)
        return start_on_gpus(flags, log, gpus)


def places_here(jobs: int, nproc_per_node: int | None) -> Places:
    """Places on all GPUs of this machine, or on its CPU where it has none.

    Args:
        jobs: runs at once.
        nproc_per_node: processes of a run; None for this machine's GPUs over the jobs, 1 on a CPU.

    Raises:
        UserError: there are not so many GPUs.
    """
    import torch

    gpus = 0 if os.environ.get(DEVICE_VARIABLE) == "cpu" else torch.cuda.device_count()
    if not gpus:
        return Places(jobs, nproc_per_node or 1)
    processes = nproc_per_node or max(1, gpus // jobs)
    if jobs * processes > gpus:
        raise UserError(
            f"--jobs {jobs} of {processes} processes each need {jobs * processes} GPUs, "
            f"and there are {gpus}: lower --jobs or --nproc-per-node"
        )
    return Places(jobs, processes, on_gpus=True)


def ledger_of(root: Path, cell: Cell) -> Path:
    """The cell's ledger."""
    return root / cell.name / "ledger.jsonl"


def is_done(root: Path, cell: Cell) -> bool:
    """Whether the cell has its last validation and its last checkpoint.

    Raises:
        UserError: it has the checkpoint, and its ledger cannot be read.
    """
    saved = root / cell.name / "checkpoints" / "latest_checkpointed_iteration.txt"
    try:
        last_saved = saved.read_text().strip()
    except OSError:
        return False
    if last_saved != str(cell.num_steps):
        return False
    validations = read_ledger(ledger_of(root, cell)).validations
    return bool(validations) and bool(validations[-1]["step"] >= cell.num_steps)


def train_cells(
    root: Path,
    cells: Sequence[Cell],
    places: Places,
    console: Console,
    when_done: Callable[[Cell], None] = lambda cell: None,
    may_start: Callable[[Cell, Sequence[Cell]], bool] = lambda cell, running: True,
    when_failed: Callable[[Cell, str], None] | None = None,
    replan: Callable[[], Sequence[Cell]] | None = None,
) -> bool:
    """Train the cells that are not done, in their order, a few at a time.

    Args:
        root: the cells' folders lie in here.
        cells: with names that differ.
        places: where they are put; how many at once.
        console: where progress goes.
        when_done: is called with each cell as it ends.
        may_start: is asked before each start, with the cells that are running; where it says no it
            is asked again when one of these has ended, and with none of them the rest is left out.
        when_failed: is called with a cell that failed, and why, and the others go on. Without it,
            and where the run failed before its first step, all end: others would fail likewise.
        replan: is asked whenever a run has ended for all cells anew, in their order: what some
            runs came to may say which others there are to be. Without it they stay as they were.

    Returns:
        True if no more is to be done; False if the user cut it short, after the runs have saved.

    Raises:
        UserError: a run failed, or another process is training it; the others have saved and ended.
    """

    def not_done(cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if not is_done(root, cell)]

    waiting = not_done(cells)
    if len(waiting) < len(cells):
        done = len(cells) - len(waiting)
        console.print(f"{done} of {len(cells)} runs are done already.", highlight=False)
    # By its place, with GPUs of its own.
    running: dict[int, tuple[Cell, Process]] = {}
    ended: set[str] = set()

    def may_go_on() -> bool:
        return may_start(waiting[0], [cell for cell, _ in running.values()])

    try:
        with Bars(console) as bars:
            while waiting or running:
                while waiting and len(running) < places.jobs and may_go_on():
                    cell = waiting.pop(0)
                    place = min(set(range(places.jobs)) - set(running))
                    running[place] = cell, _start(root, cell, places, place)
                    bars.add(cell.name, ledger_of(root, cell), cell.num_steps)
                if not running:
                    break
                bars.wait(lambda: any(p.has_ended for _, p in running.values()), _POLL_S)
                for place in [at for at, (_, p) in running.items() if p.has_ended]:
                    cell, process = running.pop(place)
                    bars.end(cell.name)
                    _tell(root, cell, process, when_done, when_failed)
                    ended.add(cell.name)
                    if replan is not None:
                        busy = ended | {other.name for other, _ in running.values()}
                        waiting = [one for one in not_done(replan()) if one.name not in busy]
    except KeyboardInterrupt:
        console.print("Stopping: the runs are saving a checkpoint.", highlight=False)
        return False
    finally:
        stop([process for _, process in running.values()])
    return True


def _tell(
    root: Path,
    cell: Cell,
    process: Process,
    when_done: Callable[[Cell], None],
    when_failed: Callable[[Cell, str], None] | None,
) -> None:
    """What has become of a run that has ended."""
    # One that broke after its last checkpoint has done its work.
    if process.torchrun.returncode == 0 or is_done(root, cell):
        when_done(cell)
    elif when_failed is not None and _has_trained(root, cell):
        when_failed(cell, process.error())
    else:
        raise UserError(f"the {cell.name} run failed: {process.error()}")


def stop(processes: Sequence[Process]) -> None:
    """Let runs save and end; at once, where the user asks again."""
    try:
        for process in processes:
            process.ask_to_stop()
        for process in processes:
            process.end()
    except KeyboardInterrupt:
        for process in processes:
            process.end(timeout_s=0.0)


def _start(root: Path, cell: Cell, places: Places, place: int) -> Process:
    folder = root / cell.name
    own = (
        f"--save={folder / 'checkpoints'}",
        f"--load={folder / 'checkpoints'}",
        f"--tensorboard-dir={folder / 'tensorboard'}",
        f"--ledger={ledger_of(root, cell)}",
    )
    return places.start([*cell.flags, *own], folder / "log.txt", place)


def _has_trained(root: Path, cell: Cell) -> bool:
    try:
        return bool(read_ledger(ledger_of(root, cell)).steps)
    except LedgerError:
        return False
