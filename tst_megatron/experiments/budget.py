"""Train cells in their order, as far as a budget of hours goes.

The one idea: what a run costs is measured on those that have run, and looked at again before every
start.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell, Places, is_done, ledger_of, train_cells
from tst_megatron.runs.ledger import Ledger, LedgerError, read_ledger


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
        spent_hours: GPU hours of all runs in the folder so far, whichever call they are of.
        left_out: cells that the hours do not pay for.
        failed: names of cells whose runs broke off, and why.
    """

    finished: bool
    spent_hours: float
    left_out: tuple[Cell, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)


def train_within(
    root: Path,
    cells: Sequence[Cell],
    places: Places,
    console: Console,
    budget_hours: float | None = None,
    earlier: Sequence[Cell] = (),
) -> Trained:
    """Train cells, in their order, as long as the budget pays for whole ones.

    Args:
        root: of their folders.
        cells: to train.
        places: where they are put.
        console: where progress goes.
        budget_hours: GPU hours of the whole folder, core hours on a CPU; None for no end.
        earlier: cells that tell what a run costs as well.

    Raises:
        UserError: a run failed before its first step, or ended before its last one; or a ledger
            cannot be read.
    """
    every = tuple(dict.fromkeys((*earlier, *cells)))
    started: list[Cell] = []
    failed: dict[str, str] = {}

    def may_start(cell: Cell, running: Sequence[Cell]) -> bool:
        may = budget_hours is None or _pays_for(root, every, cell, running, budget_hours)
        if may:
            started.append(cell)
        return may

    def note_failure(cell: Cell, reason: str) -> None:
        failed[cell.name] = reason
        console.print(f"The {cell.name} run failed: {reason}", highlight=False, soft_wrap=True)

    finished = train_cells(
        root,
        cells,
        places,
        console,
        may_start=may_start,
        when_failed=note_failure,
    )
    left = [cell for cell in cells if not is_done(root, cell) and cell.name not in failed]
    early = [cell.name for cell in left if cell in started]
    if finished and early:
        raise UserError(
            f"the run {early[0]} ended before its last step: leave out flags that end a run "
            "early, such as --exit-interval"
        )
    left_out = tuple(left) if finished else ()
    return Trained(finished, sum(_spent_in(root)), left_out, failed)


def _pays_for(
    root: Path, every: Sequence[Cell], cell: Cell, running: Sequence[Cell], budget_hours: float
) -> bool:
    """Whether the hours that are left finish what is running and this cell too.

    The very first one is started in any case, alone, as it is the measure.
    """
    costs = [cost_of(read_ledger(ledger_of(root, c))) for c in every if is_done(root, c)]
    if not costs:
        return not running
    planned = sum(_spent_in(root))
    for one in (*running, cell):
        # The dearest of those measured: some read more text than others.
        whole = max(cost.hours(one.num_steps) for cost in costs)
        planned += max(0.0, whole - _hours_of(ledger_of(root, one)))
    return planned <= budget_hours


def _spent_in(root: Path) -> list[float]:
    """Hours of every run in the folder, of earlier calls with other grids too."""
    return [_hours_of(ledger) for ledger in root.glob("*/ledger.jsonl")]


def _hours_of(ledger: Path) -> float:
    try:
        return hours_spent(read_ledger(ledger))
    except LedgerError:
        if ledger.exists() and ledger.stat().st_size:
            raise
        return 0.0  # It has not come so far as to write one.


def hours_spent(ledger: Ledger) -> float:
    """GPU hours that a run has taken so far: core hours on a CPU, what was lost counted."""
    lines = [*ledger.steps, *ledger.validations]
    return max((_hours(line, ledger.header) for line in lines), default=0.0)


def _hours(line: dict[str, Any], header: dict[str, Any]) -> float:
    """Of a ledger without them, from its clock."""
    hours = line.get("gpu_hours")
    if hours is None:
        hours = (line["wall_clock_s"] or 0.0) / 3600 * (header.get("world_size") or 1)
    return float(hours)


def cost_of(ledger: Ledger) -> Cost:
    """What a whole run has cost: its start, and every step with its share of the evaluations."""
    total = hours_spent(ledger)
    first, last = ledger.steps[0], ledger.steps[-1]
    num_steps = last["step"]
    if num_steps == first["step"] or not last["wall_clock_s"]:
        return Cost(0.0, total / num_steps)
    # The clock begins with the process, so the first logged step has all of the start in it.
    per_step = (last["wall_clock_s"] - first["wall_clock_s"]) / (num_steps - first["step"])
    share = per_step / last["wall_clock_s"]
    hours_a_step = min(total / num_steps, total * share)
    return Cost(total - hours_a_step * num_steps, hours_a_step)
