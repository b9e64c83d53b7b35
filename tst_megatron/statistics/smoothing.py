"""A held-out curve without its scatter: parabolas fitted to neighbours, never across a segment.

The one idea: each window is as wide as lets a *line* foretell left-out points best, and then a
*parabola* is fitted in it. What bends the curve within a window is so fitted and not averaged away,
which matters where it falls steeply: after a phase switch and at the end of a decay. The widths are
chosen once; with them the smooth curve is a matrix times the losses, whatever the losses are.
"""

import numpy as np

from tst_megatron.statistics.array import Array

# Fewer points than this make a curve of straight pieces: nothing is left over to tell scatter from
# shape.
_FEWEST = 6
# Half-widths that are tried, in points; each about half as wide again as the one before.
_HALF_WIDTHS = (2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 95)
# Points on each side over which the foretelling errors are averaged: a window is not to be chosen
# by one point's luck.
_NEIGHBOURS = 6


def smoother(steps: Array, losses: Array, stderrs: Array, segments: Array) -> Array:
    """The matrix that smooths a curve.

    Args:
        steps: ``[n]``, ascending.
        losses: ``[n]``, by which the widths are chosen.
        stderrs: ``[n]``, above 0; a loss counts by one over its square.
        segments: ``[n]``, equal within a segment.

    Returns:
        ``[n, n]``; its rows sum to 1.
    """
    matrix = np.eye(len(steps))
    places = log_steps(steps)
    for segment in np.unique(segments):
        index = np.flatnonzero(segments == segment)
        if len(index) >= _FEWEST:
            matrix[np.ix_(index, index)] = _within(places[index], losses[index], stderrs[index])
    return matrix


def log_steps(steps: Array) -> Array:
    """Where steps lie on the axis on which curves are smoothed and straight between points."""
    return np.log(np.maximum(steps, 0.5))


def scatter(steps: Array, losses: Array, stderrs: Array, segments: Array) -> tuple[float, float]:
    """How far losses lie off the line between their neighbours, in standard errors.

    The root mean square over the inner points of all segments, without those beyond three times
    their median, so that a few steep pieces do not count. Where the curve bends between evaluations
    this is in it: what is not known between two points is uncertain too.

    Args:
        steps: ``[n]``, ascending.
        losses: ``[n]``.
        stderrs: ``[n]``, above 0.
        segments: ``[n]``.

    Returns:
        The scatter, and its degrees of freedom: half the points, as neighbours share points
        (18/35 for even steps: Gasser, Sroka and Jennen-Steinmetz 1986). NaN and 0 where no segment
        has three points.
    """
    places = log_steps(steps)
    inner = np.flatnonzero((segments[:-2] == segments[1:-1]) & (segments[1:-1] == segments[2:])) + 1
    if len(inner) == 0:
        return float("nan"), 0.0
    share = (places[inner] - places[inner - 1]) / (places[inner + 1] - places[inner - 1])
    off = losses[inner] - (1 - share) * losses[inner - 1] - share * losses[inner + 1]
    expected = np.sqrt(
        stderrs[inner] ** 2
        + ((1 - share) * stderrs[inner - 1]) ** 2
        + (share * stderrs[inner + 1]) ** 2
    )
    each = np.abs(off) / expected
    limit = _TRIMMED * np.median(each) / _MEDIAN_OF_NORMAL
    kept = each[each <= limit]
    return float(np.sqrt(np.mean(kept**2) / _LEFT_BY_TRIMMING)), len(inner) / 2


# The median of a standard normal variable's absolute value.
_MEDIAN_OF_NORMAL = 0.6744897501960817
# Standard deviations, and the mean square of a standard normal variable within so many.
_TRIMMED, _LEFT_BY_TRIMMING = 3.0, 0.9733


def _within(places: Array, losses: Array, stderrs: Array) -> Array:
    """The matrix of one segment."""
    widths = [width for width in _HALF_WIDTHS if width < len(places)]
    errors = np.array([_foretelling_errors(places, losses, stderrs, width) for width in widths])
    chosen = np.argmin(errors, axis=0)
    matrix = np.zeros((len(places), len(places)))
    for index, width in enumerate(widths):
        rows = chosen == index
        if rows.any():
            matrix[rows] = _local_fit(places, stderrs, width, degree=2)[rows]
    return matrix


def _foretelling_errors(places: Array, losses: Array, stderrs: Array, width: int) -> Array:
    """Mean squared error, in standard errors, of losses foretold by lines through their neighbours.

    Returns:
        ``[n]``, each a mean over the points near by.
    """
    lines = _local_fit(places, stderrs, width, degree=1)
    own = np.diagonal(lines)
    squares = ((losses - lines @ losses) / (1 - own) / stderrs) ** 2
    reach = np.minimum(_NEIGHBOURS, len(places) - 1)
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    first = np.maximum(np.arange(len(places)) - reach, 0)
    last = np.minimum(np.arange(len(places)) + reach + 1, len(places))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _local_fit(places: Array, stderrs: Array, width: int, degree: int) -> Array:
    """Rows that give the value at each point of a polynomial fitted to the points around it.

    Points count less the further off they are (tricube in their number), and by their standard
    errors. Near an end the window holds the points there are: a fit, other than a mean, does not
    lean to one side for it.
    """
    number = np.arange(len(places))
    # At an end at least so many points as the polynomial has coefficients, and one to spare.
    reach = np.maximum(width, degree + 1) + 1
    far = np.abs(number[:, None] - number[None, :]) / reach
    weights = np.clip(1 - far**3, 0, None) ** 3 / stderrs[None, :] ** 2
    offsets = places[None, :] - places[:, None]
    offsets = offsets / np.max(np.abs(offsets) * (weights > 0), axis=1, keepdims=True)
    powers = offsets[:, :, None] ** np.arange(degree + 1)
    weighted = powers * weights[:, :, None]
    moments = np.einsum("ijp,ijq->ipq", weighted, powers)
    unit = np.zeros((len(places), degree + 1, 1))
    unit[:, 0] = 1
    coefficients = np.linalg.solve(moments, unit)[:, :, 0]
    return np.asarray(np.einsum("ijp,ip->ij", weighted, coefficients))
