"""What a reader should know of a comparison's figures, a sentence each.

The one idea: a sentence is there only where it applies, and says what that does to the figure.
"""

from collections.abc import Sequence

import numpy as np

from tst_megatron.analysis.compare.courses import Fit
from tst_megatron.analysis.compare.equal_budget import step_of
from tst_megatron.analysis.compare.equal_loss import BY_LAW
from tst_megatron.analysis.compare.group_curve import GroupCurve, is_untrained
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.result import EqualLoss
from tst_megatron.analysis.compare.rows import Resampled, Rows

_BUDGETS = {"flops": "FLOPs", "steps": "steps", "data_tokens": "data tokens"}


def reading_notes(groups: Sequence[Group], curves: Sequence[GroupCurve | None]) -> list[str]:
    """What could not be used of the runs.

    Args:
        groups: all of them.
        curves: what they gave; groups without a curve have None or are not among them.
    """
    notes = []
    found = {id(curve.group): curve for curve in curves if curve is not None}
    for group in groups:
        for run in group.runs:
            bad = int((~np.isfinite(run.curve.losses)).sum())
            if len(run.curve.losses) == 0:
                notes.append(f"{run.name} has no held-out loss and is left out.")
            elif not np.isfinite(run.curve.losses[-1]):
                notes.append(
                    f"{run.name} ends with a held-out loss that is not a number and is left out: "
                    "figures are of the runs that did not."
                )
            elif is_untrained(run):
                notes.append(
                    f"{run.name} has no held-out loss but the one at step 0, before any training, "
                    "and is left out."
                )
            elif bad:
                notes.append(
                    f"Held-out losses of {run.name} that are not numbers: {bad}. A loss counts as "
                    "reached for good only after the last of them."
                )
        curve = found.get(id(group))
        if curve is None:
            notes.append(f"There is no final held-out loss of {group.name}.")
        else:
            notes += _length_notes(group, curve)
    return notes


def equal_loss_notes(headline: EqualLoss, fit: Fit | None) -> list[str]:
    """How the headline's figure of the baseline came about."""
    # A law that was given is of whole runs; what is said of one of a curve does not go for it.
    given = fit is not None and fit.notes is not None
    notes = [*((fit and fit.notes) or ())]
    if headline.extrapolated and fit is not None:
        steps = headline.baseline.steps.value or 0.0
        notes.append(
            f"The baseline did not get to the candidate's final loss: the {steps:,.0f} steps that "
            f"it would need are extrapolated, by a power law fitted on {fit.fitted_on}."
        )
    if headline.extrapolated and headline.where == BY_LAW and not given:
        notes.append(
            "Measure a longer baseline before you rely on that: in this project's own study, with "
            "its longer runs left out, such figures came out 2 to 3 times too high."
        )
    if headline.by_clock_alone:
        notes.append(
            "Hours show a difference that operations do not: steps of one side took longer than "
            "the other's, so the first sentence is not of hours."
        )
    if headline.where == BY_LAW and given:
        notes.append(
            "The loss that a whole baseline run of another length ends with is the scaling law's, "
            "moved to meet what the measured run ended with."
        )
    elif headline.where == BY_LAW:
        notes.append(
            "The loss that a whole baseline run of another length ends with is the power law's at "
            "that length, less what the measured run ended below the law: its decay is taken to "
            "lower the loss as much at every length."
        )
    if headline.at_least:
        notes.append(
            "The baseline's longest run did not get to the candidate's final loss, and no power "
            "law says when a longer one would: the ratios and the baseline's figures are lower "
            "bounds."
        )
    if headline.rough:
        notes.append(
            "The baseline's learning rate decays nearly all along, so the law of one run's curve "
            "is a rough guide to runs of other lengths, and the interval does not know how rough: "
            "run the baseline in other lengths to measure instead."
        )
    return notes


def no_lower_notes(groups: Sequence[Rows], used: Sequence[Rows]) -> list[str]:
    """Which whole runs say nothing of what more steps are good for.

    Args:
        groups: of the baseline, one a length, ascending.
        used: those of them that ended lower than every shorter one.
    """
    return [
        f"The baseline's run of {rows.steps[-1]:,.0f} steps ended no lower ({rows.finals[0]:.3f}) "
        "than a shorter one: equal loss over whole runs is without it, as what it needed more "
        "steps for is not the loss."
        for rows in groups
        if not any(rows is other for other in used)
    ]


