"""A CSV export of Weights & Biases as runs.

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

from tst_megatron.runs.run import Run
from tst_megatron.runs.scalars import (
    GRAD_NORM,
    LEARNING_RATE,
    LOSSES,
    OWN,
    VALIDATION,
    Scalars,
    run_of_scalars,
)
from tst_megatron.errors import UserError

_STEPS = ("iteration", "_step", "Step", "global_step", "trainer/global_step")
_SECONDS = (
    "_runtime",
    "Relative Time (Process)",
    "_absolute_runtime",
    "Relative Time (Wall)",
)
_EPOCHS = ("_timestamp", "Wall Time")
_SAMPLES = "samples vs steps"
_METRICS = (*LOSSES, LEARNING_RATE, GRAD_NORM, *OWN, _SAMPLES)
_OF_A_RUN = " - "
_IGNORED = ("__MIN", "__MAX")


def runs_of_csv(path: Path, name: str) -> list[Run]:
    """The runs of an export, each by its name there.

    Args:
        path: of the file.
        name: of a run that has none there.

    Raises:
        UserError: it cannot be read, has no column of steps or none of a held-out loss, has a
            column twice, or a cell is not a number or a step not a whole one.
    """
    columns, rows = _read(path)
    runs = sorted({run for run, metric in columns if metric.startswith(VALIDATION)})
    if not runs:
        raise UserError(
            f'{path} has no column "{VALIDATION}": export a chart of it, with Step on its x-axis'
        )
    return [_run(path, columns, rows, run, name) for run in runs]


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


def _read(path: Path) -> tuple[list[_Column], list[_Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            heads = next(reader, [])
            columns = [_column(head) for head in heads]
            wanted = [_is_wanted(metric) for _, metric in columns]
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


def _column(head: str) -> _Column:
    run, separator, metric = head.strip().rpartition(_OF_A_RUN)
    # The names of runs and metrics may have dashes of their own.
    return (run, metric) if separator and _is_wanted(metric) else ("", head.strip())


def _is_wanted(metric: str) -> bool:
    known = (*_METRICS, *_STEPS, *_SECONDS, *_EPOCHS)
    return not metric.endswith(_IGNORED) and (metric in known or metric.startswith(VALIDATION))


def _number(path: Path, line: int, head: str, cell: str) -> float | None:
    """A cell; NaN and the infinities are what a run that diverged has logged."""
    if cell.strip() in ("", "null", "None"):
        return None
    try:
        return float(cell)
    except ValueError:
        raise UserError(f'{path}, line {line}: "{head}" is {cell!r} and not a number') from None


def _run(path: Path, columns: Sequence[_Column], rows: Sequence[_Row], run: str, name: str) -> Run:
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
    metrics = {
        metric: at
        for metric, at in own.items()
        if metric in _METRICS or (metric.startswith(VALIDATION) and _is_wanted(metric))
    }
    scalars = Scalars()
    for row in rows:
        step = _step(path, row, step_at)
        if step is None:
            continue
        clock = math.nan if clock_at is None else _at(row, clock_at) - began
        for metric, at in metrics.items():
            value = row.cells[at]
            if value is not None:
                scalars.add(metric, step, value, clock)
    scalars.samples.update(scalars.values.pop(_SAMPLES, {}))
    called = run or name
    return run_of_scalars(
        called,
        path,
        "wandb",
        {"flags": _flags(scalars.samples)},
        scalars,
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
