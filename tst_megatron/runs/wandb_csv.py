"""A CSV export of Weights & Biases as ledgers.

The one idea: a column is told by the end of its name. A chart's export has a column a run,
``RUN - lm loss validation``, beside its smallest and largest value, which are left out; a history's
has the bare names. What is not Megatron's is left out.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from tst_megatron.errors import UserError
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.scalars import (
    GRAD_NORM,
    LEARNING_RATE,
    OWN,
    VALIDATION,
    Scalars,
    fact_tags,
    ledger_of_scalars,
    objectives,
)
from tst_megatron.runs.stages import Vocabulary

_STEPS = ("iteration", "_step", "Step", "global_step", "trainer/global_step")
_SECONDS = (
    "_runtime",
    "Relative Time (Process)",
    "_absolute_runtime",
    "Relative Time (Wall)",
)
_EPOCHS = ("_timestamp", "Wall Time")
_SAMPLES = "samples vs steps"
_METRICS = (LEARNING_RATE, GRAD_NORM, *OWN, _SAMPLES)
_OF_A_RUN = " - "
_IGNORED = ("__MIN", "__MAX")


def ledgers_of_csv(path: Path, vocabulary: Vocabulary) -> dict[str, Ledger]:
    """The runs of an export by their names there; empty for one that has none.

    Args:
        path: of the file.
        vocabulary: of methods that they may have had.

    Raises:
        UserError: it cannot be read, has no column of steps or none of a held-out loss, has a
            column twice, or a cell is not a number or a step not a whole one.
    """
    metrics = (*objectives(vocabulary), *fact_tags(vocabulary).values(), *_METRICS)
    columns, rows = _read(path, metrics)
    runs = sorted({run for run, metric in columns if metric.startswith(VALIDATION)})
    if not runs:
        raise UserError(
            f'{path} has no column "{VALIDATION}": export a chart of it, with Step on its x-axis'
        )
    return {run: _ledger(path, columns, rows, run, metrics, vocabulary) for run in runs}


_Column = tuple[str, str]
"""(run, metric) of a column; the run is empty where the file names none."""


@dataclass(frozen=True)
class _Row:
    """A line of the file.

    Attributes:
        line: its number in the file.
        cells: None where one is empty or of a column that is not wanted.
    """

    line: int
    cells: list[float | None]


def _read(path: Path, metrics: Sequence[str]) -> tuple[list[_Column], list[_Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            heads = next(reader, [])
            columns = [_column(head, metrics) for head in heads]
            wanted = [_is_wanted(metric, metrics) for _, metric in columns]
            _check_once(path, [head.strip() for head in compress(heads, wanted)])
            rows = [_row(path, reader.line_num, heads, row, wanted) for row in reader if any(row)]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV file: export it from W&B as CSV") from None
    return columns, rows


def _row(
    path: Path, line: int, heads: Sequence[str], row: Sequence[str], wanted: Sequence[bool]
) -> _Row:
    cells = [
        _number(path, line, head, cell) if is_wanted else None
        for head, cell, is_wanted in zip(heads, row, wanted, strict=False)
    ]
    return _Row(line, [*cells, *[None] * (len(heads) - len(cells))])


def _check_once(path: Path, heads: Sequence[str]) -> None:
    twice = next((head for head in heads if heads.count(head) > 1), None)
    if twice is not None:
        raise UserError(
            f'{path} has the column "{twice}" twice: give its runs names of their own in W&B and '
            "export it again"
        )


def _column(head: str, metrics: Sequence[str]) -> _Column:
    run, separator, metric = head.strip().rpartition(_OF_A_RUN)
    # The names of runs and metrics may have dashes of their own.
    return (run, metric) if separator and _is_wanted(metric, metrics) else ("", head.strip())


def _is_wanted(metric: str, metrics: Sequence[str]) -> bool:
    known = (*metrics, *_STEPS, *_SECONDS, *_EPOCHS)
    return not metric.endswith(_IGNORED) and (metric in known or metric.startswith(VALIDATION))


def _number(path: Path, line: int, head: str, cell: str) -> float | None:
    """A cell; NaN and the infinities are what a run that diverged has logged."""
    if cell.strip() in ("", "null", "None"):
        return None
    try:
        return float(cell)
    except ValueError:
        raise UserError(f'{path}, line {line}: "{head}" is {cell!r} and not a number') from None


def _ledger(
    path: Path,
    columns: Sequence[_Column],
    rows: Sequence[_Row],
    run: str,
    metrics: Sequence[str],
    vocabulary: Vocabulary,
) -> Ledger:
    own = {metric: at for at, (of, metric) in enumerate(columns) if of in ("", run)}
    own |= {metric: at for at, (of, metric) in enumerate(columns) if of == run}
    step_at = _first(own, _STEPS)
    if step_at is None:
        raise UserError(f"{path} has no column of steps: export it with Step on the x-axis")
    seconds_at, epoch_at = _first(own, _SECONDS), _first(own, _EPOCHS)
    clock_at = epoch_at if seconds_at is None else seconds_at
    began = 0.0
    if seconds_at is None and epoch_at is not None:
        began = min(filter(math.isfinite, (_at(row, epoch_at) for row in rows)), default=0.0)
    logged = {
        metric: at
        for metric, at in own.items()
        if metric in metrics or (metric.startswith(VALIDATION) and _is_wanted(metric, metrics))
    }
    scalars = Scalars()
    for row in rows:
        step = _step(path, row, step_at)
        if step is None:
            continue
        clock = math.nan if clock_at is None else _at(row, clock_at) - began
        for metric, at in logged.items():
            value = row.cells[at]
            if value is not None:
                scalars.add(metric, step, value, clock)
    scalars.samples.update(scalars.values.pop(_SAMPLES, {}))
    return ledger_of_scalars(
        path,
        "wandb",
        {"flags": _flags(scalars.samples)},
        scalars,
        vocabulary,
        _notes(has_clock=clock_at is not None, from_epoch=seconds_at is None),
    )


def _step(path: Path, row: _Row, at: int) -> int | None:
    """The step that a row is of; None where it tells none."""
    step = _at(row, at)
    if not math.isfinite(step):
        return None
    if step < 0 or not step.is_integer():
        raise UserError(
            f"{path}, line {row.line}: the step is {step:.15g} and not a whole number of 0 or "
            "more: export it with Step on the x-axis"
        )
    return int(step)


def _at(row: _Row, at: int) -> float:
    """A cell that says where a row belongs; NaN where it is empty."""
    value = row.cells[at]
    return math.nan if value is None else value


def _first(own: Mapping[str, int], names: Sequence[str]) -> int | None:
    return next((own[name] for name in names if name in own), None)


def _flags(samples: Mapping[int, float]) -> dict[str, int]:
    """The batch size, where the samples tell that it was the same all through."""
    sizes = {of / step for step, of in samples.items() if step > 0 and math.isfinite(of)}
    if len(sizes) != 1 or not (size := sizes.pop()).is_integer():
        return {}
    return {"global_batch_size": int(size)}


def _notes(has_clock: bool, from_epoch: bool) -> list[str]:
    notes = [
        "Read from W&B, which keeps a step's last value: the held-out loss at its last step is "
        "that of the test set where Megatron evaluated one."
    ]
    if not has_clock:
        notes.append("Its export has no time in it, so its wall-clock is not known.")
    elif from_epoch:
        notes.append("Its clock starts at the first line of its export.")
    return notes
