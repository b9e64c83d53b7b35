"""The U: a quadratic in log s and r through the final losses, and where its bottom lies.

    loss = c0 + c1 x + c2 x² + c3 r + c4 r² + c5 x r,    x = log s

The one idea: a quadratic is true near the bottom alone, so a cell counts the less the higher it
lies: one as far above the best as the median cell counts half. The baseline, s = 1 or r = 0, is far
from the bottom and no part of the U; what the cells themselves do not say, the fit does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isclose, log
from statistics import fmean

import numpy as np

from tst_megatron.methods import search
from tst_megatron.methods.search import Allowed, Limit, has_ends
from tst_megatron.methods.superposition.axes import SHARE, SIZE, Pair
from tst_megatron.runs.noise import CONFIDENCE, Noise, means_of, parted
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval

NUM_TERMS = 6
_FEWEST_CELLS = 3
_DRAWS = 1000
# Points a side of the grid's rectangle on which the bottom is looked for.
_FINE, _COARSE = 241, 61
# Of terms of the order of 1: a direction that is not told is off by as much.
_CLOSE = 1e-6


@dataclass(frozen=True)
class Optimum(search.Optimum):
    """The bottom of the U inside the rectangle of the cells.

    Where an interval comes to an edge of it, nothing was run beyond to end it: that end is None.

    Attributes:
        bag_size: s, between whole numbers as the U has it.
        step_ratio: r.
    """

    bag_size: Interval
    step_ratio: Interval


@dataclass(frozen=True)
class FittedU(search.Fit):
    """A fitted U.

    Attributes:
        coefficients: c0 … c5 ``[6]``.
        draws: others that the losses allow ``[n, 6]``; empty where their scatter is not known.
        baseline: mean loss of the baselines; None without one.
        baseline_draws: likewise ``[n]``.
        sizes: smallest and largest bag size of the cells.
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

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """Of s and of r."""
        return self.sizes, self.ratios

    def named_coefficients(self) -> dict[str, float]:
        """As in ``report.json``."""
        names = ("1", "log s", "(log s)^2", "r", "r^2", "r log s")
        return dict(zip(names, map(float, self.coefficients), strict=True))

    def loss(self, *places: Array) -> Array:
        """The U at bag sizes and shares, of any one shape."""
        bag_sizes, step_ratios = places
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
            return Optimum(
                loss=Interval(loss),
                gain=Interval(gain),
                edges=edges,
                bag_size=Interval(size),
                step_ratio=Interval(ratio),
            )
        sizes, ratios = self._mesh(_COARSE, allowed)
        surfaces = self.draws @ _terms(sizes, ratios).T
        chosen = surfaces.argmin(axis=1)
        losses = surfaces[np.arange(len(chosen)), chosen]
        return Optimum(
            loss=_of_lowest(loss, losses),
            gain=Interval() if gain is None else _of_lowest(gain, self.baseline_draws - losses),
            edges=edges,
            bag_size=_of_place(size, sizes[chosen], self.sizes),
            step_ratio=_of_place(ratio, ratios[chosen], self.ratios),
        )

    def recommended(self, optimum: Optimum, limit: Limit | None) -> Pair:
        """A whole bag size and a share of whole percents beside the optimum, within the text."""
        size, ratio = optimum.bag_size.value or 0.0, optimum.step_ratio.value or 0.0
        # To the tolerance of logarithms and of shares: 4 must not become 3 or 5.
        sizes = {floor(size + 1e-9), ceil(size - 1e-9)}
        if has_ends(optimum.bag_size) and all(map(optimum.bag_size.holds, sizes)):
            # The two cannot be told apart, and the smaller reads less text.
            sizes = {min(sizes)}
        percents = {floor(100 * ratio + 1e-9), ceil(100 * ratio - 1e-9)}
        low, high = self.ratios
        # A share of the grid may be no whole percent, and beyond the grid nothing was run.
        shares = {min(max(p / 100, low), high) for p in percents}
        near = [Pair(size, share) for size in sizes for share in shares]
        # Rounded down, both need no more text than the optimum.
        within = [pair for pair in near if limit is None or limit.holds(pair)] or [min(near)]

        def predicted(pair: Pair) -> tuple[float, float]:
            loss = self.loss(np.array([float(pair.bag_size)]), np.array([pair.step_ratio]))
            return float(loss[0]), abs(log(pair.bag_size / size))

        return min(within, key=predicted)

    def _mesh(self, points: int, allowed: Allowed | None) -> tuple[Array, Array]:
        """Bag sizes and shares ``[n]`` all over the rectangle."""
        sizes, ratios = _rectangle(self.sizes, self.ratios, points)
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


