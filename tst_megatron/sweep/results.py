"""What the runs of a sweep ended with, from their ledgers or from a table, and the table itself.

The one idea: a sweep that was run elsewhere, as the paper's, is the same rows; so ``cells.csv`` is
written with what ``--from-csv`` reads.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell, is_done, ledger_of
from tst_megatron.runs.ledger import Ledger, read_ledger
from tst_megatron.sweep.grid import BASELINE, Config


@dataclass(frozen=True)
class Result:
    """A run that has ended.

    Attributes:
        config: bag size and share of the steps.
        seed: of the run.
        loss: final held-out next-token loss, nats a token; NaN if it diverged.
        stderr: its standard error, where that is known.
        steps: of the run; likewise.
        data_tokens: that it read; likewise.
        gpu_hours: that it took, core hours on a CPU; likewise.
    """

    config: Config
    seed: int
    loss: float
    stderr: float | None = None
    steps: int | None = None
    data_tokens: int | None = None
    gpu_hours: float | None = None


def result_of(root: Path, cell: Cell, config: Config, seed: int) -> Result | None:
    """The result of a cell, from its ledger; None while it is not done."""
    if not is_done(root, cell):
        return None
    ledger = read_ledger(ledger_of(root, cell))
    last = ledger.validations[-1]
    loss = last["next_token_loss"]
    return Result(
        config,
        seed,
        math.nan if loss is None else float(loss),
        last.get("next_token_loss_stderr"),
        cell.num_steps,
        last.get("data_tokens"),
        hours_spent(ledger),
    )


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


# Names of columns: a row is a run.
_COLUMNS = ("bag_size", "step_ratio", *(f.name for f in fields(Result) if f.name != "config"))


def as_csv(results: Sequence[Result]) -> str:
    """A table with one row a run; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in results:
        values = [getattr(result, name) for name in _COLUMNS[2:]]
        row = [result.config.bag_size, f"{result.config.step_ratio:g}", *values]
        writer.writerow("" if value is None else value for value in row)
    return buffer.getvalue()


def read_csv(path: Path) -> list[Result]:
    """Read a table of results; ``bag_size``, ``step_ratio`` and ``loss`` are enough.

    Bag size 1 is the baseline, whatever its share.

    Raises:
        UserError: the file is missing, a column, every row or a value is, a run stands twice, or
            there is no superposed run in it.
    """
    try:
        reader = csv.DictReader(path.read_text().splitlines())
        rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"--from-csv {path} cannot be read: {reason}") from None
    missing = {"bag_size", "step_ratio", "loss"} - set(reader.fieldnames or ())
    if missing:
        raise UserError(
            f"--from-csv {path} has no column {min(missing)}: it needs bag_size, step_ratio and "
            "loss, and a row below their names"
        )
    if not rows:
        raise UserError(f"--from-csv {path} has no row below the names of its columns: add a run's")
    # The names are in line 1.
    results = [_result(path, number, row) for number, row in enumerate(rows, start=2)]
    seen: set[tuple[Config, int]] = set()
    for number, result in enumerate(results, start=2):
        if (result.config, result.seed) in seen:
            raise UserError(
                f"{path}, line {number}: {result.config} with seed {result.seed} stands twice"
            )
        seen.add((result.config, result.seed))
    if all(result.config.is_baseline for result in results):
        raise UserError(f"--from-csv {path} has no superposed run: add rows of bags above 1")
    return results


def _result(path: Path, number: int, row: dict[str, str]) -> Result:
    def known(column: str) -> float | None:
        return float(row[column]) if row.get(column) else None

    try:
        size, ratio = int(row["bag_size"]), float(row["step_ratio"] or 0)
        seed, loss = int(row.get("seed") or 1), float(row["loss"])
        stderr, hours = known("stderr"), known("gpu_hours")
        steps, data_tokens = (
            None if value is None else int(value)
            for value in (known("steps"), known("data_tokens"))
        )
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{path}, line {number}: a value is missing or is no number") from None
    if size < 1 or (size > 1 and not 0.0 < ratio < 1.0):
        raise UserError(
            f"{path}, line {number}: a run has a bag_size of 1, or one above it with a step_ratio "
            "between 0 and 1"
        )
    config = BASELINE if size == 1 else Config(size, ratio)
    return Result(config, seed, loss, stderr, steps, data_tokens, hours)
