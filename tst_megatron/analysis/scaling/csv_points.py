"""A table of runs: a row a run, with what a scaling law needs of it.

The one idea: what somebody else measured, on paper or in another trainer, comes in by the same door
as our ledgers; a column that is not there is not known, and a cell that is no number is refused.
"""

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path

from tst_megatron.analysis.scaling.point import BASELINE, Point
from tst_megatron.errors import UserError

NEEDED = ("params", "tokens", "loss")
_NUMBERS = {
    "active_params": "active",
    "flops": "flops",
    "data_tokens": "data_tokens",
    "unique_tokens": "unique_tokens",
    "learning_rate": "learning_rate",
}
_WORDS = ("name", "setting", "seed", "experts")
_FEWEST_POSITIONS = 1000
COLUMNS = (*NEEDED, *_NUMBERS, *_WORDS)
"""That are read; the first three must be there."""


def is_table(path: Path) -> bool:
    """Whether a file is such a table: its first line has the columns."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError):
        return False
    heads = {head.strip().strip('"').lower() for head in re.split(r"[,;\t]", first)}
    return set(NEEDED) <= heads


def read_table(path: Path) -> list[Point]:
    """Its runs, in the order of their rows.

    Args:
        path: of a file that `is_table`.

    Raises:
        UserError: it cannot be read, has a column of no meaning here, a row of another number of
            cells, no row, or a cell that is missing or no number above 0.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read: {reason}") from None
    heads = [head.strip().lower() for head in lines[0]]
    if len(heads) == 1:
        raise UserError(f"{path} has no commas between its columns: separate them with commas")
    for head in heads:
        if head not in COLUMNS:
            raise UserError(
                f'{path} has a column "{head}", which means nothing here: leave it out, or call it '
                f"one of {', '.join(COLUMNS)}"
            )
        if heads.count(head) > 1:
            raise UserError(f"{path} has the column {head} twice: leave one out")
    points = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(heads):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells below {len(heads)} names of columns"
            )
        row = dict(zip(heads, (cell.strip() for cell in cells), strict=True))
        points.append(_point(row, f"{path}, line {number}", f"{path.stem}:{number}"))
    if not points:
        raise UserError(f"{path} has no row below the names of its columns: add a run's")
    return points


def _point(row: Mapping[str, str], where: str, name: str) -> Point:
    params, tokens = (_number(row, column, where) for column in ("params", "tokens"))
    seed = row.get("seed") or None
    try:
        # A column with blanks in it is of decimals where pandas writes it.
        number = None if seed is None else int(float(seed))
    except (ValueError, OverflowError):
        number = -1
    if seed is not None and number != _float(seed):
        raise UserError(f'{where}: the seed "{seed}" is no whole number')
    if tokens < _FEWEST_POSITIONS:
        raise UserError(
            f"{where}: tokens is {tokens:g}, and they are positions, one by one: is it in billions?"
        )
    return Point(
        name=row.get("name") or name,
        setting=row.get("setting") or BASELINE,
        total=params,
        positions=tokens,
        loss=_loss(row, where),
        seed=number,
        has_experts=_experts(row, where),
        **{
            attribute: _number(row, column, where)
            for column, attribute in _NUMBERS.items()
            if row.get(column)
        },
    )


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _number(row: Mapping[str, str], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f'{where}: {column} is "{row[column]}": it takes a number above 0')
    return value


def _loss(row: Mapping[str, str], where: str) -> float:
    """NaN of a run that diverged, which a table may say."""
    try:
        return float(row["loss"])
    except ValueError:
        raise UserError(f'{where}: the loss "{row["loss"]}" is no number') from None


def _experts(row: Mapping[str, str], where: str) -> bool | None:
    told = row.get("experts") or None
    if told is None:
        return None
    try:
        return float(told) > 0
    except ValueError:
        raise UserError(
            f'{where}: experts is "{told}": it takes their number, 0 for none'
        ) from None