def fit_u(outcomes: Sequence[Outcome], noise: Noise | None) -> FittedU | None:
    """Fit the U.

    Args:
        outcomes: of all runs, baselines among them; a cell with a run that diverged is left out.
        noise: what is known of a run's scatter from elsewhere: the intervals are of this or of the
            scatter around the U, whichever is wider.

    Returns:
        None where the cells leave the U open somewhere between them, as with fewer than three
        values of what has several.
    """
    parts = parted(outcomes)
    cells = [run for run in parts.runs if not run.choice.is_baseline]
    baselines = [run for run in parts.runs if run.choice.is_baseline]
    if len({run.choice for run in cells}) < _FEWEST_CELLS:
        return None
    bag_sizes = np.array([SIZE.of(run.choice) for run in cells])
    step_ratios = np.array([SHARE.of(run.choice) for run in cells])
    sizes = int(bag_sizes.min()), int(bag_sizes.max())
    ratios = float(step_ratios.min()), float(step_ratios.max())
    terms, weights = _terms(bag_sizes, step_ratios), _weights(cells)
    solver, told = _solver(terms, weights)
    wanted = _terms(*_rectangle(sizes, ratios, 3))
    if float(np.abs(wanted - wanted @ told).max()) > _CLOSE:
        return None
    losses = np.array([run.loss for run in cells])
    coefficients = solver @ losses
    scatter = _scatter(terms, weights, losses, parts.num_levels) if parts.is_joined else None
    baseline = fmean(run.loss for run in baselines) if baselines else None
    draws, baseline_draws = np.empty((0, NUM_TERMS)), np.empty(0)
    widest = max((n for n in (scatter, noise) if n), key=lambda n: n.sd, default=None)
    if widest is not None and widest.sd > 0:
        rng = np.random.default_rng(0)
        spread = _spread(widest, rng)
        errors = rng.standard_normal((_DRAWS, len(cells))) @ solver.T
        draws = coefficients + spread[:, None] * errors
        if baseline is not None:
            of_mean = rng.standard_normal(_DRAWS) / np.sqrt(len(baselines))
            baseline_draws = baseline + spread * of_mean
    return FittedU(coefficients, draws, baseline, baseline_draws, sizes, ratios, scatter)


def _weights(cells: Sequence[Outcome]) -> Array:
    """How much each run counts ``[n]``, above 0 and at most 1."""
    # A run counts by its cell's mean: by its own loss, lucky runs would count more than others.
    means = {choice: mean for choice, (mean, _) in means_of(cells).items()}
    best = min(means.values())
    half = float(np.median(list(means.values()))) - best
    above = np.array([means[run.choice] - best for run in cells])
    return 1.0 / (1.0 + (above / half) ** 2) if half > 0 else np.ones(len(cells))


def _rectangle(
    sizes: tuple[int, int], ratios: tuple[float, float], points: int
) -> tuple[Array, Array]:
    """Bag sizes and shares ``[n]`` all over a rectangle, its edges among them."""
    logs = np.linspace(log(sizes[0]), log(sizes[1]), points)
    found = np.meshgrid(np.exp(logs), np.linspace(*ratios, points))
    return found[0].ravel(), found[1].ravel()


def _terms(bag_sizes: Array, step_ratios: Array) -> Array:
    x, r = np.log(bag_sizes), np.asarray(step_ratios)
    return np.stack([np.ones_like(x), x, x * x, r, r * r, x * r], axis=-1)


def _solver(terms: Array, weights: Array) -> tuple[Array, Array]:
    """What makes coefficients of losses ``[6, n]``, and which of them these tell ``[6, 6]``.

    The second leaves terms as they are where the losses say all of them.
    """
    root = np.sqrt(weights)
    left, sizes, directions = np.linalg.svd(root[:, None] * terms, full_matrices=False)
    is_told = sizes > sizes[0] * np.finfo(float).eps * max(terms.shape)
    left, sizes, directions = left[:, is_told], sizes[is_told], directions[is_told]
    return directions.T @ (left / sizes).T * root, directions.T @ directions


def _scatter(terms: Array, weights: Array, losses: Array, num_levels: int) -> Noise | None:
    """A run's scatter, from what the U leaves; None where it goes through every point.

    Squares count by the squares of the weights, so that what a quadratic misses far above the
    bottom hardly does. Their sum is scaled to the variance of runs that all scatter alike, and its
    degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946).

    Args:
        num_levels: of seeds, taken out of the losses before.
    """
    solver, _ = _solver(terms, weights)
    of_losses = np.eye(len(losses)) - terms @ solver
    form = of_losses.T @ (np.square(weights)[:, None] * of_losses)
    num_left = round(float(np.trace(of_losses)))
    if num_left <= num_levels:
        return None
    share = 1 - num_levels / num_left
    trace = float(np.trace(form))
    variance = float(losses @ form @ losses) / (trace * share)
    dof = trace**2 / float(np.square(form).sum()) * share
    return Noise(float(np.sqrt(max(variance, 0.0))), dof, "the scatter around the fitted U")


def _spread(noise: Noise, rng: np.random.Generator) -> Array:
    """Standard deviations ``[n]`` that an estimate with so few degrees of freedom allows."""
    return noise.sd / np.sqrt(rng.chisquare(noise.dof, _DRAWS) / noise.dof)


def _quantiles(draws: Array) -> tuple[float, float]:
    """Of the middle 95 %, both of them values that were drawn."""
    low = np.quantile(draws, (1 - CONFIDENCE) / 2, method="lower")
    high = np.quantile(draws, (1 + CONFIDENCE) / 2, method="higher")
    return float(low), float(high)


def _of_lowest(value: float, draws: Array) -> Interval:
    """The interval of a loss or a gain at the bottom.

    The lowest of a surface with errors is too low; so is the value, and the draws around it are so
    once more. They are turned round it, so that the interval goes the other way.
    """
    low, high = _quantiles(draws)
    return Interval(value, min(value, 2 * value - high), max(value, 2 * value - low))


def _of_place(value: float, draws: Array, ends: tuple[float, float]) -> Interval:
    """The interval of s or r: open where it comes to an end, none where there is one value."""
    if ends[0] == ends[1]:
        return Interval(value)
    low, high = _quantiles(draws)
    # The mesh of the draws is coarser than the value's.
    low, high = min(value, low), max(value, high)
    return Interval(
        value, None if isclose(low, ends[0]) else low, None if isclose(high, ends[1]) else high
    )
