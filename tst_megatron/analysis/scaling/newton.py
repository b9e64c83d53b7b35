"""Huber's loss of a log-sum-exp, at its least: damped Newton steps for many rows at once.

The one idea: the terms are linear in what is sought, so gradient and Hessian are the terms' shares
times fixed columns: matrix products over rows, be they starts, bootstraps or runs left out. Every
row has its own damping and stops by its own test, and rows that are done cost nothing.

With terms ``t_i = X_i theta``, shares ``p_i = exp(t_i) / sum`` and r the residual of the logarithm,

    gradient = sum_runs w psi(r) sum_i p_i X_i
    Hessian  = sum_runs w [(psi'(r) - psi(r)) (sum_i p_i X_i)(sum_i p_i X_i)^T
                           + psi(r) sum_i p_i X_i X_i^T]
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tst_megatron.statistics.array import Array

MOST_STEPS = 200
# Half of the squared Newton decrement over the objective: what a step would still gain, as a share.
# At 1e-12 of it a row of 240 runs is within sqrt(240e-12) = 1.5e-5 standard errors of its minimum.
_RELATIVE_DECREMENT = 1e-12
# Residuals that are the rounding of a loss and nothing else: there is no more to gain.
_ROUNDING = 1e-13
# Curvature below this share of the largest is none.
_FLAT = 1e-13
# Damping in shares of the largest curvature: the first, its growth where a step failed, its fall
# where one did not, and where a row is given up.
_DAMPING, _HARDER, _EASIER, _STUCK = 1e-4, 8.0, 0.1, 1e8
# Longest step of anything sought: logarithms and exponents, in which 2 is far.
_LONGEST = 2.0
# Values of one array that the processor's second-level cache keeps beside a dozen others.
_BLOCK = 2**13
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@dataclass(frozen=True)
class Minimum:
    """The least of each row.

    Attributes:
        sought: ``[rows, P]``.
        objective: ``[rows]``, sum over runs of weight times Huber's loss.
        converged: bool ``[rows]``: a Newton step would gain less than a share of 1e-12.
        steps: int ``[rows]``, accepted or not.
    """

    sought: Array
    objective: Array
    converged: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class Terms:
    """The columns of the three terms.

    Attributes:
        columns: X ``[3, runs, P]``.
    """

    columns: Array

    @cached_property
    def pairs(self) -> tuple[Array, ...]:
        """``X_i X_j^T`` of each pair, its transpose with it where i is not j: ``[runs, P P]``."""
        found = []
        for i, j in _PAIRS:
            outer = self.columns[i][:, :, None] * self.columns[j][:, None, :]
            both = outer if i == j else outer + outer.transpose(0, 2, 1)
            found.append(np.ascontiguousarray(both.reshape(len(outer), -1)))
        return tuple(found)


@dataclass(frozen=True)
class Objective:
    """Huber's loss of ``ln sum_i exp(X_i theta) - target``, summed over runs.

    Attributes:
        terms: X.
        target: ``[runs]``, or ``[rows, runs]``: logarithms of losses.
        weights: ``[runs]``, or ``[rows, runs]``.
        delta: where Huber's loss turns from half the square to ``delta (|r| - delta / 2)``;
            infinite for least squares.
    """

    terms: Terms
    target: Array
    weights: Array
    delta: float

    def of_rows(self, rows: np.ndarray) -> "Objective":
        """Of some of the rows."""
        target, weights = (
            array if array.ndim == 1 else array[rows] for array in (self.target, self.weights)
        )
        return replace(self, target=target, weights=weights)

    def value(self, sought: Array) -> Array:
        """``[rows]`` at ``[rows, P]``."""
        return self._huber(self.residuals(sought))

    def residuals(self, sought: Array) -> Array:
        """The law's logarithm less the target, ``[rows, runs]``."""
        with np.errstate(all="ignore"):
            return np.asarray(self._shares(sought)[1] - self.target)

    def expansion(self, sought: Array) -> tuple[Array, Array, Array]:
        """Value ``[rows]``, gradient ``[rows, P]``, Hessian ``[rows, P, P]`` at ``[rows, P]``."""
        rows, size = sought.shape
        value, gradient = np.empty(rows), np.empty((rows, size))
        hessian = np.empty((rows, size, size))
        block = max(1, _BLOCK // self.terms.columns.shape[1])
        with np.errstate(all="ignore"):
            for start in range(0, rows, block):
                part = slice(start, start + block)
                piece = self.of_rows(np.arange(rows)[part])
                value[part], gradient[part], flat = piece._expand(sought[part])
                hessian[part] = flat.reshape(-1, size, size)
        return value, gradient, hessian

    def _expand(self, sought: Array) -> tuple[Array, Array, Array]:
        shares, logarithm = self._shares(sought)
        residuals = logarithm - self.target
        inside = np.abs(residuals) <= self.delta
        push = self.weights * np.clip(residuals, -self.delta, self.delta)
        bend = self.weights * inside - push
        pushed = [push * share for share in shares]
        gradient = sum(p @ x for p, x in zip(pushed, self.terms.columns, strict=True))
        bent = [bend * share for share in shares]
        flat = np.zeros((len(sought), sought.shape[1] ** 2))
        for (i, j), columns in zip(_PAIRS, self.terms.pairs, strict=True):
            both = bent[i] * shares[j]
            flat += (both + pushed[i] if i == j else both) @ columns
        return self._huber(residuals), np.asarray(gradient), flat

    def _shares(self, sought: Array) -> tuple[list[Array], Array]:
        sizes = [np.exp(sought @ x.T) for x in self.terms.columns]
        total = sizes[0] + sizes[1] + sizes[2]
        return [size / total for size in sizes], np.log(total)

    def _huber(self, residuals: Array) -> Array:
        if np.isinf(self.delta):
            losses = residuals**2 / 2
        else:
            inside = np.clip(residuals, -self.delta, self.delta)
            losses = inside * (residuals - inside / 2)
        return np.asarray((self.weights * losses).sum(axis=1))


def minimise(objective: Objective, start: Array, most_steps: int = MOST_STEPS) -> Minimum:
    """Damped Newton steps from ``[rows, P]``, each row until its own convergence.

    Negative curvature counts as its size, so that a step always goes down. A step that does not
    lower the objective is not taken, and the row's damping grows.
    """
    sought, least = np.array(start, float), np.full(len(start), np.inf)
    converged, steps = np.zeros(len(start), bool), np.zeros(len(start), int)
    rows = np.arange(len(start))
    walk = _Walk.begin(objective.of_rows(rows), sought)
    for _ in range(most_steps):
        floor = _ROUNDING**2 * np.broadcast_to(walk.objective.weights, walk.runs).sum(axis=1)
        enough = np.maximum(_RELATIVE_DECREMENT * walk.value, floor)
        done = np.isfinite(walk.value) & (walk.decrement <= enough)
        over = done | ~(walk.damping < _STUCK)
        sought[rows], least[rows] = walk.sought, walk.value
        converged[rows] = done
        if over.all():
            break
        if over.any():
            rows, walk = rows[~over], walk.keep(~over)
        steps[rows] += 1
        walk = walk.step()
    else:
        sought[rows], least[rows] = walk.sought, walk.value
    return Minimum(sought, least, converged, steps)


@dataclass
class _Walk:
    """Rows on their way: where they are, and the curvature there by its axes."""

    objective: Objective
    sought: Array
    value: Array
    along: Array
    curvature: Array
    axes: Array
    damping: Array

    @classmethod
    def begin(cls, objective: Objective, sought: Array) -> "_Walk":
        value, gradient, hessian = objective.expansion(sought)
        along, curvature, axes = _by_axes(gradient, hessian)
        damping = np.where(np.isfinite(value), 0.0, np.inf)
        return cls(objective, sought.copy(), value, along, curvature, axes, damping)

    @property
    def runs(self) -> tuple[int, int]:
        return len(self.sought), self.objective.terms.columns.shape[1]

    @property
    def decrement(self) -> Array:
        """What an undamped step would gain, by the quadratic ``[rows]``."""
        return np.asarray((self.along**2 / self.curvature).sum(axis=1) / 2)

    def keep(self, rows: np.ndarray) -> "_Walk":
        numbers = (self.value, self.along, self.curvature, self.axes, self.damping)
        return _Walk(
            self.objective.of_rows(np.flatnonzero(rows)),
            self.sought[rows],
            *(number[rows] for number in numbers),
        )

    def step(self) -> "_Walk":
        hardness = self.curvature + self.damping[:, None] * self.curvature.max(axis=1)[:, None]
        move = -np.einsum("rpk,rk->rp", self.axes, self.along / hardness)
        longest = np.abs(move).max(axis=1)
        move *= np.minimum(1, _LONGEST / np.maximum(longest, _LONGEST))[:, None]
        tried = self.sought + move
        value, gradient, hessian = self.objective.expansion(tried)
        better = value < self.value
        along, curvature, axes = _by_axes(gradient[better], hessian[better])
        self.damping = np.where(
            better, self.damping * _EASIER, np.maximum(self.damping * _HARDER, _DAMPING)
        )
        self.damping[self.damping < _DAMPING * _EASIER] = 0
        self.sought[better], self.value[better] = tried[better], value[better]
        self.along[better], self.curvature[better], self.axes[better] = along, curvature, axes
        return self


def _by_axes(gradient: Array, hessian: Array) -> tuple[Array, Array, Array]:
    """Gradient along the Hessian's axes, sizes of its curvatures, and the axes."""
    bad = ~(np.isfinite(gradient).all(axis=1) & np.isfinite(hessian).all(axis=(1, 2)))
    hessian[bad], gradient[bad] = 0, 0
    values, axes = np.linalg.eigh(hessian)
    curvature = np.abs(values)
    largest = curvature.max(axis=1, keepdims=True)
    curvature = np.maximum(curvature, np.maximum(_FLAT * largest, np.finfo(float).tiny))
    return np.einsum("rpk,rp->rk", axes, gradient), curvature, axes
