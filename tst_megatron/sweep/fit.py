"""The U: a quadratic in log s and r through the final losses, and where its bottom lies.

    loss = c0 + c1 x + c2 x² + c3 r + c4 r² + c5 x r,    x = log s

The one idea: a quadratic is true near the bottom alone, so a cell counts the less the higher it
lies: one as far above the best as the median cell counts half. The baseline is the same run at
s = 1 for every r and at r = 0 for every s; it stands at all these places, and counts as one run.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from math import log
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from tst_megatron.comparison.result import Interval
from tst_megatron.sweep.grid import Config
from tst_megatron.sweep.noise import CONFIDENCE, Noise, levelled, means_of
from tst_megatron.sweep.results import Result

Array = NDArray[np.float64]
Allowed = Callable[[Array, Array], NDArray[np.bool_]]
"""Of bag sizes ``[n]`` and shares ``[n]``, which pairs may be chosen."""

NUM_TERMS = 6
_FEWEST_CELLS = 3
_DRAWS = 1000
# Points a side of the grid's rectangle on which the bottom is looked for.
_FINE, _COARSE = 241, 61


@dataclass(frozen=True)
class Optimum:
    """The bottom of the U inside the grid.

    Attributes:
        bag_size: s, between whole numbers as the U has it.
        step_ratio: r.
        loss: there.
        gain: the baseline's loss less that.
        edges: at which edges of the grid it lies, in words.
    """

    bag_size: Interval
    step_ratio: Interval
    loss: Interval
    gain: Interval
    edges: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """A fitted U.

    Attributes:
        coefficients: c0 … c5 ``[6]``.
        draws: others that the losses allow ``[n, 6]``; empty where their scatter is not known.
        baseline: mean loss of the baselines; None without one.
        baseline_draws: likewise ``[n]``.
        sizes: smallest and largest bag size of the grid.
        ratios: smallest and largest share.
        scatter: of a run around the U, at its bottom; None where it goes through every point.
    """

    coefficients: Array
    draws: Array
    baseline: float | None
    baseline_draws: Array
    sizes: tuple[int, int]
    ratios: tuple[float, float]
    scatter: Noise | None

    def loss(self, bag_sizes: Array, step_ratios: Array) -> Array:
        """The U at bag sizes and shares, of any one shape."""
        return _terms(bag_sizes, step_ratios) @ self.coefficients

    def optimum(self, allowed: Allowed | None = None) -> Optimum | None:
        """The bottom among the pairs that are allowed; None where none is."""
        sizes, ratios = self._mesh(_FINE, allowed)
        if not len(sizes):
            return None
        lowest = int(np.argmin(self.loss(sizes, ratios)))
        size, ratio = float(sizes[lowest]), float(ratios[lowest])
        loss = float(self.loss(sizes[lowest : lowest + 1], ratios[lowest : lowest + 1])[0])
        edges = self._edges(size, ratio)
        gain = None if self.baseline is None else self.baseline - loss
        if not len(self.draws):
            return Optimum(Interval(size), Interval(ratio), Interval(loss), Interval(gain), edges)
        sizes, ratios = self._mesh(_COARSE, allowed)
        surfaces = self.draws @ _terms(sizes, ratios).T
        chosen = surfaces.argmin(axis=1)
        losses = surfaces[np.arange(len(chosen)), chosen]
        return Optimum(
            _interval(size, sizes[chosen]),
            _interval(ratio, ratios[chosen]),
            _interval(loss, losses),
            Interval() if gain is None else _interval(gain, self.baseline_draws - losses),
            edges,
        )

    def _mesh(self, points: int, allowed: Allowed | None) -> tuple[Array, Array]:
        """Bag sizes and shares ``[n]`` all over the grid's rectangle."""
        logs = np.linspace(log(self.sizes[0]), log(self.sizes[1]), points)
        shares = np.linspace(*self.ratios, points)
        sizes, ratios = (axis.ravel() for axis in np.meshgrid(np.exp(logs), shares))
        if allowed is None:
            return sizes, ratios
        is_allowed = allowed(sizes, ratios)
        return sizes[is_allowed], ratios[is_allowed]

    def _edges(self, size: float, ratio: float) -> tuple[str, ...]:
        """A grid of one value has no edges in it."""
        step = (log(self.sizes[1]) - log(self.sizes[0])) / _FINE
        found = []
        for value, (low, high), tolerance, words in (
            (log(size), (log(self.sizes[0]), log(self.sizes[1])), step, _SIZE_EDGES),
            (ratio, self.ratios, (self.ratios[1] - self.ratios[0]) / _FINE, _RATIO_EDGES),
        ):
            if high > low and value - low < tolerance:
                found.append(words[0])
            if high > low and high - value < tolerance:
                found.append(words[1])
        return tuple(found)


_SIZE_EDGES = ("the smallest bag size", "the largest bag size")
_RATIO_EDGES = ("the smallest share", "the largest share")


