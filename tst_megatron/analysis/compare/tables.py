"""The tables of a comparison as text cells, for the page and the terminal alike.

The one idea: a row holds a figure with everything that has to stand beside it, so no reader of one
row can miss that it is extrapolated or that no difference is shown.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np

from tst_megatron.analysis.compare.amounts import (
    DATA_TOKENS,
    FLOPS,
    GPU_HOURS,
    STEPS,
    WALL_CLOCK,
    Amount,
)
from tst_megatron.analysis.compare.group_curve import final, final_loss
from tst_megatron.analysis.compare.groups import Group, RateSweep
from tst_megatron.analysis.compare.rates import DIVERGED, parabola, shown_rate
from tst_megatron.analysis.compare.result import (
    AT_ENDS,
    AT_FLOPS,
    AT_LOSS,
    AT_STEPS,
    BASELINE_FINAL,
    BEFORE_DECAY,
    CANDIDATE_FINAL,
    Comparison,
    EqualData,
    EqualFlops,
    EqualLoss,
    EqualSteps,
    Findings,
    ScoresAt,
)
from tst_megatron.analysis.compare.scores import PAIRED
from tst_megatron.analysis.compare.sentences import (
    ONE_SEED,
    OTHER_HARDWARE,
    UNCONFIRMED,
    UNLIKE,
    lead_amount,
    marks,
    remark,
)
from tst_megatron.analysis.compare.settings import compare_settings
from tst_megatron.report import formats
from tst_megatron.report.table import Table
from tst_megatron.runs.rates import listed, on_seeds
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval

_FOLDERS_ABOVE = re.compile(r"(?<!\S)/(?:[^\s/,]+/)+(?=[^\s/,]+/[^\s/,]+)")
_SHOWN = (STEPS, FLOPS, WALL_CLOCK, GPU_HOURS, DATA_TOKENS)

_LEVELS = {
    CANDIDATE_FINAL: "the candidate's final loss",
    BASELINE_FINAL: "the baseline's final loss",
    BEFORE_DECAY: "the candidate's loss before its decay",
}


def tables_of(findings: Findings) -> list[Table]:
    """Every table of a report but for the settings: the best candidate's, then all groups'."""
    if not findings.comparisons:
        return [runs_table(findings)]
    best = findings.comparisons[0]
    return [
        *_equal_loss_tables(best, findings),
        loss_table(best),
        *score_tables(best),
        *rate_tables(best),
        *([groups_table(findings)] if len(findings.comparisons) > 1 else []),
        runs_table(findings),
    ]


def _equal_loss_tables(comparison: Comparison, findings: Findings) -> Iterator[Table]:
    first, other = comparison.equal_loss, comparison.equal_loss_at_baseline
    # Where nothing else can be told, the headline is the one at the baseline's.
    for equal in (first, comparison.equal_loss_along, None if first == other else other):
        if equal is not None and equal.loss.value is not None:
            yield equal_loss_table(equal, comparison.confidence, findings)


def equal_loss_table(equal: EqualLoss, confidence: float, findings: Findings) -> Table:
    """What both sides needed to get to a loss."""
    words = [_LEVELS[equal.level], equal.where, *marks(equal)]
    if not equal.is_told:
        unseen = "reached by the baseline before its first evaluation"
        words.append(unseen if equal.reached else "not reached by the baseline")
    hours = [] if findings.clocks_compare else [OTHER_HARDWARE]
    rows = [
        _needed_row(equal, amount, hours if amount in (WALL_CLOCK, GPU_HOURS) else [])
        for amount in _SHOWN
        if findings.steps_compare or amount not in (STEPS, DATA_TOKENS)
    ]
    prices = findings.prices
    rows += [
        _priced_row(equal, label, price, hours)
        for label, price in (("Energy, kWh", prices.energy_kwh), ("Cost", prices.cost))
    ]
    return Table(
        f"At equal loss {formats.loss(equal.loss.value)}: {', '.join(words)} "
        f"(intervals: {formats.percent(confidence)})",
        ("", "baseline", "candidate", "ratio", "interval", ""),
        tuple(row for row in rows if set(row[1:3]) != {formats.UNKNOWN}),
        remarks=frozenset({5}),
    )


def loss_table(comparison: Comparison) -> Table:
    """The loss differences at equal FLOPs, or steps where those are not known, and equal data."""
    flops, steps, data = comparison.equal_flops, comparison.equal_steps, comparison.equal_data
    end = " (end)" if comparison.equal_work.at_end else ""
    rows: list[tuple[str, EqualFlops | EqualSteps | EqualData, str]] = [
        ("Equal FLOPs", flops, f"{formats.flops(flops.flops)}{end}")
        if steps is None
        else ("Equal steps", steps, f"{formats.count(steps.steps)}{end}")
    ]
    if comparison.steps_compare:
        rows.append(("Equal data", data, formats.count(data.data_tokens)))
    return Table(
        f"Held-out loss, candidate − baseline, {comparison.unit}: below 0, the candidate is "
        "ahead "
        f"(intervals: {formats.percent(comparison.confidence)})",
        ("", "difference", "interval", "at", ""),
        tuple(
            (
                label,
                formats.signed(found.loss_difference.value),
                formats.difference_range(found.loss_difference),
                place,
                remark(
                    found.loss_difference,
                    0,
                    *([UNLIKE] if found.unlike else []),
                    *([UNCONFIRMED] if found.unconfirmed else []),
                ),
            )
            for label, found, place in rows
        ),
        remarks=frozenset({3, 4}),
    )


def score_tables(comparison: Comparison) -> list[Table]:
    """Scores on tasks and texts, a table a place; none where runs were not evaluated."""
    return [_score_table(one, comparison) for one in comparison.scores]


_SCORE_NOTE = (
    "↑ higher is better, ↓ lower is. {pairing}Of 20 rows in which nothing differs, one is "
    "expected to show a difference at 95 %."
)
_PAIRING = "Paired by item: both sides were asked the very same. "


def _score_table(scores: ScoresAt, comparison: Comparison) -> Table:
    places = {
        AT_FLOPS: f"at equal FLOPs {formats.flops(scores.amount)}",
        AT_STEPS: f"at equal steps {formats.count(scores.amount)}",
        AT_LOSS: f"at equal loss {formats.loss(scores.amount)}",
        AT_ENDS: "at the runs' ends, of unequal FLOPs",
    }
    end = " (end)" if scores.at_end and scores.amount is not None else ""
    beside = [
        *([UNLIKE] if scores.unlike else []),
        *([UNCONFIRMED] if scores.unconfirmed else []),
        *([ONE_SEED] if comparison.one_seed else []),
    ]
    is_paired = any(PAIRED in row.how for row in scores.rows)
    return Table(
        f"Scores {places[scores.place]}{end}, candidate − baseline "
        f"(intervals: {formats.percent(comparison.confidence)})",
        ("", "metric", "baseline", "candidate", "difference", "interval", ""),
        tuple(
            (
                row.task,
                f"{row.metric}{_DIRECTIONS[row.higher_is_better]}",
                formats.loss(row.baseline.value),
                formats.loss(row.candidate.value),
                formats.signed(row.difference.value),
                formats.difference_range(row.difference),
                remark(row.difference, 0, *row.how, *beside),
            )
            for row in scores.rows
        ),
        words=frozenset({1}),
        remarks=frozenset({6}),
        note=_SCORE_NOTE.format(pairing=_PAIRING if is_paired else ""),
    )


_DIRECTIONS = {True: " ↑", False: " ↓", None: ""}


def groups_table(findings: Findings) -> Table:
    """Every candidate group in a row."""
    amount = lead_amount(findings)
    work = "FLOPs" if all(one.equal_steps is None for one in findings.comparisons) else "steps"
    rows = []
    for one in findings.comparisons:
        found = amount.ratio(one.equal_loss)
        difference = (one.equal_flops if work == "FLOPs" else one.equal_work).loss_difference
        rows.append(
            (
                one.candidate.name,
                formats.loss(final_loss(one.candidate)),
                formats.signed(difference.value),
                formats.ratio(found.value),
                formats.ratio_range(found),
                remark(found, 1, *marks(one.equal_loss)),
            )
        )
    return Table(
        f"Every candidate group, the lowest final loss first (ratio: of {amount.label})",
        ("candidate group", "loss", f"equal {work}", "ratio", "interval", ""),
        tuple(rows),
        remarks=frozenset({5}),
    )


def rate_tables(comparison: Comparison) -> list[Table]:
    """The final losses over the learning rate; none where one was tried on each side."""
    groups = (*comparison.baseline, comparison.candidate)
    rows = [row for group in groups if group.sweep for row in _rate_rows(group, group.sweep)]
    if not rows:
        return []
    return [
        Table(
            "Final held-out loss over the learning rate, on the seeds that every rate has",
            ("setting", "learning rate", "loss", "seeds", ""),
            tuple(rows),
            words=frozenset({3}),
            remarks=frozenset({4}),
            note="An optimum is that of a parabola in the rate's logarithm, through the best rate "
            "and its neighbours.",
        )
    ]


def _rate_rows(group: Group, sweep: RateSweep) -> Iterator[tuple[str, ...]]:
    """One a rate, the lowest by a parabola, and the figures' own."""
    best = sweep.best
    for of, loss in zip(sweep.groups, sweep.losses, strict=True):
        seeds = sweep.seeds or _seeds_of(of)
        words = [DIVERGED] if not np.isfinite(loss) else []
        if of.rate == best.rate:
            words.append(f"chosen on {on_seeds(best.chosen_on)}" if best.chosen_on else "chosen")
        told = formats.loss(loss) if np.isfinite(loss) else formats.UNKNOWN
        yield (sweep.name, shown_rate(of.rate), told, listed(seeds), ", ".join(words))
    if sweep.is_confirmed:
        of_others = formats.loss(final_loss(group))
        where = shown_rate(best.rate), of_others, listed(best.confirmed_on)
        yield (sweep.name, *where, "compared")
    if (found := parabola(sweep)) is not None:
        added = (("half", found.added_at_half), ("twice", found.added_at_double))
        words = [f"the {found.edge} tried"] if found.edge else []
        words += [f"{of} adds {formats.signed(more)}" for of, more in added if more is not None]
        where = f"{found.optimum:.2g}", formats.loss(found.value), listed(sweep.seeds or ("–",))
        yield (f"{sweep.name}: optimum", *where, ", ".join(words))


