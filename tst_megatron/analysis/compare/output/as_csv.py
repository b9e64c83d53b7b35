"""The evaluations and the figures as CSV, long form, for a spreadsheet or a notebook."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tst_megatron.analysis.compare.amounts import USED
from tst_megatron.analysis.compare.result import Comparison, EqualLoss, Findings, Needed
from tst_megatron.report.table import csv_text
from tst_megatron.runs.run import Curve
from tst_megatron.statistics.interval import Interval

_RATIOS = ("step_ratio", "flops_ratio", "wall_clock_ratio", "gpu_hours_ratio")


def evaluations_csv(findings: Findings) -> str:
    """A row an evaluation of every run."""
    head = ("side", "group", "run", "seed", *USED, "loss", "stderr")
    rows = [
        (side, group.name, run.name, run.header.get("seed"), *row)
        for side, group, run in findings.runs()
        for row in _evaluations(run.curve)
    ]
    return csv_text(head, rows)


def comparisons_csv(findings: Findings) -> str:
    """A row a figure of every candidate group, with what has to stand beside it."""
    head = (
        "candidate_group", "section", "figure", "value", "low", "high", "where", "extrapolated",
        "no_difference_shown", "rough_guide", "at_least", "unlike_decays", "one_seed",
        "clocks_compare", "forced",
    )  # fmt: skip
    rows = [
        (one.candidate.name, *row, one.one_seed, findings.clocks_compare, bool(findings.reasons))
        for one in findings.comparisons
        for row in _figures(one)
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
            for name, found in _needed(needed):
                where = equal.where
                yield (section, f"{side}_{name}", *_ends(found), where, extrapolated, "", *marks)
    flops, data = one.equal_flops, one.equal_data
    for section, difference, where in (
        ("equal_flops", flops, f"{flops.flops} FLOPs"),
        ("equal_data", data, f"{data.data_tokens} data tokens"),
    ):
        found = difference.loss_difference
        marks = (False, False, bool(difference.unlike))
        yield (
            section, "loss_difference", *_ends(found), where, False, _shows_none(found, 0), *marks
        )  # fmt: skip


def _evaluations(curve: Curve) -> Iterator[tuple[float | None, ...]]:
    columns = [getattr(curve, field) for field in (*USED, "losses", "stderrs")]
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield tuple(value if np.isfinite(value) else None for value in row)


def _needed(needed: Needed) -> Iterator[tuple[str, Interval]]:
    yield from vars(needed).items()


def _ends(found: Interval) -> tuple[float | None, float | None, float | None]:
    return found.value, found.low, found.high


def _shows_none(found: Interval, nothing: float) -> bool | str:
    return "" if found.value is None else found.holds(nothing)
