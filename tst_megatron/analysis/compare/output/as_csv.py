"""The figures, and what the charts draw along the runs, as CSV, long form, for a spreadsheet.

Nothing is thinned here: every evaluation and every logged step has its row.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tst_megatron.analysis.compare.amounts import USED
from tst_megatron.analysis.compare.groups import RateSweep
from tst_megatron.analysis.compare.result import Comparison, EqualLoss, Findings
from tst_megatron.analysis.compare.stories import ordinary_facts
from tst_megatron.report.table import csv_text
from tst_megatron.runs.run import Curve, RecordedRun
from tst_megatron.statistics.interval import Interval

_MEASURED = ("learning_rates", "grad_norms", "compute_s", "other_s")
_RATIOS = ("step_ratio", "flops_ratio", "wall_clock_ratio", "gpu_hours_ratio")


def evaluations_csv(findings: Findings) -> str:
    """A row an evaluation of every run, its loss in the unit that the comparison is in."""
    head = ("side", "group", "run", "seed", *USED, "loss", "stderr", "loss_unit")
    rows = [
        (side, group.name, run.name, run.header.get("seed"), *row, str(run.curve.unit))
        for side, group, run in findings.runs()
        for row in _evaluations(run.curve)
    ]
    return csv_text(head, rows)


def comparisons_csv(findings: Findings) -> str:
    """A row a figure of every candidate group, with what has to stand beside it."""
    head = (
        "candidate_group", "section", "figure", "value", "low", "high", "where", "extrapolated",
        "no_difference_shown", "rough_guide", "at_least", "unlike_decays", "one_seed",
        "clocks_compare", "forced", "rate_unconfirmed", "loss_unit",
    )  # fmt: skip
    rows = [
        (
            one.candidate.name,
            *row,
            one.one_seed,
            findings.clocks_compare,
            bool(findings.reasons),
            bool(one.unconfirmed),
            str(one.unit),
        )
        for one in findings.comparisons
        for row in _figures(one)
    ]
    return csv_text(head, rows)


def saving_csv(findings: Findings) -> str:
    """A row a point along the runs: the ratios by loss, the difference by FLOPs."""
    head = ("candidate_group", "figure", "loss", "flops", "value", "low", "high", "loss_unit")
    rows = [
        (one.candidate.name, *map(_cell, row), str(one.unit))
        for one in findings.comparisons
        for row in _points(one)
    ]
    return csv_text(head, rows)


def rates_csv(findings: Findings) -> str:
    """A row a learning rate of every setting that has several; empty where none has."""
    head = ("side", "group", "steps", "learning_rate", "loss", "seeds", "is_compared")
    # A baseline that several candidate groups are compared with has its rows once.
    sweeps = {
        id(sweep): (side, sweep)
        for one in findings.comparisons
        for side, groups in (("baseline", one.baseline), ("candidate", (one.candidate,)))
        for group in groups
        if (sweep := group.sweep) is not None
    }
    rows = [(side, *row) for side, sweep in sweeps.values() for row in _rates(sweep)]
    return csv_text(head, rows) if rows else ""


def steps_csv(findings: Findings) -> str:
    """A row a logged step of every run, with a column an extra series."""
    runs = [(side, group.name, run) for side, group, run in findings.runs()]
    extras = sorted({name for *_, run in runs for name in run.steps.extras})
    head = (
        "side", "group", "run", "seed", *USED, *ordinary_facts(), "loss_name", "loss",
        "learning_rate", "grad_norm", "compute_s", "other_s", *extras,
    )  # fmt: skip
    rows = [
        (side, group, run.name, run.header.get("seed"), *map(_cell, row))
        for side, group, run in runs
        for row in _logged(run, extras)
    ]
    return csv_text(head, rows)


def _figures(one: Comparison) -> Iterator[tuple[Any, ...]]:
    for section in ("equal_loss", "equal_loss_along", "equal_loss_at_baseline"):
        equal: EqualLoss | None = getattr(one, section)
        if equal is None:
            continue
        marks = (equal.rough, equal.at_least, bool(equal.unlike))
        beside = (equal.where, equal.extrapolated)
        yield (section, "loss", *_ends(equal.loss), equal.where, False, "", *[False] * 3)
        for name in _RATIOS:
            found: Interval = getattr(equal, name)
            yield (section, name, *_ends(found), *beside, _shows_none(found, 1), *marks)
        # Only the baseline's are extrapolated.
        for side, needed, extrapolated in (
            ("baseline", equal.baseline, equal.extrapolated),
            ("candidate", equal.candidate, False),
        ):
            for name, found in vars(needed).items():
                where = equal.where
                yield (section, f"{side}_{name}", *_ends(found), where, extrapolated, "", *marks)
    flops, steps, data = one.equal_flops, one.equal_steps, one.equal_data
    for section, difference, where in (
        ("equal_flops", flops, f"{flops.flops} FLOPs"),
        ("equal_steps", steps, "" if steps is None else f"{steps.steps} steps"),
        ("equal_data", data, f"{data.data_tokens} data tokens"),
    ):
        if difference is None:
            continue
        found = difference.loss_difference
        marks = (False, False, bool(difference.unlike))
        yield (
            section, "loss_difference", *_ends(found), where, False, _shows_none(found, 0), *marks
        )  # fmt: skip
    yield from _score_figures(one)


def _score_figures(one: Comparison) -> Iterator[tuple[Any, ...]]:
    for at in one.scores:
        for row in at.rows:
            name, where = f"{row.task} {row.metric}", "" if at.amount is None else str(at.amount)
            beside = (where, False, "", False, False, bool(at.unlike))
            yield (f"scores_{at.place}", f"{name} baseline", *_ends(row.baseline), *beside)
            yield (f"scores_{at.place}", f"{name} candidate", *_ends(row.candidate), *beside)
            shown = (where, False, _shows_none(row.difference, 0), *beside[3:])
            yield (f"scores_{at.place}", f"{name} difference", *_ends(row.difference), *shown)


def _rates(sweep: RateSweep) -> Iterator[tuple[object, ...]]:
    for of, rate, loss in zip(sweep.groups, sweep.rates, sweep.losses, strict=True):
        seeds = " ".join(map(str, sweep.seeds))
        yield (of.name, of.num_steps, rate, _cell(loss), seeds, rate == sweep.best.rate)


def _evaluations(curve: Curve) -> Iterator[tuple[object, ...]]:
    columns = [getattr(curve, field) for field in (*USED, "losses", "stderrs")]
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield tuple(map(_cell, row))


def _ends(found: Interval) -> tuple[float | None, float | None, float | None]:
    return found.value, found.low, found.high


def _shows_none(found: Interval, nothing: float) -> bool | str:
    return "" if found.value is None else found.holds(nothing)


def _points(one: Comparison) -> Iterator[tuple[object, ...]]:
    saving, along = one.saving, one.equal_flops
    hours = saving.gpu_hours_ratios, saving.gpu_hours_lows, saving.gpu_hours_highs
    tables = (
        ("step_ratio", saving.losses, (saving.step_ratios, saving.lows, saving.highs)),
        # Empty where they were not worked out.
        ("gpu_hours_ratio", saving.losses[: hours[0].size], hours),
        ("loss_difference", along.along, (along.differences, along.lows, along.highs)),
    )
    for figure, places, found in tables:
        for at, *row in zip(*(column.tolist() for column in (places, *found)), strict=True):
            place = (None, at) if figure == "loss_difference" else (at, None)
            yield (figure, *place, *row)


def _logged(run: RecordedRun, extras: list[str]) -> Iterator[tuple[object, ...]]:
    series = run.steps
    unknown = np.full(series.steps.size, np.nan)
    columns = [
        *(getattr(series, field).tolist() for field in USED),
        *(
            [of.get(name, usual if run.tells_methods else None) for of in series.facts]
            for name, usual in ordinary_facts().items()
        ),
        series.loss_names,
        *(getattr(series, field).tolist() for field in ("losses", *_MEASURED)),
        *(series.extras.get(name, unknown).tolist() for name in extras),
    ]
    yield from zip(*columns, strict=True)


def _cell(value: object) -> object:
    """Empty for what is not a finite number."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