def _seeds_of(group: Group) -> list[object]:
    return list(dict.fromkeys(run.facts.seed for run in group.runs))


def runs_table(findings: Findings) -> Table:
    """Every run in a row: what it took, and where it ended."""
    rows = [(run.name, *_used(run)) for _, _, run in findings.runs()]
    return Table(
        "Runs",
        ("run", "seed", "steps", "tokens", "GPU hours", "other time", "final loss"),
        tuple(rows),
    )


def settings_tables(findings: Findings) -> list[Table]:
    """What a run of the baseline and one of the best candidate share, and where they differ."""
    sides = (findings.baseline, findings.candidate)
    baseline, candidate = (groups[0].runs[0] if groups else None for groups in sides)
    found = compare_settings(baseline, candidate)
    names = [run.name for run in (baseline, candidate) if run is not None]
    return [
        Table(
            f"Settings that differ: {' and '.join(names)}",
            ("setting", "baseline", "candidate"),
            tuple(tuple(map(_short, row)) for row in found.differing) or (("none", "", ""),),
            words=frozenset({1, 2}),
        ),
        Table(
            "The main settings they share",
            ("setting", ""),
            tuple(tuple(map(_short, row)) for row in found.shared),
            words=frozenset({1}),
        ),
    ]


def last(values: Array) -> float | None:
    """The last of a run's values that is a number."""
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else None


