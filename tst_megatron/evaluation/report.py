"""What an evaluation is handed over as: tables, a picture with errors, a page, JSON, items.

The one idea: the rows of the tables are numbered, and the picture marks the same numbers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.evaluation.results import Evaluated, items_text
from tst_megatron.files import write_whole
from tst_megatron.report import formats, picture
from tst_megatron.report.chart import SOFT, Chart, Dot, Line, Rule, around
from tst_megatron.report.page import Page, Section, html
from tst_megatron.report.table import Table, markdown_text
from tst_megatron.runs.evaluations import BITS_A_BYTE, NATS_A_TOKEN, Score

RESULTS, ITEMS = "results.json", "items.jsonl"
MARKDOWN, PICTURE, PAGE = "results.md", "scores.png", "report.html"
_STDERRS_OF_A_BAR = 1.96
_ARROWS = {True: " ↑", False: " ↓", None: ""}
_ROOM, _HALF = 0.5, 0.3  # Around a row of a picture, and of its line of chance each way.
_COLOUR = "#0072b2"
_HOW_MADE = (
    "A standard error is that of another draw of items (of a text, of documents); bars in the "
    "picture are 1.96 of them, a 95 % interval.",
    "A text is scored document by document, every token once. Bits a byte are its nats over the "
    "bytes of its UTF-8 text and ln 2, so that tokenizers can be compared.",
    "Chance is what guessing gets right where all choices are equally likely.",
)


@dataclass(frozen=True)
class Report:
    """What is told of an evaluation.

    Attributes:
        title: whose it is.
        evaluated: what came of each task and text.
        facts: of the model and how it was asked.
        notes: besides those of tasks and texts.
    """

    title: str
    evaluated: tuple[Evaluated, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def every_note(self) -> list[str]:
        """Each once."""
        of_each = (note for one in self.evaluated for note in one.notes)
        return list(dict.fromkeys([*self.notes, *of_each]))


def write_report(out: Path, report: Report) -> str:
    """Write every file, each whole; the one with the figures is the last.

    Args:
        out: a folder that is there.
        report: what is told.

    Returns:
        The SHA-256 of the file of items.

    Raises:
        OSError: a file cannot be written.
    """
    items = items_text(report.evaluated).encode()
    digest = sha256(items).hexdigest()
    tables, charts = tables_of(report), charts_of(report)
    write_whole(out / ITEMS, items)
    if charts:
        write_whole(out / PICTURE, picture.png(charts, columns=min(2, len(charts))))
    text = "\n".join(
        [f"# {report.title}\n", *map(markdown_text, tables), *map("- {}".format, report.every_note)]
    )
    write_whole(out / MARKDOWN, text.rstrip() + "\n")
    write_whole(out / PAGE, html(_page(report, tables, charts)))
    figures = {
        **report.facts,
        "evaluations": {one.name: one.as_json() for one in report.evaluated},
        "items": ITEMS,
        "items_sha256": digest,
        "notes": report.every_note,
    }
    text = json.dumps(figures, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    write_whole(out / RESULTS, text + "\n")
    return digest


def tables_of(report: Report) -> list[Table]:
    """Of tasks, and of texts; one that would be empty is left out."""
    tables = [_tasks_table(report.evaluated), _texts_table(report.evaluated)]
    return [table for table in tables if table.rows]


def _tasks_table(evaluated: Sequence[Evaluated]) -> Table:
    rows = [
        (
            str(number),
            one.name,
            f"{metric}{_ARROWS[score.higher_is_better]}",
            _number(score.value),
            _number(score.stderr),
            _number(score.chance),
            formats.count(score.n),
        )
        for number, (one, metric, score) in enumerate(_task_scores(evaluated), start=1)
    ]
    columns = ("", "task", "metric", "score", "± stderr", "chance", "items")
    return Table("Tasks", columns, tuple(rows), words=frozenset({1, 2}))


def _texts_table(evaluated: Sequence[Evaluated]) -> Table:
    rows = [
        (
            str(number),
            one.name,
            *_with_error(one.scores[BITS_A_BYTE]),
            *_with_error(one.scores[NATS_A_TOKEN]),
            formats.count(one.facts["tokens"]),
            formats.count(one.facts["bytes"]),
            formats.count(one.facts["documents"]),
        )
        for number, one in enumerate(_texts(evaluated), start=1)
    ]
    columns = (
        *("", "text", "bits a byte", "± stderr", "nats a token", "± stderr"),
        *("tokens", "bytes", "documents"),
    )
    return Table("Held-out text", columns, tuple(rows), words=frozenset({1}))


def _task_scores(evaluated: Sequence[Evaluated]) -> Iterator[tuple[Evaluated, str, Score]]:
    for one in evaluated:
        if one.kind == "task":
            yield from ((one, metric, score) for metric, score in one.scores.items())


def _texts(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    return [one for one in evaluated if one.kind == "text"]


def _with_error(score: Score) -> tuple[str, str]:
    return _number(score.value), _number(score.stderr)


def _number(value: float | None) -> str:
    return formats.UNKNOWN if value is None else f"{value:.4f}"


def charts_of(report: Report) -> list[Chart]:
    """Of the tasks' scores that are shares, and of the texts' bits a byte."""
    tasks = [
        (number, f"{one.name} {metric}", score)
        for number, (one, metric, score) in enumerate(_task_scores(report.evaluated), start=1)
        if score.value is not None and 0 <= score.value <= 1
    ]
    texts = [
        (number, one.name, one.scores[BITS_A_BYTE])
        for number, one in enumerate(_texts(report.evaluated), start=1)
    ]
    charts = (
        ("tasks", "Tasks", "score", "row of the table of tasks", tasks),
        ("texts", "Held-out text", "bits a byte", "row of the table of texts", texts),
    )
    return [_chart(*chart) for chart in charts if chart[-1]]


def _chart(
    name: str, title: str, y_label: str, x_label: str, rows: Sequence[tuple[int, str, Score]]
) -> Chart:
    dots = [_dot(*row) for row in rows]
    chances = [(number, score.chance) for number, _, score in rows if score.chance is not None]
    ends = [end for dot in dots for end in (dot.low, dot.high)]
    ys = np.array([*(dot.y for dot in dots), *(chance for _, chance in chances)], np.float64)
    first, last = rows[0][0], rows[-1][0]
    shown = "; ".join(f"{row}: {score.value:.3f}" for _, row, score in rows)
    return Chart(
        name=name,
        title=title,
        alt=f"{title}, {y_label}: {shown}",
        caption="Bars are 95 % intervals by the items' standard error"
        + (", dotted lines are chance." if chances else "."),
        x_label=x_label,
        y_label=y_label,
        lines=tuple(_chance_lines(chances)),
        dots=tuple(dots),
        rules=tuple(Rule(number - _ROOM, "x", row, along=True) for number, row, _ in rows),
        x_range=(first - _ROOM, last + _ROOM),
        y_range=around(ys, ends, room=1.0),
        x_ticks=tuple(float(number) for number, _, _ in rows),
    )


def _dot(number: int, row: str, score: Score) -> Dot:
    assert score.value is not None
    reach = None if score.stderr is None else _STDERRS_OF_A_BAR * score.stderr
    low, high = (None, None) if reach is None else (score.value - reach, score.value + reach)
    return Dot(row, float(number), score.value, low, high, _COLOUR, listed=False)


def _chance_lines(chances: Sequence[tuple[int, float | None]]) -> Iterator[Line]:
    if not chances:
        return
    xs = [x for number, _ in chances for x in (number - _HALF, number + _HALF, np.nan)]
    ys = [y for _, chance in chances for y in (chance, chance, np.nan)]
    yield Line("chance", np.array(xs, np.float64), np.array(ys, np.float64), SOFT, dash="dot")


def _page(report: Report, tables: Sequence[Table], charts: Sequence[Chart]) -> Page:
    facts = Table.of_words(
        ("", ""), [(name, str(value)) for name, value in report.facts.items() if value is not None]
    )
    return Page(
        title=report.title,
        headline=f"{len(report.evaluated)} tasks and texts, "
        f"{sum(len(one.items) for one in report.evaluated):,} items.",
        sections=(
            Section(charts=tuple(charts)),
            Section("Figures", tables=tuple(tables)),
            Section("Notes", sentences=tuple(report.every_note)),
            Section("How it was asked", tables=(facts,)),
            Section("How each figure is made", sentences=_HOW_MADE),
        ),
    )
