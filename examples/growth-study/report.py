"""What the growth study's ledgers say so far: losses at equal FLOPs against both controls.

    python examples/growth-study/report.py --ledgers docs/studies/growth/ledgers --out report

Prints Markdown, and writes ``report.html``, ``study.png``, ``differences.png``, ``table.csv`` and
``figures.json``. It trains nothing, and says what is missing and what is not shown.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any

from kinds import FAMILIES, Difference, listed
from parts import Part, Row, part_of, shown
from pictures import LARGE_COLOUR, SMALL_COLOUR, curves, dots
from study import BUDGET, SEEDS, Study
from tables import TUNED_AFTER, tables_of

from tst_megatron.errors import UserError, user_errors_exit
from tst_megatron.experiments.kept import Kept
from tst_megatron.experiments.tried_rates import charts_of_rates
from tst_megatron.files import write_whole
from tst_megatron.report import picture
from tst_megatron.report.chart import Chart
from tst_megatron.report.page import Page, Section, html
from tst_megatron.report.table import csv_text, markdown_text
from tst_megatron.statistics.interval import Interval
from tst_megatron.strict_json import finite

_WIDTH = 120


def told_by(study: Study) -> tuple[list[Part], list[str]]:
    """Families of which there is a ledger, and what is to be said besides.

    Raises:
        UserError: a ledger cannot be read.
    """
    parts = [part_of(study, family) for family in FAMILIES]
    notes = [*_unplanned(study), *(_nothing(part) for part in parts if not _has_any(part))]
    return [part for part in parts if _has_any(part)], notes


def charts_of(study: Study, part: Part) -> list[Chart]:
    """Differences first, then curves and rates.

    Raises:
        UserError: a ledger cannot be read.
    """
    models = zip(part.family.models, (SMALL_COLOUR, LARGE_COLOUR), strict=True)
    colours = {model.name: colour for model, colour in models}
    rates = charts_of_rates(part.rates, TUNED_AFTER, colours)
    return [*dots(part.found), *curves(study, part.found), *rates]


def _unplanned(study: Study) -> list[str]:
    """Ledgers that are of no run of the plan."""
    runs = [run for family in FAMILIES for run in family.runs(study)]
    asked = {one.name for run in runs for one in (run, run.before) if one is not None}
    lie = {path.name.removesuffix(".jsonl.gz") for path in study.kept.folder.glob("*.jsonl.gz")}
    names = sorted(lie - asked)
    return [f"Of no run of the plan, and not looked at: {listed(names)}."] if names else []


def markdown(parts: Sequence[Part], notes: Iterable[str]) -> str:
    """All but the pictures, as a study's page can take it."""
    blocks = []
    for part in parts:
        blocks += [markdown_text(table) for table in tables_of(part)]
        blocks += _bullets("what is shown", part, shown(part.rows, part.family))
        blocks += _bullets("what to know", part, part.notes)
        blocks += _bullets("what is missing", part, [f"{one}." for one in part.missing])
    blocks += ["\n".join(map(_bullet, notes)) + "\n"] if notes else []
    return "\n".join(blocks)


def _bullets(title: str, part: Part, sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    return ["\n".join([f"### {part.family.name}: {title}", "", *map(_bullet, sentences)]) + "\n"]


def _bullet(sentence: str) -> str:
    return fill(
        sentence,
        _WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


_DIFFERENCES = ("less_small", "less_large", "bags_add", "less_small_bags", "less_large_bags")
_NEEDS = ("small_needs", "large_needs")


def _differences(row: Row) -> dict[str, Difference]:
    nothing = Difference({}, Interval(), 0.0)
    with_bags = row.less_with_bags or (nothing, nothing)
    told = (row.less_small, row.less_large, row.bags_add or nothing, *with_bags)
    return dict(zip(_DIFFERENCES, told, strict=True))


def _csv(parts: Sequence[Part]) -> str:
    heads = ["family", "kind", "seeds", "flops", "loss"]
    for name in (*_DIFFERENCES, *_NEEDS):
        heads += [name, f"{name}_low", f"{name}_high"]
    rows = []
    for part in parts:
        for row in part.rows:
            kind, seeds = row.kind, " ".join(map(str, sorted(row.kind.ends)))
            cells: list[Any] = [part.family.name, kind.name, seeds, kind.flops, kind.loss.value]
            intervals = [one.mean for one in _differences(row).values()]
            for one in (*intervals, *(one.ratio for one in row.needs)):
                cells += [one.value, one.low, one.high]
            rows.append(cells)
    return csv_text(heads, rows)


def figures(parts: Sequence[Part], notes: Sequence[str]) -> str:
    """All numbers, for JSON, and all sentences."""
    content = {
        "budget": BUDGET,
        "families": [
            {
                "name": part.family.name,
                "kinds": [_told(row) for row in part.rows],
                "shown": shown(part.rows, part.family),
                "rates": [one.told() for one in part.rates],
                "missing": list(part.missing),
                "notes": list(part.notes),
            }
            for part in parts
        ],
        "notes": list(notes),
    }
    text: str = json.dumps(finite(content), indent=2, allow_nan=False)
    return text + "\n"


def _told(row: Row) -> Mapping[str, Any]:
    kind = row.kind
    return {
        "name": kind.name,
        "series": kind.series,
        "share_before": kind.share,
        "bags": kind.run.bags,
        "is_control": kind.is_control,
        "ends": {seed: asdict(end) for seed, end in kind.ends.items()},
        "loss": asdict(kind.loss),
        "flops": kind.flops,
        **{
            name: {"of_seeds": dict(one.of_seeds), **asdict(one.mean), "flops_apart": one.apart}
            for name, one in _differences(row).items()
            if one.of_seeds
        },
        **{
            name: {**asdict(one.ratio), "how": one.how}
            for name, one in zip(_NEEDS, row.needs, strict=True)
            if one.how
        },
    }


def main() -> int:
    """Report on what is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledgers", type=Path, required=True, help="folder of the kept ledgers")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    kept = Kept(args.ledgers.resolve())
    count = len(list(kept.folder.glob("*.jsonl.gz")))
    if not count:
        raise UserError(f"--ledgers {args.ledgers} holds no ledger of the study")
    study = Study(kept)
    parts, notes = told_by(study)
    drawn = [charts_of(study, part) for part in parts]
    page = Page(
        "What growth is worth at equal FLOPs",
        f"{count} ledgers are there; {len(SEEDS)} seeds are planned.",
        sections=(
            *(
                Section(
                    part.family.name,
                    charts=tuple(charts),
                    tables=tuple(tables_of(part)),
                    sentences=(
                        *shown(part.rows, part.family),
                        *part.notes,
                        *(f"Missing: {one}." for one in part.missing),
                    ),
                )
                for part, charts in zip(parts, drawn, strict=True)
            ),
            *([Section("What to know", sentences=tuple(notes))] if notes else []),
        ),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    every = [chart for charts in drawn for chart in charts]
    write_whole(args.out / "report.html", html(page))
    if every:
        write_whole(args.out / "study.png", picture.png(every, columns=2))
    if differences := [chart for chart in every if chart.dots]:
        write_whole(args.out / "differences.png", picture.png(differences, columns=2))
    write_whole(args.out / "table.csv", _csv(parts))
    write_whole(args.out / "figures.json", figures(parts, notes))
    print(markdown(parts, notes))
    return 0


def _has_any(part: Part) -> bool:
    return bool(part.rows or part.rates or part.found.notes)


def _nothing(part: Part) -> str:
    return f"{part.family.name}: no run of it is there, so nothing is said of it."


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(main())