def met_unseen_notes(baseline: Rows, candidate: Rows) -> list[str]:
    """Which side had the other's final loss before it was first evaluated."""
    return [
        f"{one} had {other}'s final loss at its first evaluation: when it got there is not known, "
        "so no equal-loss figure can be told. Evaluate more often."
        for one, rows, other, others in (
            ("The baseline", baseline, "the candidate", candidate),
            ("The candidate", candidate, "the baseline", baseline),
        )
        if max(rows.losses[0, 0], rows.finals[0]) <= others.finals[0]
    ]


def equal_budget_notes(
    name: str, at: float | None, baseline: Rows | None, candidate: Rows, unlike: str
) -> list[str]:
    """Where in their runs the sides are when they have spent as much.

    Args:
        name: of what is spent, a column of a curve.
        at: how much of it; None where the sides share no amount.
        baseline: the group that the figure is of.
        candidate: the group that is compared with it.
        unlike: why the losses are not alike.
    """
    if baseline is None or at is None:
        return []
    words = f"At equal {_BUDGETS[name]}"
    notes = []
    for side, rows in (("the baseline", baseline), ("the candidate", candidate)):
        step, last = step_of(rows, name, at), float(rows.steps[-1])
        if step < (1 - _AT_END) * last:
            notes.append(
                f"{words} {side} is at step {step:,.0f} of {last:,.0f}{_stage(rows, step)}, not at "
                "the end of a run of its own."
            )
    if unlike:
        notes.append(f"{words} nothing is claimed: {unlike}.")
    return notes


def uncertainty(drawn: Resampled) -> str:
    """Where the intervals come from, one sentence."""
    if not drawn.between_seeds:
        if not all(rows.curve.freedom for rows in (*drawn.baselines, drawn.candidate)):
            return (
                "One seed a side, too few evaluations to see their scatter and no standard errors: "
                "no interval can be told."
            )
        return (
            "One seed a side: intervals come from the error of the evaluations; the spread from "
            "seed to seed is not in them."
        )
    pairs = (
        "runs of the same seed are compared as pairs"
        if drawn.paired
        else "the sides are taken to be independent"
    )
    told = (
        "Intervals come from the spread between seeds, evaluation error included, by a bootstrap "
        f"widened for the small number of seeds (Student's t); {pairs}"
    )
    if drawn.borrowed:
        told += f"; {' and '.join(drawn.borrowed)} "
        told += (
            "has one seed and is taken to spread as the other runs do"
            if len(drawn.borrowed) == 1
            else "have one seed each and are taken to spread as the other runs do"
        )
    return f"{told}."


# A share of a run that is as good as its end.
_AT_END = 0.01


def _length_notes(group: Group, curve: GroupCurve) -> list[str]:
    """Runs that ended apart, or before their end."""
    notes = [
        f"{run.name} has its last held-out loss at step {run.curve.steps[-1]:,.0f} of "
        f"{run.num_steps:,} and is left out: other runs of {group.name} came to their end."
        for run in group.runs
        if run.curve.losses[-1:].size
        and np.isfinite(run.curve.losses[-1])
        and not is_untrained(run)
        and not any(run is used for used in curve.runs)
    ]
    lasts = [float(run.curve.steps[-1]) for run in curve.runs]
    if min(lasts) != max(lasts):
        return [
            *notes,
            f"The runs of {group.name} end at steps {min(lasts):,.0f} to {max(lasts):,.0f}: they "
            "are compared up to the first of these.",
        ]
    if lasts[0] < group.num_steps:
        so_far = "" if curve.is_whole else ", so it is not taken for a whole run"
        return [
            *notes,
            f"The last evaluation of {group.name} is at step {lasts[0]:,.0f} of "
            f"{group.num_steps:,}: its final loss is the one there{so_far}.",
        ]
    return notes


def _stage(rows: Rows, step: float) -> str:
    """The stage that a step lies in, in words; nothing for ordinary training."""
    for span in rows.curve.runs[0].stages:
        if span.first_step <= step <= span.last_step and not span.stage.is_ordinary:
            return f", in its stage of {span.stage.name}"
    return ""
