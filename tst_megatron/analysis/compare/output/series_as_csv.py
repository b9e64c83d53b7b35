"""What the charts draw along the runs as CSV, whole: the savings, and every logged step."""

from collections.abc import Iterator

import numpy as np

from tst_megatron.analysis.compare.findings import Findings
from tst_megatron.analysis.compare.output.as_csv import CURVE_FIELDS, written
from tst_megatron.analysis.compare.result import Comparison
from tst_megatron.analysis.compare.stories import ordinary_facts
from tst_megatron.runs.run import Run

_MEASURED = ("learning_rates", "grad_norms", "compute_s", "other_s")


def saving_csv(findings: Findings) -> str:
    """A row a point along the runs: the ratios by loss, the difference by FLOPs."""
    head = ("tst_group", "figure", "loss", "flops", "value", "low", "high")
    rows = [
        (one.tst.name, *map(_cell, row)) for one in findings.comparisons for row in _points(one)
    ]
    return written(head, rows)


def steps_csv(findings: Findings) -> str:
    """A row a logged step of every run, with a column an extra series."""
    runs = [
        (side, group.name, run)
        for side, groups in (("baseline", findings.baseline), ("tst", findings.tst))
        for group in groups
        for run in group.runs
    ]
    extras = sorted({name for *_, run in runs for name in run.steps.extras})
    head = (
        "side", "group", "run", "seed", *CURVE_FIELDS, *ordinary_facts(), "loss_name", "loss",
        "learning_rate", "grad_norm", "compute_s", "other_s", *extras,
    )  # fmt: skip
    rows = [
        (side, group, run.name, run.header.get("seed"), *map(_cell, row))
        for side, group, run in runs
        for row in _logged(run, extras)
    ]
    return written(head, rows)


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


def _logged(run: Run, extras: list[str]) -> Iterator[tuple[object, ...]]:
    series = run.steps
    unknown = np.full(series.steps.size, np.nan)
    columns = [
        *(getattr(series, field).tolist() for field in CURVE_FIELDS),
        *([of.get(name, usual) for of in series.facts] for name, usual in ordinary_facts().items()),
        series.loss_names,
        *(getattr(series, field).tolist() for field in ("losses", *_MEASURED)),
        *(series.extras.get(name, unknown).tolist() for name in extras),
    ]
    yield from zip(*columns, strict=True)


def _cell(value: object) -> object:
    """Empty for what is not a finite number."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
