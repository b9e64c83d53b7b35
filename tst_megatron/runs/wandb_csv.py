"""A CSV export of Weights & Biases as ledgers, one a run.

The one idea: an export names its runs in one of two ways. A chart's has a column a run,
``RUN - lm loss validation``, beside its smallest and largest value, which are left out; histories
that were put together have the bare names, and a column that says of which run a line is. Either is
taken apart by run before anything is read of it. What is not Megatron's is left out.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from tst_megatron.errors import UserError
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.one_history import Evaluation, why_several
from tst_megatron.runs.scalars import (
    GRAD_NORM,
    LEARNING_RATE,
    OWN,
    VALIDATION,
    Scalars,
    fact_tags,
    held_out_name,
    ledger_of_scalars,
    no_held_out_loss,
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
# Of the column that names the run of a line, letters alone; those of its id come last.
_RUN_COLUMNS = ("run", "runname", "name", "displayname", "rundisplayname", "runid", "runpath")


def ledgers_of_csv(
    path: Path, vocabulary: Vocabulary, asked: Sequence[str] = ()
) -> dict[str, Ledger]:
    """The runs of an export by their names there; empty for one that has none.

    Args:
        path: of the file.
        vocabulary: of methods that they may have had.
        asked: names of the held-out loss, in place of Megatron's.

    Raises:
        UserError: it cannot be read, has no column of steps or none of a held-out loss, has a
            column twice, a line has other cells than there are heads or does not say of which run
            it is, a cell is not a number, a step not a whole one or a clock below 0; or it is of
            several runs and does not name them.
    """
    heads, lines = _read(path)
    metrics = (*objectives(vocabulary), *fact_tags(vocabulary).values(), *_METRICS)
    known = _Names((*metrics, *asked), any_validation=not asked)
    columns = [known.column(head) for head in heads]
    _check_once(path, [head for head, column in zip(heads, columns, strict=True) if column])
    tables = [
        _Table(path, run, heads, columns, of_run, tuple(metrics), tuple(asked))
        for run, of_run in _taken_apart(path, heads, columns, lines).items()
    ]
    found = {table.run: table for table in tables if table.held_out is not None}
    if not found:
        shown = [head for head in heads if not head.endswith(_IGNORED)]
        raise no_held_out_loss(path, "column", shown, asked)
    without = ", ".join(f'"{table.run}"' for table in tables if table.run and not table.held_out)
    note = [f"Its export also has {without}, without a held-out loss: left out."] if without else []
    return {run: table.ledger(vocabulary, note) for run, table in sorted(found.items())}


_Column = tuple[str, str]
"""(run, metric) of a column; the run is empty where its head names none."""
_Line = tuple[int, Sequence[str]]
"""(number in the file, cells), as many cells as there are heads."""


@dataclass(frozen=True)
class _Names:
    """What columns may be called.

    Attributes:
        metrics: names that are read.
        any_validation: Megatron's held-out losses are among them, on whatever set they are.
    """

    metrics: Sequence[str]
    any_validation: bool

    def column(self, head: str) -> _Column | None:
        """What a column is of; None where it is not wanted."""
        known = (*self.metrics, *_STEPS, *_SECONDS, *_EPOCHS)
        if head in known:
            return "", head
        # The names of runs and metrics may have dashes of their own.
        for metric in known:
            if head.endswith(_OF_A_RUN + metric):
                return head.removesuffix(_OF_A_RUN + metric), metric
        run, _, metric = head.rpartition(_OF_A_RUN)
        if self.any_validation and metric.startswith(VALIDATION) and not head.endswith(_IGNORED):
            return run, metric
        return None


@dataclass(frozen=True)
class _Table:
    """The lines of one run.

    Attributes:
        path: of the file.
        run: its name there.
        heads: of all columns.
        columns: what they are of.
        lines: of the run.
        metrics: names that are read besides the held-out loss's.
        asked: names of the held-out loss, in place of Megatron's.
    """

    path: Path
    run: str
    heads: Sequence[str]
    columns: Sequence[_Column | None]
    lines: Sequence[_Line]
    metrics: Sequence[str]
    asked: Sequence[str]

    @property
    def own(self) -> dict[str, int]:
        """Places of the run's columns, by metric; those that name no run are every run's."""
        found: dict[str, int] = {}
        for of in ("", self.run):
            found |= {c[1]: at for at, c in enumerate(self.columns) if c is not None and c[0] == of}
        return found

    @property
    def held_out(self) -> str | None:
        """The metric that is its held-out loss; None where it has none."""
        return held_out_name(self.own, self.asked)

    def ledger(self, vocabulary: Vocabulary, notes: Sequence[str]) -> Ledger:
        """What the lines tell.

        Args:
            vocabulary: of methods that the run may have had.
            notes: of the export.
        """
        own, held_out = self.own, self.held_out
        assert held_out is not None
        step_at = _first(own, _STEPS)
        if step_at is None:
            raise UserError(
                f"{self.path} has no column of steps: export it with Step on the x-axis"
            )
        self._check_one_run(step_at, own[held_out])
        seconds_at, epoch_at = _first(own, _SECONDS), _first(own, _EPOCHS)
        clock_at = epoch_at if seconds_at is None else seconds_at
        began = 0.0
        if seconds_at is None and epoch_at is not None:
            times = (self._number(line, epoch_at) for line in self.lines)
            began = min((time for time in times if _is_finite(time)), default=0.0)
        scalars = Scalars()
        logged = {
            metric: at
            for metric, at in own.items()
            if metric in self.metrics or metric == held_out or metric.startswith(VALIDATION)
        }
        for line in self.lines:
            step = self._step(line, step_at)
            if step is None:
                continue
            clock = None if clock_at is None else self._number(line, clock_at)
            for metric, at in logged.items():
                value = self._number(line, at)
                if value is not None:
                    scalars.add(metric, step, value, math.nan if clock is None else clock - began)
        scalars.samples.update(scalars.values.pop(_SAMPLES, {}))
        return ledger_of_scalars(
            self.path,
            "wandb",
            {"flags": _flags(scalars.samples)},
            scalars,
            vocabulary,
            held_out,
            [*_notes(clock_at is not None, from_epoch=seconds_at is None), *notes],
        )

    def _check_one_run(self, step_at: int, loss_at: int) -> None:
        told = [
            Evaluation(line[0], step, loss, line[1])
            for line in self.lines
            if (step := self._step(line, step_at)) is not None
            and _is_finite(loss := self._number(line, loss_at))
        ]
        unread = {
            at: head
            for at, (head, column) in enumerate(zip(self.heads, self.columns, strict=True))
            if column is None and not head.endswith(_IGNORED)
        }
        why = why_several(told, unread)
        if why is not None:
            raise UserError(
                f'{self.path} has {why}, as of several runs: add a column "run" that names the run '
                "of every line, export them apart, or, if it is one run that was started again, "
                "take out the lines that it replaced"
            )

    def _step(self, line: _Line, at: int) -> int | None:
        """The step that a line is of; None where it tells none."""
        step = self._number(line, at)
        if step is None or not math.isfinite(step):
            return None
        if step < 0 or not step.is_integer():
            raise UserError(
                f"{self.path}, line {line[0]}: the step is {step:.15g} and not a whole number of "
                "0 or more: export it with Step on the x-axis"
            )
        return int(step)

    def _number(self, line: _Line, at: int) -> float | None:
        """A cell; NaN and the infinities are what a run that diverged has logged."""
        number, cells = line
        if cells[at].strip() in ("", "null", "None"):
            return None
        try:
            return float(cells[at])
        except ValueError:
            raise UserError(
                f'{self.path}, line {number}: "{self.heads[at]}" is {cells[at]!r} and not a number'
            ) from None


def _read(path: Path) -> tuple[list[str], list[_Line]]:
    """Heads, and lines with something in them."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _heads_and_lines(path, file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a CSV file: export it from W&B as CSV") from None


