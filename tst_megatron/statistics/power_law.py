"""``floor + scale * steps**-exponent`` fitted to many perturbed copies of a curve at once.

The one idea: with the exponent held, the rest is linear least squares. So each copy is fitted at
every exponent of a grid in two matrix products, and between the best and its neighbours a parabola
gives the exponent.
"""

from dataclasses import dataclass

import numpy as np

from tst_megatron.statistics.array import Array

FEWEST = 5
"""Points below which no law is fitted: it has three numbers of its own."""
_EXPONENTS = np.geomspace(0.02, 3.0, 90)
# Parabolas that close in on the exponent: their width, in steps of the grid.
_CLOSER = (1.0, 0.3, 0.1)
_ROUNDS = 12
# Huber's constant: residuals beyond it, in standard deviations, count less and less.
_HUBER = 1.345
_MEDIAN_OF_NORMAL = 0.6744897501960817
# Shares of the points that are tried as the transient before the law holds.
_TRANSIENTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Laws:
    """A law a row.

    Attributes:
        floors: ``[rows]``, nats a token.
        scales: ``[rows]``, nats a token at step 1; 0 where a row does not fall: its law is flat.
        exponents: ``[rows]``.
        first_step: of the points they were fitted on.
        last_step: likewise.
    """

    floors: Array
    scales: Array
    exponents: Array
    first_step: float
    last_step: float

    def at(self, steps: Array) -> Array:
        """Losses ``[rows, n]`` at steps ``[n]``."""
        return np.asarray(
            self.floors[:, None]
            + self.scales[:, None] * np.exp(-self.exponents[:, None] * np.log(steps)[None, :])
        )


def fit_laws(steps: Array, curves: Array, stderrs: Array, fewest: int = FEWEST) -> Laws | None:
    """Fit every row, after the transient that the first row shows.

    The transient is the shortest share of the points without which the law's residuals are no
    larger than the points' scatter; if no share does, the one that leaves the least.

    Args:
        steps: ``[n]``, ascending.
        curves: ``[rows, n]``; the first is the curve, the others are perturbed copies.
        stderrs: ``[n]``, above 0.
        fewest: points below which there is no law; 3 meet every law that falls ever less.

    Returns:
        None with too few points, or where the curve does not fall as a law does.
    """
    use = steps >= 1
    steps, curves, stderrs = steps[use], curves[:, use], stderrs[use]
    if len(steps) < fewest or not np.isfinite(curves[0]).all():
        return None
    start, weights = (
        _after_transient(steps, curves[0], stderrs) if len(steps) >= FEWEST else (0, 1 / stderrs**2)
    )
    floors, scales, exponents = _fit(steps[start:], curves[:, start:], weights)
    if not scales[0] > 0:
        return None
    return Laws(floors, scales, exponents, float(steps[start]), float(steps[-1]))


def _after_transient(steps: Array, curve: Array, stderrs: Array) -> tuple[int, Array]:
    """Where the law starts to hold, and the points' weights from there."""
    tried = []
    for share in _TRANSIENTS:
        start = int(share * len(steps))
        if len(steps) - start < FEWEST:
            break
        weights, misfit = _robust(steps[start:], curve[start:], stderrs[start:])
        points = len(steps) - start
        tried.append((misfit, start, weights))
        # Two standard deviations of a mean square of so many normal residuals.
        if misfit <= 1 + 2 * np.sqrt(2 / points):
            return start, weights
    _, start, weights = min(tried, key=lambda entry: entry[0])
    return start, weights


def _robust(steps: Array, curve: Array, stderrs: Array) -> tuple[Array, float]:
    """Huber's weights of the points, and their weighted mean square residual in standard errors."""
    weights = 1 / stderrs**2
    misfit = np.inf
    for _ in range(_ROUNDS):
        floor, scale, exponent = _fit(steps, curve[None, :], weights)
        residuals = (curve - floor[0] - scale[0] * steps ** -exponent[0]) / stderrs
        spread = np.median(np.abs(residuals)) / _MEDIAN_OF_NORMAL
        if not np.isfinite(spread):
            return 1 / stderrs**2, np.inf
        misfit = float(spread**2)
        limit = _HUBER * max(spread, 1e-12)
        weights = np.minimum(1, limit / np.maximum(np.abs(residuals), 1e-300)) / stderrs**2
    return weights, misfit


def _fit(steps: Array, curves: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Floor, scale and exponent of each row by weighted least squares; flat where it rises."""
    weights = weights / weights.sum()
    centred = curves - (curves @ weights)[:, None]
    # Explained sum of squares of each row [rows, exponents].
    shapes = np.exp(-_EXPONENTS[:, None] * np.log(steps / steps[0])[None, :])
    shapes = shapes - (shapes @ weights)[:, None]
    shapes = shapes / np.sqrt((shapes**2) @ weights)[:, None]
    explained = ((centred * weights) @ shapes.T) ** 2
    left = (centred**2) @ weights
    left = left[:, None] - explained
    exponents = _EXPONENTS[np.argmin(left, axis=1)]
    gap = float(np.log(_EXPONENTS[1] / _EXPONENTS[0]))
    for closer in _CLOSER:
        exponents = _refined(steps, centred, weights, exponents, gap * closer)
    shape = np.exp(-exponents[:, None] * np.log(steps / steps[0])[None, :])
    middle = shape @ weights
    shape = shape - middle[:, None]
    scales = (centred * shape) @ weights / ((shape**2) @ weights)
    floors = curves @ weights - scales * middle
    scales = scales * steps[0] ** exponents
    falls = scales > 0
    mean = curves @ weights
    return np.where(falls, floors, mean), np.where(falls, scales, 0.0), exponents


def _refined(steps: Array, centred: Array, weights: Array, exponents: Array, gap: float) -> Array:
    """The lowest point of the parabola through what each exponent and its two neighbours leave."""
    explained = []
    for factor in (np.exp(-gap), 1.0, np.exp(gap)):
        shape = np.exp(-factor * exponents[:, None] * np.log(steps / steps[0])[None, :])
        shape = shape - (shape @ weights)[:, None]
        explained.append(((centred * shape) @ weights) ** 2 / ((shape**2) @ weights))
    before, here, after = explained
    bend = before - 2 * here + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend < 0, 0.5 * (before - after) / bend, 0)
    moved = exponents * np.exp(np.clip(shift, -1, 1) * gap)
    return np.asarray(np.clip(moved, _EXPONENTS[0], _EXPONENTS[-1]))
