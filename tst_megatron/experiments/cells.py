"""Train many runs on one machine, a few at a time, so that it can be cut off at any point.

The one idea: a run is its folder. What lies there says whether it is done; a run that is not goes
on from its last checkpoint; and the same call, made again, does only what is left. A run may start
from a checkpoint of another one, which is trained first, once for all that start from it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.checkpoints.steps import Checkpoint, read_tracker
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
        num_steps: of the whole run, those before its start among them.
        start: where it begins; None of one that begins at step 1.
    """

    name: str
    flags: tuple[str, ...]
    num_steps: int
    start: "Start | None" = None


@dataclass(frozen=True)
class Start:
    """A checkpoint of another run, with which a run begins.

    Attributes:
        cell: the other run, which saves it on its way or ends with it.
        step: of the checkpoint.
        flag: which names the checkpoint's folder, without its dashes: ``load``, or that of a method
            which makes a model from another one's.
    """

    cell: Cell
    step: int
    flag: str = "load"

    def checkpoint(self, root: Path) -> Checkpoint:
        """Where it lies, or will lie."""
        return Checkpoint(checkpoints_of(root, self.cell), self.step)

    def is_there(self, root: Path) -> bool:
        """Whether it has been saved, and not deleted since."""
        found = self.checkpoint(root)
        saved = read_tracker(found.root)
        # The tracker is written once a checkpoint is whole.
        return (
            saved is not None
            and saved.isdigit()
            and int(saved) >= self.step
            and found.folder.is_dir()
        )

    def flags(self, root: Path) -> tuple[str, ...]:
        """Of the run that starts here; once it has saved one of its own it goes on from that."""
        own = (f"--{self.flag}={checkpoints_of(root, self.cell)}", f"--ckpt-step={self.step}")
        return (*own, "--load-once") if self.flag == "load" else own


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


def checkpoints_of(root: Path, cell: Cell) -> Path:
    """Where a cell's checkpoints lie."""
    return root / cell.name / "checkpoints"


def with_starts(root: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Cells, and before each the run that it starts from, where that has still to be trained.

    Args:
        root: of their folders.
        cells: in their order.

    Raises:
        UserError: a run is done, and the checkpoint that another starts from is not there.
    """
    found: dict[str, Cell] = {}
    for cell in cells:
        chain = [cell]
        while (start := chain[0].start) is not None and not _has_begun(root, chain[0]):
            if start.is_there(root):
                break
            if is_done(root, start.cell):
                raise UserError(
                    f"the run {chain[0].name} starts from step {start.step} of {start.cell.name}, "
                    f"which is done and has no such checkpoint: delete {root / start.cell.name} to "
                    "train it again"
                )
            chain.insert(0, start.cell)
        found |= {one.name: one for one in chain if one.name not in found}
    return list(found.values())


def _has_begun(root: Path, cell: Cell) -> bool:
    """Whether a run has a checkpoint of its own, and so goes on from that."""
    return read_tracker(checkpoints_of(root, cell)) is not None


def is_done(root: Path, cell: Cell) -> bool:
    """Whether the cell has its last validation and its last checkpoint.

    Raises:
        UserError: it has the checkpoint, and its ledger cannot be read.
    """
    if read_tracker(checkpoints_of(root, cell)) != str(cell.num_steps):
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

    A cell that starts from another one's checkpoint waits for it, and those after it do not; the
    other one is trained first whether it is named or not.

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
        return with_starts(root, [cell for cell in cells if not is_done(root, cell)])

    waiting = not_done(cells)
    done = sum(is_done(root, cell) for cell in cells)
    if done:
        console.print(f"{done} of {len(cells)} runs are done already.", highlight=False)
    # By its place, with GPUs of its own.
    running: dict[int, tuple[Cell, Process]] = {}
    ended: set[str] = set()

    def next_one() -> Cell | None:
        """The first that has what it starts from, where it may start."""
        cell = next((one for one in waiting if _can_start(root, one)), None)
        if cell is None or not may_start(cell, [other for other, _ in running.values()]):
            return None
        waiting.remove(cell)
        return cell

    def tell(cell: Cell, process: Process) -> None:
        _tell(root, cell, process, when_done, when_failed)
        ended.add(cell.name)
        if when_failed is not None and not is_done(root, cell):
            for other in _cannot_start(root, waiting, cell):
                waiting.remove(other)
                ended.add(other.name)
                when_failed(other, f"it starts from a step that {cell.name} did not come to")

    try:
        with Bars(console) as bars:
            while waiting or running:
                while len(running) < places.jobs and (cell := next_one()) is not None:
                    place = min(set(range(places.jobs)) - set(running))
                    running[place] = cell, _start(root, cell, places, place)
                    bars.add(cell.name, ledger_of(root, cell), cell.num_steps)
                if not running:
                    break
                bars.wait(lambda: any(p.has_ended for _, p in running.values()), _POLL_S)
                for place in [at for at, (_, p) in running.items() if p.has_ended]:
                    cell, process = running.pop(place)
                    bars.end(cell.name)
                    tell(cell, process)
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


def _can_start(root: Path, cell: Cell) -> bool:
    return cell.start is None or _has_begun(root, cell) or cell.start.is_there(root)


def _cannot_start(root: Path, waiting: Sequence[Cell], failed: Cell) -> list[Cell]:
    """Those that wait for a run which has failed, and those that wait for these."""
    lost = [failed]
    for cell in lost:
        lost += [
            one
            for one in waiting
            if one.start is not None and one.start.cell == cell and not _can_start(root, one)
        ]
    return lost[1:]


def _start(root: Path, cell: Cell, places: Places, place: int) -> Process:
    folder = root / cell.name
    own = [
        f"--save={checkpoints_of(root, cell)}",
        f"--load={checkpoints_of(root, cell)}",
        f"--tensorboard-dir={folder / 'tensorboard'}",
        f"--ledger={ledger_of(root, cell)}",
    ]
    if cell.start is not None:
        # The last of two wins.
        own += cell.start.flags(root)
    return places.start([*cell.flags, *own], folder / "log.txt", place)


def _has_trained(root: Path, cell: Cell) -> bool:
    try:
        return bool(read_ledger(ledger_of(root, cell)).steps)
    except LedgerError:
        return False