def _heads_and_lines(path: Path, file: Iterable[str]) -> tuple[list[str], list[_Line]]:
    # Read leniently, a quote that is not closed takes in the lines after it.
    reader, whole = csv.reader(file, strict=True), 0
    heads: list[str] = []
    lines: list[_Line] = []
    try:
        heads = [head.strip() for head in next(reader, [])]
        whole = reader.line_num
        for row in reader:
            whole = reader.line_num
            if any(map(str.strip, row)):
                lines.append((whole, _cells(path, whole, row, len(heads))))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {whole + 1}: what begins there is not CSV ({error}): close its quotes, "
            "or export it from W&B as CSV"
        ) from None
    return heads, lines


def _cells(path: Path, number: int, row: Sequence[str], num_heads: int) -> Sequence[str]:
    """As many as there are heads: of more or fewer, none is sure to be under its own."""
    if len(row) < num_heads or any(map(str.strip, row[num_heads:])):
        raise UserError(
            f"{path}, line {number}: its cells are not as many as the heads ({len(row)} and "
            f"{num_heads}): quote numbers that have a comma, complete what was cut off, or export "
            "it from W&B as CSV"
        )
    return row[:num_heads]


def _check_once(path: Path, heads: Sequence[str]) -> None:
    twice = next((head for head in heads if heads.count(head) > 1), None)
    if twice is not None:
        raise UserError(
            f'{path} has the column "{twice}" twice: give its runs names of their own in W&B and '
            "export it again"
        )


def _taken_apart(
    path: Path,
    heads: Sequence[str],
    columns: Sequence[_Column | None],
    lines: Sequence[_Line],
) -> dict[str, list[_Line]]:
    """The lines of every run, by its name; those that heads name share all lines."""
    in_heads = dict.fromkeys(column[0] for column in columns if column is not None)
    by_line = _run_columns(heads, lines)
    if not by_line:
        return {run: list(lines) for run in in_heads}
    if any(in_heads):
        raise UserError(
            f'{path} names its runs in its heads and in its column "{heads[by_line[0]]}": export '
            "it in one of the two ways"
        )
    found: dict[tuple[str, ...], list[_Line]] = {}
    for number, cells in lines:
        of = tuple(cells[at].strip() for at in by_line)
        if not all(of):
            raise UserError(
                f'{path}, line {number}: its "{heads[by_line[of.index("")]]}" is empty, so it does '
                "not say of which run it is: fill it in, or take the line out"
            )
        found.setdefault(of, []).append((number, cells))
    names = [of[0] for of in found]
    return {
        of[0] if names.count(of[0]) == 1 else " ".join(of): of_run for of, of_run in found.items()
    }


def _run_columns(heads: Sequence[str], lines: Iterable[_Line]) -> list[int]:
    """Places of the columns that say of which run a line is, the most readable first."""
    called = ["".join(filter(str.isalnum, head)).lower() for head in heads]
    found = [at for name in _RUN_COLUMNS for at, one in enumerate(called) if one == name]
    told = list(lines)
    return [at for at in found if any(cells[at].strip() for _, cells in told)]


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


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
        "that of Megatron's last evaluation there, of the test set where it evaluated one."
    ]
    if not has_clock:
        notes.append("Its export has no time in it, so its wall-clock is not known.")
    elif from_epoch:
        notes.append("Its clock starts at the first line of its export.")
    else:
        notes.append("Its clock is W&B's, which starts when the run does so there.")
    return notes
