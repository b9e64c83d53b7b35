"""From paths to what a report shows, and one candidate group against the baseline.

The steps it takes: read the runs, group each side by equal settings, ask whether the sides may be
compared, choose a learning rate where several were tried, compare every candidate group, and put
the best one first.

The one idea: all curves are drawn many times over with their errors (`rows`), every figure is
worked out for every copy, and its interval is the middle 95 % of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tst_megatron.analysis.compare.baselines import strongest
from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
from tst_megatron.analysis.compare.comparable import clocks_compare, notes_on, reasons_against
from tst_megatron.analysis.compare.compare_notes import (
    equal_budget_notes,
    equal_loss_notes,
    met_unseen_notes,
    no_lower_notes,
    reading_notes,
    uncertainty,
)
from tst_megatron.analysis.compare.courses import Fit, fit_baseline
from tst_megatron.analysis.compare.derived import read_sides
from tst_megatron.analysis.compare.equal_budget import equal_data, equal_flops, equal_steps
from tst_megatron.analysis.compare.equal_loss import (
    along_baseline,
    at_baseline_final,
    at_candidate_final,
    saving_by_loss,
)
from tst_megatron.analysis.compare.group_curve import final_loss, group_curve
from tst_megatron.analysis.compare.groups import Group, group, settings_notes
from tst_megatron.analysis.compare.in_bits import in_one_unit, steps_compare
from tst_megatron.analysis.compare.rates import not_listed, rate_notes, tuned, why_unconfirmed
from tst_megatron.analysis.compare.result import (
    BEFORE_DECAY,
    Comparison,
    EqualData,
    EqualFlops,
    EqualLoss,
    Findings,
    PowerLaw,
    Prices,
    SavingByLoss,
)
from tst_megatron.analysis.compare.rows import Resampled, Rows, resample, until
from tst_megatron.analysis.compare.scores import compared_scores
from tst_megatron.errors import UserError
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.interval import Interval

DRAWS = 2000
_NOT_ASKED = Prices()
# Copies beyond each end of an interval, below which their luck is what one sees.
_LEAST_OUTSIDE = 5
# A last evaluation so near to the end is the end.
_WHOLE = 0.99
_AT_BASELINE = (
    "The baseline does not get to the candidate's final loss, and no power law of its curve says "
    "when it would: equal loss is taken at the baseline's final loss, which both reached."
)


def compare_paths(
    baseline: Sequence[Path],
    candidate: Sequence[Path],
    confidence: float,
    force: bool,
    prices: Prices,
    loss_columns: Sequence[str] = (),
    law: ScalingLaw | None = None,
    asks_bits: bool = False,
) -> Findings:
    """Compare the runs at some paths.

    Args:
        baseline: of the runs that are the measure.
        candidate: of those that are compared with them.
        confidence: of the intervals.
        force: compare also where it means nothing; the findings then say why it does not.
        prices: for energy and cost.
        loss_columns: names of the held-out loss in sources that are no ledgers (`read_runs`).
        law: of whole runs, in place of one that is fitted to the baseline.
        asks_bits: tell losses in bits a byte though the tokenizers are one (`in_one_unit`).

    Raises:
        UserError: the confidence is more than can be told, a run cannot be read, the sides should
            not be compared, or the law is of other runs.
    """
    most = 1 - 2 * _LEAST_OUTSIDE / DRAWS
    if confidence > most:
        raise UserError(
            f"--confidence {confidence:g} is more than {DRAWS:,} draws can tell: give at most "
            f"{most:g}"
        )
    sides = read_sides(baseline, candidate, loss_columns)
    of_baseline, of_candidate = in_one_unit(*sides, asks_bits, force)
    ours, theirs = group(of_candidate, "candidate"), group(of_baseline, "baseline")
    reasons = reasons_against(theirs, ours)
    if reasons and not force:
        found = "; ".join(reason.removesuffix(".") for reason in reasons)
        raise UserError(f"{found}; --force compares all the same and marks the report")
    return _findings(theirs, ours, confidence, tuple(reasons), prices, law)


def compare_so_far(
    baseline: Sequence[RecordedRun], candidate: Sequence[RecordedRun], confidence: float
) -> Findings:
    """Compare runs of which a side may be missing or at its beginning; nothing is refused.

    Args:
        baseline: none yet, perhaps.
        candidate: likewise.
        confidence: of the intervals.
    """
    ours, theirs = group(candidate, "candidate"), group(baseline, "baseline")
    if ours and theirs:
        return _findings(theirs, ours, confidence)
    return Findings(tuple(theirs), tuple(ours), (), notes=tuple(notes_on(theirs, ours)))


def compare_group(
    baseline: Sequence[Group],
    candidate: Group,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    law: ScalingLaw | None = None,
) -> Comparison:
    """Compare a candidate group with the baseline's groups.

    Args:
        baseline: its groups; of several settings the strongest counts. Each at one learning rate
            (`rates.tuned`).
        candidate: the group.
        confidence: of the intervals, above 0 and below 1.
        draws: perturbed copies of the curves.
        seed: of the draws: the same arguments give the same figures.
        law: of whole runs, in place of one that is fitted to the baseline.

    Returns:
        Figures that cannot be told are ``Interval()``; why not is in the notes.
    """
    groups, unused = strongest(baseline, candidate)
    curves = [curve for curve in map(group_curve, groups) if curve is not None]
    ours = group_curve(candidate)
    notes = [*unused, *reading_notes((*groups, candidate), (*curves, ours))]
    notes += rate_notes(groups, candidate)
    if not curves or ours is None:
        return _nothing(groups, candidate, confidence, notes)
    drawn = resample(tuple(curves), ours, draws, seed)
    first, rows = drawn.baselines[0], drawn.candidate
    given = None if law is None else law.fit(groups[0].runs[0], len(rows.losses))
    found = _equal_losses(drawn, candidate, confidence, given)
    notes += found.notes
    by_steps = steps_compare([run for one in (*groups, candidate) for run in one.runs])
    data, read_by = EqualData(Interval(), None), None
    if by_steps:
        data, read_by = equal_data(drawn.baselines, rows, confidence)
    flops = equal_flops(first, rows, confidence)
    notes += equal_budget_notes("flops", flops.flops, first, rows, flops.unlike)
    steps = equal_steps(first, rows, confidence) if by_steps else None
    if steps is not None:
        notes += equal_budget_notes("steps", steps.steps, first, rows, steps.unlike)
    notes += equal_budget_notes("data_tokens", data.data_tokens, read_by, rows, data.unlike)
    scores, of_scores = compared_scores(first, rows, steps or flops, confidence)
    notes += of_scores
    comparison = Comparison(
        baseline=groups,
        candidate=candidate,
        equal_loss=found.headline,
        equal_loss_along=found.along,
        equal_loss_at_baseline=found.at_baseline,
        equal_flops=flops,
        equal_steps=steps,
        equal_data=data,
        saving=saving_by_loss(first, rows, confidence),
        fit=None if found.fit is None else _power_law(found.fit),
        confidence=confidence,
        uncertainty=uncertainty(drawn),
        one_seed=not drawn.between_seeds,
        notes=tuple(dict.fromkeys(notes)),
        scores=tuple(scores),
    )
    comparison = comparison.unclaimed_as(why_unconfirmed(groups, candidate))
    return comparison if by_steps else comparison.without_steps()


def _findings(
    theirs: Sequence[Group],
    ours: Sequence[Group],
    confidence: float,
    reasons: tuple[str, ...] = (),
    prices: Prices = _NOT_ASKED,
    law: ScalingLaw | None = None,
) -> Findings:
    baseline, candidate = tuned(theirs, ours, "baseline"), tuned(ours, theirs, "candidate")
    comparisons = sorted(
        (_compared(baseline.groups, one, confidence, law) for one in candidate.groups), key=_rank
    )
    used = comparisons[0].baseline
    unused = [one for one in baseline.groups if not any(one is other for other in used)]
    return Findings(
        baseline=(*used, *unused),
        candidate=tuple(one.candidate for one in comparisons),
        comparisons=tuple(comparisons),
        other_rates=(not_listed(baseline.others, used), candidate.others),
        reasons=reasons,
        notes=tuple(notes_on(theirs, ours)),
        prices=prices,
        clocks_compare=clocks_compare(theirs, ours),
    )


def _compared(
    theirs: Sequence[Group], ours: Group, confidence: float, law: ScalingLaw | None
) -> Comparison:
    found = compare_group(theirs, ours, confidence=confidence, law=law)
    first = found.baseline[0]
    both_tuned = None not in (first.sweep, ours.sweep)
    notes = [*found.notes, *settings_notes(first.runs[0], ours.runs[0], both_tuned)]
    return replace(found, notes=tuple(notes))


def _rank(comparison: Comparison) -> float:
    """By the candidate's final held-out loss; groups without one come last."""
    loss = final_loss(comparison.candidate)
    return math.inf if loss is None else loss