def fit_u(results: Sequence[Result], noise: Noise | None) -> Fit | None:
    """Fit the U.

    Args:
        results: of all runs, baselines among them; a run that diverged is left out.
        noise: what is known of a run's scatter from elsewhere: the intervals are of this or of the
            scatter around the U, whichever is wider.

    Returns:
        None where there are fewer than three cells, or no spread in one of them.
    """
    runs = levelled(results)
    cells = [result for result in runs if not result.config.is_baseline]
    baselines = [result for result in runs if result.config.is_baseline]
    if len({result.config for result in cells}) < _FEWEST_CELLS:
        return None
    points = _points(cells, baselines)
    root = np.sqrt(points.weights)
    weighted, losses = root[:, None] * points.terms, root * points.losses
    coefficients, _, rank, _ = np.linalg.lstsq(weighted, losses, rcond=None)
    # Every seed's level but one's has been estimated as well.
    dof = len(runs) - int(rank) - (len({result.seed for result in runs}) - 1)
    scatter = None
    if dof > 0:
        squares = float(np.square(losses - weighted @ coefficients).sum())
        scatter = Noise(float(np.sqrt(squares / dof)), dof, "the scatter around the fitted U")
    baseline = fmean(result.loss for result in baselines) if baselines else None
    draws, baseline_draws = np.empty((0, NUM_TERMS)), np.empty(0)
    widest = max((n for n in (scatter, noise) if n), key=lambda n: n.sd, default=None)
    if widest is not None and widest.sd > 0:
        rng = np.random.default_rng(0)
        spread = _spread(widest, rng)
        draws = coefficients + spread[:, None] * _unit_errors(weighted, rng)
        if baseline is not None:
            errors = rng.standard_normal(_DRAWS) / np.sqrt(len(baselines))
            baseline_draws = baseline + spread * errors
    sizes = [result.config.bag_size for result in cells]
    ratios = [result.config.step_ratio for result in cells]
    return Fit(
        coefficients,
        draws,
        baseline,
        baseline_draws,
        (min(sizes), max(sizes)),
        (min(ratios), max(ratios)),
        scatter,
    )


@dataclass(frozen=True)
class _Points:
    """Losses ``[n]``, the terms that make them ``[n, 6]``, weights ``[n]``."""

    terms: Array
    losses: Array
    weights: Array


def _points(cells: Sequence[Result], baselines: Sequence[Result]) -> _Points:
    sizes = sorted({result.config.bag_size for result in cells})
    ratios = sorted({result.config.step_ratio for result in cells})
    places = [*((size, 0.0) for size in sizes), *((1, ratio) for ratio in ratios)]
    # A run counts by its cell's mean: by its own loss, lucky runs would count more than others.
    means = {config: mean for config, (mean, _) in means_of((*cells, *baselines)).items()}
    of_cells = [mean for config, mean in means.items() if not config.is_baseline]
    best, half = min(of_cells), float(np.median(of_cells)) - min(of_cells)

    def weight(config: Config) -> float:
        return 1.0 / (1.0 + ((means[config] - best) / half) ** 2) if half > 0 else 1.0

    rows = [(*astuple(r.config), r.loss, weight(r.config)) for r in cells] + [
        (size, ratio, r.loss, weight(r.config) / len(places))
        for r in baselines
        for size, ratio in places
    ]
    columns = zip(*rows, strict=True)
    bag_sizes, step_ratios, losses, weights = (np.array(column, float) for column in columns)
    return _Points(_terms(bag_sizes, step_ratios), losses, weights)


def _terms(bag_sizes: Array, step_ratios: Array) -> Array:
    x, r = np.log(bag_sizes), np.asarray(step_ratios)
    return np.stack([np.ones_like(x), x, x * x, r, r * r, x * r], axis=-1)


def _unit_errors(weighted: Array, rng: np.random.Generator) -> Array:
    """Errors ``[n, 6]`` of coefficients whose losses scatter by 1; none where nothing is said."""
    _, sizes, directions = np.linalg.svd(weighted, full_matrices=False)
    said = sizes > sizes[0] * np.finfo(float).eps * max(weighted.shape)
    normal = rng.standard_normal((_DRAWS, int(said.sum())))
    errors: Array = (normal / sizes[said]) @ directions[said]
    return errors


def _spread(noise: Noise, rng: np.random.Generator) -> Array:
    """Standard deviations ``[n]`` that an estimate with so few degrees of freedom allows."""
    if noise.dof == float("inf"):
        return np.full(_DRAWS, noise.sd)
    return noise.sd / np.sqrt(rng.chisquare(noise.dof, _DRAWS) / noise.dof)


def _interval(value: float, draws: Array) -> Interval:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # The mesh of the draws is coarser than the value's.
    return Interval(value, min(value, float(low)), max(value, float(high)))
