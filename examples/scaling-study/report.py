"""What the scaling study's ledgers say so far: rates, losses, step ratios by size and length, law.

    python examples/scaling-study/report.py --ledgers docs/studies/scaling/ledgers --out report

Writes ``report.html``, ``study.png``, ``results.json`` and, once the runs tell one, ``law.json``.
It trains nothing, and says what is missing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from study import LONG, MIDDLE, SEEDS, SHORT, SIDES, SIZES, Run, Size, Study
from trends import Place, Trend, table_of_trends, trends

from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.result import Comparison, Prices
from tst_megatron.analysis.scaling.answers import CONFIDENCE, numbers, table_of_numbers
from tst_megatron.analysis.scaling.charts import charts
from tst_megatron.analysis.scaling.fit_points import Options, fit_points
from tst_megatron.analysis.scaling.law_file import LawRecord, write_law
from tst_megatron.analysis.scaling.points import read_points
from tst_megatron.errors import UserError, user_errors_exit
from tst_megatron.experiments.kept import Kept
from tst_megatron.experiments.tried_rates import TriedRates, charts_of_rates, table_of_rates
from tst_megatron.files import write_whole
from tst_megatron.report import formats, picture
from tst_megatron.report.chart import Chart, Line, around
from tst_megatron.report.page import Page, Section, html
from tst_megatron.report.table import Table, print_table
from tst_megatron.statistics.interval import Interval
from tst_megatron.strict_json import finite

_LENGTHS = (SHORT, MIDDLE, LONG)
_TUNED_AFTER = "7,000 steps"
_OF_SIZES = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#5f6368")
_COLOURS = {"baseline": "#5f6368", "bags": "#d55e00"}


@dataclass(frozen=True)
class Cell:
    """A size and a length.

    Attributes:
        size: of the model.
        steps: of a run.
        baseline: final held-out losses by seed.
        bags: likewise.
        comparison: with baselines of every length.
    """

    size: str
    steps: int
    baseline: dict[int, float]
    bags: dict[int, float]
    comparison: Comparison


def rates_of(study: Study) -> list[TriedRates]:
    """Of every size and side that has a run."""
    found = []
    for size in SIZES:
        for side in SIDES:
            runs = study.rate_runs(size, side)
            losses = {run.rate: loss for run in runs if (loss := study.loss(run)) is not None}
            if losses:
                found.append(TriedRates.of(size.name, side, losses, study.rate(size, side)))
    return found


def cells_of(study: Study) -> list[Cell]:
    """Of every size and length at which both sides have a run."""
    found = []
    for size in SIZES:
        for steps in _LENGTHS:
            sides = [_losses(study, size, side, steps) for side in SIDES]
            if all(sides):
                found.append(
                    Cell(size.name, steps, sides[0], sides[1], _compared(study, size, steps))
                )
    return found


def _losses(study: Study, size: Size, side: str, steps: int) -> dict[int, float]:
    runs = _runs(study, size, side, steps)
    return {run.seed: loss for run in runs if (loss := study.loss(run)) is not None}


def _runs(study: Study, size: Size, side: str, steps: int) -> list[Run]:
    rate = study.rate(size, side)
    if rate is None:
        return []
    runs = [Run("grid", size, side, rate, steps, seed) for seed in SEEDS]
    return [run for run in runs if study.kept.has(run.name)]


def _compared(study: Study, size: Size, steps: int) -> Comparison:
    """Bags of a length against baselines of all lengths, each side at its own rate."""
    baseline = [run for length in _LENGTHS for run in _runs(study, size, "baseline", length)]
    bags = _runs(study, size, "bags", steps)
    theirs, ours = ([study.kept.path(run.name) for run in side] for side in (baseline, bags))
    return compare_paths(theirs, ours, CONFIDENCE, False, Prices()).comparisons[0]


def law_of(kept: Kept, multipliers: str, force: bool = False) -> LawRecord:
    """Of all runs of the grid.

    Args:
        kept: the ledgers.
        multipliers: ``constant`` or ``log-linear``.
        force: fit what is refused, and mark it.

    Raises:
        UserError: they tell none.
    """
    paths = sorted(kept.folder.glob("grid-*.jsonl.gz"))
    if not paths:
        raise UserError("there is no run of the grid yet")
    log_linear = multipliers == "log-linear"
    options = Options(multipliers="log-linear" if log_linear else "constant", force=force)
    return fit_points(read_points(paths), options).record


def map_of(study: Study) -> dict[str, float]:
    """Final losses by bag size and share, of one size, length and seed."""
    found = {}
    for run in dict.fromkeys(study.runs()):
        loss = study.loss(run)
        if run.part == "map" and loss is not None:
            found[f"bags of {run.bags[0]} for {100 * run.bags[1]:g} %"] = loss
    return found


def missing(study: Study) -> list[str]:
    """How many runs of each part are not done, in words."""
    todo: dict[str, int] = {}
    for run in dict.fromkeys(study.runs()):
        if study.loss(run) is None:
            name = f"{run.part} of {run.size.name}"
            todo[name] = todo.get(name, 0) + 1
    return [f"{count} runs of the {name}" for name, count in todo.items()]


def table_of_cells(found: Sequence[Cell]) -> Table:
    """A row a size and length."""
    rows = [
        (
            f"{one.size}, {one.steps:,} steps",
            f"{len(one.baseline)}, {len(one.bags)}",
            formats.loss(_mean(one.baseline)),
            formats.loss(_mean(one.bags)),
            *_difference(one),
            *_ratio(one),
        )
        for one in found
    ]
    heads = ("", "seeds", "baseline", "bags", "difference", "95 %", "step ratio", "95 %", "how")
    return Table(
        "Bags of 4 for 30 % against the baseline, each at its own rate",
        heads,
        tuple(rows),
        words=frozenset({8}),
    )


def differences_of(cells: Sequence[Cell]) -> dict[int, dict[Place, float]]:
    """Bags less baseline by seed, of all sizes and lengths at which both sides have it."""
    parameters = {size.name: size.parameters for size in SIZES}
    found: dict[int, dict[Place, float]] = {}
    for cell in cells:
        for seed in sorted({*cell.baseline} & {*cell.bags}):
            place = (float(parameters[cell.size]), float(cell.steps))
            found.setdefault(seed, {})[place] = cell.bags[seed] - cell.baseline[seed]
    return found


def _trends(cells: Sequence[Cell]) -> tuple[list[Trend], list[Place]]:
    by_seed = differences_of(cells)
    return trends(by_seed) if by_seed else ([], [])


def chart_of_differences(cells: Sequence[Cell]) -> Chart:
    """Bags less baseline over the length, a line a size with its seeds."""
    lines = []
    for size, colour in zip(SIZES, _OF_SIZES, strict=True):
        of = [cell for cell in cells if cell.size == size.name]
        if not of:
            continue
        steps = np.array([float(cell.steps) for cell in of])
        seeds = sorted({seed for cell in of for seed in {*cell.baseline} & {*cell.bags}})
        by_seed = [
            np.array([cell.bags.get(s, np.nan) - cell.baseline.get(s, np.nan) for cell in of])
            for s in seeds
        ]
        told = np.array(by_seed)
        lines.append(Line(size.name, steps, np.nanmean(told, axis=0), colour, marked=True))
        lines += [
            Line(f"{size.name}, its seeds", steps, one, colour, 1.0, marked=True, faint=True)
            for one in by_seed
        ]
    measured = np.concatenate([line.ys for line in lines])
    return Chart(
        name="differences",
        title="What bags change, by size and length",
        alt="Held-out loss of bags less that of the baseline over the steps, a line a size.",
        caption="Each side at its own rate. Below 0 bags are ahead. Faint: single seeds.",
        x_label="steps",
        y_label="bags less baseline, nats a token",
        lines=tuple(lines),
        x_log=True,
        y_range=around(np.append(measured[np.isfinite(measured)], 0.0), (), 0.0),
    )


def _mean(losses: dict[int, float]) -> float:
    return float(np.mean(list(losses.values())))


def _difference(cell: Cell) -> tuple[str, str]:
    found = cell.comparison.equal_flops.loss_difference
    return formats.signed(found.value), formats.difference_range(found)


def _ratio(cell: Cell) -> tuple[str, str, str]:
    equal = cell.comparison.equal_loss
    how = equal.where + (", extrapolated" if equal.extrapolated else "")
    return formats.ratio(equal.step_ratio.value), formats.ratio_range(equal.step_ratio), how


def main() -> int:
    """Report on what is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledgers", type=Path, required=True, help="folder of the kept ledgers")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    kept = Kept(args.ledgers.resolve())
    if not any(kept.folder.glob("*.jsonl.gz")):
        raise UserError(f"--ledgers {args.ledgers} holds no ledger of the study")
    study, console = Study(kept), Console(width=150, highlight=False)
    rates, cells, todo = rates_of(study), cells_of(study), missing(study)
    tables = [table_of_rates(rates, _TUNED_AFTER), *([table_of_cells(cells)] if cells else [])]
    moved, places = _trends(cells)
    tables += [table_of_trends(moved, places)] if moved else []
    laws, said = _laws(kept, args.out)
    for name, law in laws.items():
        table = table_of_numbers(numbers(law), CONFIDENCE)
        refused = ", forced: not to be believed" if law.refused else ""
        tables.append(replace(table, title=f"{table.title}, m {name}{refused}"))
    if found := map_of(study):
        rows = tuple((name, formats.loss(loss)) for name, loss in found.items())
        tables.append(Table("156k, 14,000 steps, one seed", ("", "loss"), rows))
    for table in tables:
        print_table(console, table)
    notes = (*said, *(f"Missing: {one}." for one in todo))
    for note in notes:
        console.print(note, markup=False)
    drawn = [
        *([chart_of_differences(cells)] if cells else []),
        *charts_of_rates(rates, _TUNED_AFTER, _COLOURS),
        *(charts(laws["constant"]) if "constant" in laws else ()),
    ]
    page = Page(
        "How a saving moves with size and length",
        f"{len(list(kept.folder.glob('*.jsonl.gz')))} runs are done.",
        sections=(
            Section(charts=tuple(drawn)),
            Section("Figures", tables=tuple(tables)),
            Section("What to know", sentences=notes),
        ),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(args.out / "report.html", html(page))
    write_whole(args.out / "study.png", picture.png(drawn, columns=2))
    if cells:
        write_whole(args.out / "differences.png", picture.png([chart_of_differences(cells)], 1))
    write_whole(args.out / "results.json", _json(rates, cells, laws, found, todo))
    console.print(f"Report: {args.out / 'report.html'}", markup=False)
    return 0


def _laws(kept: Kept, out: Path) -> tuple[dict[str, LawRecord], list[str]]:
    """With one multiplier, and with one that moves; what speaks against them, in words.

    One that is refused is there too, forced, if the runs tell any; no ``law.json`` is made of it.
    """
    laws, said = {}, []
    for multipliers in ("constant", "log-linear"):
        try:
            laws[multipliers] = law_of(kept, multipliers)
        except UserError as error:
            said.append(f"No law with a {multipliers} multiplier: {error}.")
            with suppress(UserError):
                laws[multipliers] = law_of(kept, multipliers, force=True)
    if "constant" in laws and not laws["constant"].refused:
        out.mkdir(parents=True, exist_ok=True)
        write_law(out / "law.json", laws["constant"])
    return laws, said


def _json(
    rates: Sequence[TriedRates],
    cells: Sequence[Cell],
    laws: dict[str, LawRecord],
    mapped: dict[str, float],
    todo: Sequence[str],
) -> str:
    def told(interval: Interval) -> dict[str, float | None]:
        return asdict(interval)

    content = {
        "rates": [{"size": one.group, **one.told()} for one in rates],
        "cells": [
            {
                "size": one.size,
                "steps": one.steps,
                "baseline": one.baseline,
                "bags": one.bags,
                "difference": told(one.comparison.equal_flops.loss_difference),
                "step_ratio": told(one.comparison.equal_loss.step_ratio),
            }
            for one in cells
        ],
        "laws": {
            name: {
                "refused": list(law.refused),
                **{figure.name: told(figure.interval) for figure in numbers(law)},
            }
            for name, law in laws.items()
        },
        "trends": [
            {"name": one.name, "of_seeds": dict(one.of_seeds), "mean": told(one.mean)}
            for one in _trends(cells)[0]
        ],
        "map": mapped,
        "missing": list(todo),
    }
    return json.dumps(finite(content), indent=2, allow_nan=False) + "\n"


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(main())