def latest(run: RecordedRun, field: str) -> float | None:
    """How much of something a run had used when it last told."""
    ends = [last(getattr(run.curve, field)), last(getattr(run.steps, field))]
    known = [end for end in ends if end is not None]
    return max(known, default=None)


def share_of_other_time(run: RecordedRun) -> float | None:
    """Seconds of everything but computation over all seconds; None where they were not logged."""
    compute, other = np.nansum(run.steps.compute_s), np.nansum(run.steps.other_s)
    return float(other / (compute + other)) if compute + other > 0 else None


def _used(run: RecordedRun) -> tuple[str, ...]:
    share = share_of_other_time(run)
    seed = run.header.get("seed")
    loss, error = final(run), last(run.curve.stderrs[-1:])
    return (
        formats.UNKNOWN if seed is None else str(seed),
        formats.count(latest(run, "steps")),
        formats.count(latest(run, "data_tokens")),
        formats.amount(latest(run, "gpu_hours")),
        formats.UNKNOWN if share is None else f"{share:.1%}",
        formats.loss(loss) + ("" if None in (loss, error) else f" ± {error:.3f}"),
    )


def _short(cell: str) -> str:
    """A path's last two parts: where a machine keeps its files is nothing to a reader."""
    return _FOLDERS_ABOVE.sub("…/", cell)


def _needed_row(equal: EqualLoss, amount: Amount, beside: list[str]) -> tuple[str, ...]:
    baseline, candidate = (amount.show(needed) for needed in amount.needed(equal))
    label = f"{amount.label[0].upper()}{amount.label[1:]}"
    return _row(label, (baseline, candidate), amount.ratio(equal), [*marks(equal), *beside])


def _priced_row(
    equal: EqualLoss, label: str, price: Callable[[Interval], Interval], beside: list[str]
) -> tuple[str, ...]:
    both = (price(side.gpu_hours).value for side in (equal.baseline, equal.candidate))
    baseline, candidate = (formats.amount(priced) for priced in both)
    return _row(label, (baseline, candidate), equal.gpu_hours_ratio, [*marks(equal), *beside])


def _row(
    label: str, needed: tuple[str, str], found: Interval, beside: list[str]
) -> tuple[str, ...]:
    return (
        label,
        *needed,
        formats.ratio(found.value),
        formats.ratio_range(found),
        remark(found, 1, *beside),
    )
