"""The loss after N steps, in the senses in which a baseline can need N steps.

The one idea: along a run it is the curve; over whole runs, each with a decay of its own, it is the
final loss of a run of N steps. Both are a loss over steps, so both are crossed alike. Where N was
not run, a power law gives the shape, and what was measured gives the place.
"""

from dataclasses import dataclass

import numpy as np

from tst_megatron.analysis.compare.rows import Rows
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.crossing import crossing_steps
from tst_megatron.statistics.power_law import FEWEST, Laws, fit_laws

FURTHEST = 10.0
"""How many times the longest run a law is believed for; what lies beyond counts as never."""
# Points of a course that a law draws; straight pieces between them are exact to 1e-4 of a step.
_DRAWN = 300
# A stable phase shorter than this share of its run says little about longer runs.
_LEAST_STABLE = 1 / 3
# A shorter whole run than this share of the shortest one is not worked out.
_SHORTEST = 0.1


@dataclass(frozen=True)
class Course:
    """A loss over steps, in copies.

    Attributes:
        steps: ``[n]``, ascending.
        losses: ``[rows, n]``.
        measured: the largest number of steps that was run.
        whole_runs: a point is the final loss of a run of that length; else a point along a run.
        lengths: of the whole runs it is held by.
    """

    steps: Array
    losses: Array
    measured: float
    whole_runs: bool = False
    lengths: tuple[float, ...] = ()

    def crossing(self, levels: Array) -> Array:
        """Steps ``[rows]`` to the levels ``[rows]``, infinite where they are not got to."""
        return crossing_steps(self.steps, self.losses, levels)


@dataclass(frozen=True)
class Fit:
    """A law and what it was fitted on, in words.

    Attributes:
        laws: of the copies.
        fitted_on: in words.
        rough: it was fitted on a curve with a decay in it, which is no law's: what it says of whole
            runs is a guess.
        notes: what is to be known of a law of whole runs, a sentence each; None for a law of the
            baseline's own curve or runs.
    """

    laws: Laws
    fitted_on: str
    rough: bool = False
    notes: tuple[str, ...] | None = None


def along(rows: Rows) -> Course:
    """The run's own curve; before an evaluation that was not a number nothing is for good."""
    losses = np.where(rows.steps > rows.curve.last_bad, rows.losses, np.inf)
    return Course(rows.steps, losses, float(rows.steps[-1]))


def extended(rows: Rows, laws: Laws) -> Course:
    """The run's own curve, and from its end on the law, moved to start where the curve ends."""
    run, end = along(rows), float(rows.steps[-1])
    beyond = np.geomspace(end, FURTHEST * end, _DRAWN)[1:]
    moved = rows.finals - laws.at(rows.steps[-1:])[:, 0]
    return Course(
        np.concatenate([rows.steps, beyond]),
        np.hstack([run.losses, laws.at(beyond) + moved[:, None]]),
        end,
    )


def whole_runs(groups: tuple[Rows, ...], laws: Laws | None) -> Course | None:
    """The final loss of a whole run of N steps.

    In a copy in which a longer run ended higher than a shorter one it counts as the shorter did:
    who has the steps of the longer can stop at the shorter.

    The path is the law at N less what a run ends below it, which is measured at each length:
    between two lengths it is straight over the logarithm of the length, outside them it is the
    nearest one's. Without a law, straight between the lengths' final losses, and no further.

    Args:
        groups: one a length, ascending.
        laws: the shape; None to draw straight lines.

    Returns:
        None where there is neither a law nor a second length.
    """
    lengths = np.array([rows.steps[-1] for rows in groups])
    finals = np.minimum.accumulate(np.array([rows.finals for rows in groups]), axis=0).T
    if laws is None:
        if len(groups) < 2:
            return None
        return Course(lengths, finals, float(lengths[-1]), True, tuple(lengths))
    # Points that the law left out below the shortest length were no law's. With none below it, as
    # of a law of whole runs, it goes on: else no copy could need less than the shortest length.
    transient = laws.first_step if laws.first_step < lengths[0] else 0.0
    first = max(transient, _SHORTEST * lengths[0])
    steps = np.unique([*np.geomspace(first, FURTHEST * lengths[-1], _DRAWN), *lengths])
    off = finals - laws.at(lengths)
    places, knots = np.log(steps), np.log(lengths)
    right = np.clip(np.searchsorted(knots, places), 0, len(knots) - 1)
    left = np.where(places < knots[right], np.maximum(right - 1, 0), right)
    gap = knots[right] - knots[left]
    share = np.where(gap > 0, (places - knots[left]) / np.where(gap > 0, gap, 1), 0)
    moved = (1 - share) * off[:, left] + share * off[:, right]
    losses = laws.at(steps) + moved
    return Course(steps, losses, float(lengths[-1]), True, tuple(lengths))


def fit_baseline(groups: tuple[Rows, ...]) -> Fit | None:
    """The baseline's law: over whole runs with three lengths or more, else of a run's own curve.

    Of a curve with a decay at its end the law is that of the phase before it; where the rate
    decays nearly all along, or it is not known whether it does, that of the whole curve.

    Args:
        groups: one a length, ascending.
    """
    if len(groups) > 2:
        lengths = np.array([rows.steps[-1] for rows in groups])
        finals = np.array([rows.finals for rows in groups]).T
        stderrs = np.array([rows.curve.stderrs[-1] for rows in groups])
        laws = fit_laws(lengths, finals, stderrs, fewest=3)
        if laws is not None:
            return Fit(laws, f"the final losses of whole runs of {len(groups)} lengths")
    rows = groups[-1]
    start = rows.curve.decay_start
    stable = rows.steps <= (np.inf if start is None else start)
    if start is not None and start >= _LEAST_STABLE * rows.steps[-1] and stable.sum() >= FEWEST:
        what = "the stable phase of the baseline's curve"
        start = None
    else:
        stable, what = np.full(len(rows.steps), True), "the baseline's curve"
    laws = fit_laws(rows.steps[stable], rows.points[:, stable], rows.curve.stderrs[stable])
    return None if laws is None else Fit(laws, what, rough=start is not None)
