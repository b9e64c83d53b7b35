"""Draws of a law, and the intervals of whatever follows from it.

The one idea: runs of one seed are no independent runs. What a seed does to one of them it does in
part to all, in part to those of its side or size, and in which part is not assumed: the witnesses
are the seeds. Every draw has seeds that are normal mixes of those that were run, each with all that
it did to every size, length and setting, and a law is fitted to their runs. One stretch a
draw, the root of nu over a chi-square variable of nu = seeds - 1 degrees of freedom, makes the
intervals Student's.

A seed's level, which moves E, A and B by one factor, is sought beside the law and mixed by itself.
What else it does are its runs' deviations from the mean of their cell, the runs of one size, length
and setting. A cell of one seed has none: it borrows those of the nearest that has some.

Drawing pairs of runs and losses, as Epoch does (arXiv 2404.10102), takes every run for a
witness of its own, and is there for runs without a seed.

Either kind redraws at the fit's own Huber constant: how the law depends on that, no draw knows.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_megatron.analysis.scaling.fitting import Fit, Refits, refit
from tst_megatron.analysis.scaling.form import Setting
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.errors import UserError
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import interval

Kind = Literal["seeds", "pairs"]
DRAWS = 4000
"""As many as Epoch's."""


@dataclass(frozen=True)
class Draws:
    """A law and what it might as well have been.

    Attributes:
        law: the fit's.
        laws: its numbers are ``[draws]``.
        kind: how they were drawn.
        levels: how seeds spread, if they were mixed.
        borrowed: cells of one seed, which have another cell's deviations.
        converged: share of the draws that came to their minimum.
    """

    law: Law
    laws: Law
    kind: Kind
    levels: "Levels | None"
    borrowed: int
    converged: float

    def interval(
        self, figure: Callable[[Law], Array | float], confidence: float = 0.95
    ) -> Interval:
        """A figure of the law with its percentile interval.

        Args:
            figure: of a law: a number of `law`, ``[draws]`` of `laws`. Where it is infinite it has
                no bound; where it is NaN for a draw nothing is known of its interval.
            confidence: such as 0.95.
        """
        return interval(np.append(figure(self.law), figure(self.laws)), confidence)


@dataclass(frozen=True)
class Levels:
    """What the residuals of a fit tell of the seeds.

    Attributes:
        seeds: in the order of their levels.
        level: ``[seeds]``, of ln L about their mean.
        spread: standard deviation between seeds' levels in ln L; the part of it that is the
            runs' own scatter is taken off.
        scatter: standard deviation of runs about law and level in ln L, for the numbers that the
            fit took from it.
        freedom: degrees of freedom of the scatter.
    """

    seeds: tuple[object, ...]
    level: Array
    spread: float
    scatter: float
    freedom: int

    @property
    def share(self) -> float:
        """Of the variance of a run's ln L about the law, what is its seed's."""
        whole = self.spread**2 + self.scatter**2
        return self.spread**2 / whole if whole else 0.0


def draw(
    fitted: Fit, *, kind: Kind | None = None, draws: int = DRAWS, random_seed: int = 0
) -> Draws:
    """Draw laws.

    Args:
        fitted: the fit.
        kind: by default `seeds` where the fit has them and `pairs` where it has none.
        draws: how many.
        random_seed: the same arguments give the same draws.

    Raises:
        UserError: seeds are to be mixed of a fit without two, or none of whose cells has two.
    """
    rng = np.random.default_rng(random_seed)
    kind = kind or ("pairs" if fitted.seeds is None else "seeds")
    if kind == "pairs":
        found = refit(fitted, weights=fitted.weights * _pairs(fitted, draws, rng))
        return _drawn(fitted, found, kind)
    levels = levels_of(fitted)
    cells = _cells(fitted)
    seeds = len(levels.seeds)
    # Of each drawn seed, what it has of each that was run, ``[draws, seeds, seeds]``.
    mix = rng.standard_normal((draws, seeds, seeds))
    mix *= np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, draws))[:, None, None]
    found = refit(fitted, loss=_of_mixed_seeds(fitted, cells, levels.seeds, mix))
    names = np.array([levels.seeds.index(seed) for seed in fitted.seeds or ()])
    borrowed = sum(len(np.unique(names[runs])) == 1 for runs in cells.values())
    mean = mix.mean(axis=1) @ levels.level / np.sqrt(seeds - 1)
    return _drawn(fitted, found, kind, mean, levels, borrowed)