@dataclass(frozen=True)
class _EqualLosses:
    """Equal loss in its senses; None where one says nothing more."""

    headline: EqualLoss
    along: EqualLoss | None
    at_baseline: EqualLoss | None
    fit: Fit | None
    notes: list[str]


def _equal_losses(
    drawn: Resampled, candidate: Group, confidence: float, law: Fit | None
) -> _EqualLosses:
    """Which of them is the headline depends on what both sides are known to have come to."""
    first, every_length = drawn.baselines[0], _by_length(_whole(drawn.baselines))
    by_length, longest = _lower_than_shorter(every_length), every_length[-1]
    notes = no_lower_notes(every_length, by_length)
    fit = law or fit_baseline(by_length)
    inside = along_baseline(first, drawn.candidate, confidence) or along_baseline(
        _by_length(drawn.baselines)[-1], drawn.candidate, confidence
    )
    at_baseline = at_baseline_final(first, drawn.candidate, confidence)
    headline = at_candidate_final(by_length, longest, drawn.candidate, fit, confidence)
    under_way = drawn.candidate.steps[-1] < _WHOLE * candidate.num_steps
    if inside is not None and (under_way or (headline.unlike and not inside.unlike)):
        # Its own decay is yet to come, if it has one, and the baseline's whole runs had theirs.
        headline = inside
        at = f"at step {drawn.candidate.steps[-1]:,.0f} of {candidate.num_steps:,}"
        notes.append(
            f"The candidate {f'is {at}' if under_way else 'did not decay'}: equal loss is taken "
            "along the baseline's run, not over whole runs."
        )
    if headline.step_ratio.value is None and at_baseline is not None:
        headline = at_baseline
        notes.append(_AT_BASELINE)
    if headline.step_ratio.value is None:
        notes += met_unseen_notes(first, drawn.candidate)
    if headline.unlike:
        notes.append(f"Nothing is claimed at equal loss: {headline.unlike}.")
        early = _before_decay(drawn.candidate)
        early_inside = early and at_candidate_final(by_length, longest, early, fit, confidence)
        if early_inside and not early_inside.unlike and early_inside.step_ratio.value is not None:
            inside = replace(early_inside, level=BEFORE_DECAY)
    if inside is not None and (inside.where, inside.loss) == (headline.where, headline.loss):
        inside = None
    notes += equal_loss_notes(headline, fit)
    return _EqualLosses(headline, inside, at_baseline, fit, notes)


