"""Train the cells of a sweep in their order, as far as the budget of hours goes.

The one idea: what a run costs is measured on those that have run. A round takes as many cells as
the hours that are left pay for; each round knows better than the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.sweep.results import hours_spent
from tst_megatron.training.cells import Cell, is_done, ledger_of, train_cells
from tst_megatron.training.ledger import read_ledger


@dataclass(frozen=True)
class Machine:
    """How runs are started.

    Attributes:
        jobs: at once.
        nproc_per_node: processes of a run.
        on_gpus: on this machine's GPUs, not on its CPU.
    """

    jobs: int
    nproc_per_node: int
    on_gpus: bool


@dataclass(frozen=True)
class Cost:
    """GPU hours of a run, a straight line in its steps."""

    start_hours: float
    hours_a_step: float

    def hours(self, steps: int) -> float:
        """Of a whole run."""
        return self.start_hours + self.hours_a_step * steps


@dataclass(frozen=True)
class Trained:
    """How far a call came.

    Attributes:
        finished: False where the user cut it short.
        spent_hours: GPU hours of all runs so far.
        left_out: cells that the hours do not pay for.
    """

    finished: bool
    spent_hours: float
    left_out: tuple[Cell, ...] = ()


def train_within(
    root: Path,
    cells: Sequence[Cell],
    machine: Machine,
    console: Console,
    budget_hours: float | None = None,
    earlier: Sequence[Cell] = (),
) -> Trained:
    """Train cells, in their order, as long as the budget pays for whole ones.

    Args:
        root: of their folders.
        cells: to train.
        machine: how.
        console: where progress goes.
        budget_hours: GPU hours of the whole sweep, core hours on a CPU; None for no end.
        earlier: cells whose hours count as well.

    Raises:
        UserError: a run failed, or ended before its last step.
    """
    every = tuple(dict.fromkeys((*earlier, *cells)))
    finished = True
    left_out: tuple[Cell, ...] = ()
    while finished:
        waiting = [cell for cell in cells if not is_done(root, cell)]
        batch = waiting
        if budget_hours is not None:
            batch = _paid_for(root, every, waiting, budget_hours)
        if not batch:
            left_out = tuple(waiting)
            break
        finished = train_cells(
            root,
            batch,
            machine.jobs,
            console,
            nproc_per_node=machine.nproc_per_node,
            on_gpus=machine.on_gpus,
        )
        if finished and not any(is_done(root, cell) for cell in batch):
            raise UserError(
                f"the run {batch[0].name} ended before its last step: leave out flags that end a "
                "run early, such as --exit-interval"
            )
    return Trained(finished, sum(hours_spent(root, cell) for cell in every), left_out)


def _paid_for(
    root: Path, every: Sequence[Cell], waiting: Sequence[Cell], budget_hours: float
) -> list[Cell]:
    """The next cells within the budget; the very first one in any case, as it is the measure."""
    spent = {cell: hours_spent(root, cell) for cell in every}
    costs = [cost_of(root, cell) for cell in every if is_done(root, cell)]
    if not costs:
        return list(waiting[:1])
    left = budget_hours - sum(spent.values())
    batch = []
    for cell in waiting:
        # The dearest of those measured: bags cost the loader more than single tokens.
        left -= max(0.0, max(cost.hours(cell.num_steps) for cost in costs) - spent[cell])
        if left < 0:
            break
        batch.append(cell)
    return batch


def cost_of(root: Path, cell: Cell) -> Cost:
    """What a run has cost: its start, and every step with its share of the evaluations."""
    steps = read_ledger(ledger_of(root, cell)).steps
    total = hours_spent(root, cell)
    first, last = steps[0], steps[-1]
    if last["step"] == first["step"] or not last["wall_clock_s"]:
        return Cost(0.0, total / cell.num_steps)
    # The clock begins with the process, so the first logged step has all of the start in it.
    per_step = (last["wall_clock_s"] - first["wall_clock_s"]) / (last["step"] - first["step"])
    share = per_step / last["wall_clock_s"]
    hours_a_step = min(total / cell.num_steps, total * share)
    return Cost(total - hours_a_step * cell.num_steps, hours_a_step)