def levels_of(fitted: Fit) -> Levels:
    """The seeds' levels, as they were fitted.

    Raises:
        UserError: the fit has no two seeds.
    """
    if fitted.seeds is None:
        raise UserError(
            "runs of one seed do not tell what a seed does: train a second one, or ask for pairs"
        )
    used = fitted.weights > 0
    seeds, level = fitted.form.seeds, fitted.form.levels(fitted.sought)
    freedom = int(used.sum()) - fitted.form.columns
    variance = float((fitted.residuals[used] ** 2).sum() / freedom)
    runs = [sum(name == one for one in fitted.seeds) for name in seeds]
    # A level is a mean of so many runs, and has that share of their scatter in it.
    between = (level**2).sum() / (len(seeds) - 1) - variance * np.mean(1 / np.array(runs))
    return Levels(seeds, level, float(max(between, 0.0)) ** 0.5, variance**0.5, freedom)


def _drawn(
    fitted: Fit,
    found: Refits,
    kind: Kind,
    mean: Array | float = 0.0,
    levels: Levels | None = None,
    borrowed: int = 0,
) -> Draws:
    """Drawn laws, of seeds whose ``mean`` of ln L is off by so much.

    A draw of which a number is beyond a float ran off, and is not kept.
    """
    sought = found.sought.copy()
    # Of ln L, and so of ln E, ln A and ln B.
    sought[:, :3] += np.reshape(mean, (-1, 1))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        laws = fitted.form.law(sought)
    numbers = (laws.E, laws.A, laws.B, *(of.c0 for of in laws.multipliers.values()))
    kept = np.isfinite(np.stack([np.asarray(number) for number in numbers])).all(axis=0)
    return Draws(
        law=fitted.law,
        laws=fitted.form.law(sought[kept], fitted.law.flops_per_position),
        kind=kind,
        levels=levels,
        borrowed=borrowed,
        converged=float((found.converged & kept).mean()),
    )


_Cell = tuple[float, float, Setting]


def _cells(fitted: Fit) -> dict[_Cell, list[int]]:
    """The runs that count of each size, length and setting."""
    cells: dict[_Cell, list[int]] = {}
    for run, key in enumerate(zip(fitted.n, fitted.d, fitted.setting, strict=True)):
        if fitted.weights[run] > 0:
            cells.setdefault(key, []).append(run)
    return cells


def _of_mixed_seeds(
    fitted: Fit, cells: dict[_Cell, list[int]], seeds: tuple[object, ...], mix: Array
) -> Array:
    """Losses ``[draws, runs]`` less what the drawn seeds do to all runs alike.

    Raises:
        UserError: no cell has two seeds.
    """
    assert fitted.seeds is not None
    place = np.array([seeds.index(seed) for seed in fitted.seeds])
    own = np.zeros(len(place))
    deviations: dict[_Cell, Array] = {}
    for cell, runs in cells.items():
        of, residuals = place[runs], fitted.residuals[runs]
        there = np.unique(of)
        each = np.array([residuals[of == seed].mean() for seed in there])
        own[runs] = residuals - each.mean()
        if len(there) > 1:
            # As many normal numbers as seeds, which have one degree of freedom fewer.
            deviations[cell] = np.zeros(len(seeds))
            deviations[cell][there] = (each - each.mean()) / np.sqrt(len(there) - 1)
    if not deviations:
        raise UserError(
            "no size, length and setting has runs of two seeds, so nothing tells what a seed does: "
            "train one with a second seed, or draw --pairs"
        )
    moved = np.zeros((len(mix), len(own)))
    for cell, runs in cells.items():
        deviation = deviations[_nearest(cell, deviations)]
        moved[:, runs] = mix[:, place[runs]] @ deviation
    return np.asarray(fitted.loss * np.exp(moved - own))


def _nearest(cell: _Cell, others: Iterable[_Cell]) -> _Cell:
    """The cell itself, or the nearest in ln N and ln D, of its own setting if any is."""

    def distance(other: _Cell) -> tuple[bool, float]:
        return other[2] != cell[2], math.hypot(
            math.log(other[0] / cell[0]), math.log(other[1] / cell[1])
        )

    return min(others, key=distance)


def _pairs(fitted: Fit, draws: int, rng: np.random.Generator) -> Array:
    """How often each run is drawn, ``[draws, runs]``: with replacement, within its setting."""
    counts = np.zeros((draws, len(fitted.n)))
    for name in {*fitted.setting}:
        runs = np.flatnonzero([one == name for one in fitted.setting])
        counts[:, runs] = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws)
    return counts