def _before_decay(rows: Rows) -> Rows | None:
    """Up to where the decay starts; None without a decay."""
    start = rows.curve.decay_start
    return None if start is None else until(rows, start)


def _whole(groups: tuple[Rows, ...]) -> tuple[Rows, ...]:
    """Those that came to their ends, which alone tell what a whole run ends with; else the first.

    A run that has not decayed yet would pass for a whole one that ended badly.
    """
    return tuple(rows for rows in groups if rows.curve.is_whole) or groups[:1]


def _by_length(groups: tuple[Rows, ...]) -> tuple[Rows, ...]:
    """One a length, ascending; of several that end at one step the first counts."""
    found: dict[float, Rows] = {}
    for rows in groups:
        found.setdefault(float(rows.steps[-1]), rows)
    return tuple(found[length] for length in sorted(found))


def _lower_than_shorter(groups: tuple[Rows, ...]) -> tuple[Rows, ...]:
    """Without those that ended no lower than a shorter one.

    Who has the steps of the longer can stop at the shorter: counted in, a poor long run would have
    every loss below its own look far away.
    """
    finals = np.array([rows.finals[0] for rows in groups])
    before = np.minimum.accumulate([np.inf, *finals])[:-1]
    return tuple(rows for rows, lower in zip(groups, finals < before, strict=True) if lower)


def _nothing(
    groups: tuple[Group, ...], candidate: Group, confidence: float, notes: list[str]
) -> Comparison:
    """Where a side has no final held-out loss."""
    none = np.array([])
    return Comparison(
        baseline=groups,
        candidate=candidate,
        equal_loss=EqualLoss(),
        equal_loss_along=None,
        equal_loss_at_baseline=None,
        equal_flops=EqualFlops(Interval(), None, False, none, none, none, none),
        equal_data=EqualData(Interval(), None),
        saving=SavingByLoss(none, none, none, none),
        fit=None,
        confidence=confidence,
        uncertainty="There is no figure, so there is no interval.",
        notes=tuple(notes),
    )


def _power_law(fit: Fit) -> PowerLaw:
    laws = fit.laws
    return PowerLaw(
        float(laws.floors[0]),
        float(laws.scales[0]),
        float(laws.exponents[0]),
        fit.fitted_on,
        laws.first_step,
        laws.last_step,
    )
