"""What the runs of a sweep ended with, as a table.

The one idea: a sweep that was run elsewhere, as the paper's, is the same rows; so ``cells.csv`` is
written with what ``--from-csv`` reads.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tst_megatron.errors import UserError
from tst_megatron.methods.search import Search
from tst_megatron.runs.outcomes import Choice, Outcome

_RATE = "learning_rate"
_OF_A_RUN = tuple(field.name for field in fields(Outcome) if field.name not in ("choice", _RATE))


def as_csv(search: Search, outcomes: Sequence[Outcome]) -> str:
    """A table with one row a run; what is not known is empty.

    Learning rates have a column where they were searched.
    """
    names = (*_OF_A_RUN, *([_RATE] if any(one.learning_rate for one in outcomes) else []))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow((*(axis.name for axis in search.axes), *names))
    for outcome in outcomes:
        place = [_written(axis.of(outcome.choice)) for axis in search.axes]
        values = [getattr(outcome, name) for name in names]
        writer.writerow((*place, *("" if value is None else value for value in values)))
    return buffer.getvalue()


def _written(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def read_csv(path: Path, searches: Sequence[Search]) -> tuple[Search, list[Outcome]]:
    """Read a table of results; a column an axis and ``loss`` are enough.

    Args:
        path: of the file.
        searches: of the methods that it may be of.

    Returns:
        The search whose axes are columns of it, and the runs.

    Raises:
        UserError: the file is missing, a column, every row or a value is, a run stands twice, or
            there is no run with the method in it.
    """
    try:
        reader = csv.DictReader(path.read_text().splitlines())
        rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"--from-csv {path} cannot be read: {reason}") from None
    search = _search_of(path, set(reader.fieldnames or ()), searches)
    if not rows:
        raise UserError(f"--from-csv {path} has no row below the names of its columns: add a run's")
    # The names are in line 1.
    outcomes = [_outcome(path, number, row, search) for number, row in enumerate(rows, start=2)]
    seen: set[tuple[Choice, float | None, int]] = set()
    for number, outcome in enumerate(outcomes, start=2):
        run = (outcome.choice, outcome.learning_rate, outcome.seed)
        if run in seen:
            raise UserError(
                f"{path}, line {number}: {outcome.choice} with seed {outcome.seed} stands twice"
            )
        seen.add(run)
    if all(outcome.choice.is_baseline for outcome in outcomes):
        words = search.words
        raise UserError(f"--from-csv {path} has no {words.run} run: {words.add_rows}")
    return search, outcomes


def _search_of(path: Path, columns: set[str], searches: Sequence[Search]) -> Search:
    wanted = [[*(axis.name for axis in search.axes), "loss"] for search in searches]
    for search, names in zip(searches, wanted, strict=True):
        if columns.issuperset(names):
            return search
    missing = min(set(wanted[0]) - columns)
    *first, last = wanted[0]
    raise UserError(
        f"--from-csv {path} has no column {missing}: it needs {', '.join(first)} and {last}, and a "
        "row below their names"
    )


def _outcome(path: Path, number: int, row: dict[str, str], search: Search) -> Outcome:
    def known(column: str) -> float | None:
        return float(row[column]) if row.get(column) else None

    try:
        choice = search.choice_of_row(row)
        seed, loss = int(row.get("seed") or 1), float(row["loss"])
        stderr, hours, rate = known("stderr"), known("gpu_hours"), known(_RATE)
        steps, data_tokens = (
            None if value is None else int(value)
            for value in (known("steps"), known("data_tokens"))
        )
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{path}, line {number}: a value is missing or is no number") from None
    if choice is None:
        raise UserError(f"{path}, line {number}: {search.words.row}")
    if rate is not None and not rate > 0:
        raise UserError(f"{path}, line {number}: a {_RATE} of {rate:g} is not above 0")
    return Outcome(choice, seed, loss, stderr, steps, data_tokens, hours, rate)
