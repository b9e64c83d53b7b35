"""The held-out losses of a group's runs and their mean, over whatever the runs are laid over.

The one idea: seeds are averaged step by step, what they took to get there as well as the loss, so a
slow run moves its points to the right and does not bend the mean.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.runs.run import Curve
from tst_megatron.statistics.interval import Array

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Mean:
    """The mean of a group's held-out losses, at the steps at which all its runs have one.

    Attributes:
        xs: float64 ``[n]``.
        losses: float64 ``[n]``, nats a token.
        lows: the lowest run's; of a single run 95 % of its evaluation error below.
        highs: likewise above.
    """

    xs: Array
    losses: Array
    lows: Array
    highs: Array


def mean_of(group: Group, amount: str) -> Mean:
    """The mean curve of a group.

    Args:
        group: of runs.
        amount: an attribute of `Curve` to lay it over, such as ``gpu_hours``.
    """
    curves = [run.curve for run in group.runs]
    steps = reduce(np.intersect1d, [curve.steps[known(curve, amount)] for curve in curves])
    places = [np.searchsorted(curve.steps, steps) for curve in curves]
    pairs = list(zip(curves, places, strict=True))
    xs = np.mean([getattr(curve, amount)[place] for curve, place in pairs], axis=0)
    losses = np.array([curve.losses[place] for curve, place in pairs])
    if len(curves) > 1:
        return Mean(xs, losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0))
    error = _NORMAL_95 * curves[0].stderrs[places[0]]
    return Mean(xs, losses[0], losses[0] - error, losses[0] + error)


def known(curve: Curve, amount: str) -> Array:
    """Which evaluations have a loss and the amount, bool ``[n]``."""
    return np.isfinite(curve.losses) & np.isfinite(getattr(curve, amount))
