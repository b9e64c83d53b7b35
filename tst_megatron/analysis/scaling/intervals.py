"""Draws of a law, and the intervals of whatever follows from it.

The one idea: runs of one seed are no independent runs. What a seed does to one of them it does, for
the most part, to all of them: their losses share a level. The levels of a few seeds are all that is
known of where the mean of all seeds lies: it is redrawn as a normal number of their spread over the
root of their number, stretched by the root of nu over a chi-square variable of nu = seeds - 1
degrees of freedom, which makes its interval Student's. A level moves E, A and B by one factor. What
is left of the runs' residuals is redrawn beside it, and the law fitted anew.
Drawing pairs of runs and losses, as Epoch does (arXiv 2404.10102), takes every run for a
witness of its own, and is there for runs without a seed.

Either kind redraws at the fit's own Huber constant: how the law depends on that, no draw knows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tst_megatron.analysis.scaling.fitting import Fit, refit
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.errors import UserError
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import interval

Kind = Literal["levels", "pairs"]
DRAWS = 4000
"""As many as Epoch's."""


@dataclass(frozen=True)
class Draws:
    """A law and what it might as well have been.

    Attributes:
        law: the fit's.
        laws: its numbers are ``[draws]``.
        kind: how they were drawn.
        levels: how they spread, if they were redrawn.
        converged: share of the draws that came to their minimum.
    """

    law: Law
    laws: Law
    kind: Kind
    levels: "Levels | None"
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
        kind: by default `levels` where the fit has seeds and `pairs` where it has none.
        draws: how many.
        random_seed: the same arguments give the same draws.

    Raises:
        UserError: levels of a fit without two seeds.
    """
    rng = np.random.default_rng(random_seed)
    kind = kind or ("pairs" if fitted.seeds is None else "levels")
    if kind == "pairs":
        found = refit(fitted, weights=fitted.weights * _pairs(fitted, draws, rng))
        return Draws(fitted.law, found.law, kind, None, float(found.converged.mean()))
    levels = levels_of(fitted)
    found = refit(fitted, loss=_redrawn(fitted, levels, draws, rng))
    seeds = len(levels.seeds)
    mean = levels.spread / np.sqrt(seeds) * rng.standard_normal(draws)
    factor = np.exp(mean * _stretch(seeds - 1, draws, rng))
    law = found.law
    moved = replace(law, E=law.E * factor, A=law.A * factor, B=law.B * factor)
    return Draws(fitted.law, moved, kind, levels, float(found.converged.mean()))


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


def _redrawn(fitted: Fit, levels: Levels, draws: int, rng: np.random.Generator) -> Array:
    """Losses ``[draws, runs]`` of law and levels with what is left over drawn anew."""
    rest = fitted.residuals[fitted.weights > 0]
    rest = rest - rest.mean()
    drawn = rng.choice(rest, size=(draws, len(fitted.n)))
    drawn *= levels.scatter / max(float(rest.std()), np.finfo(float).tiny)
    drawn *= _stretch(levels.freedom, draws, rng)[:, None]
    return np.asarray(fitted.loss * np.exp(drawn - fitted.residuals))


def _stretch(freedom: int, draws: int, rng: np.random.Generator) -> Array:
    """What makes normal numbers Student's, ``[draws]``."""
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, draws)))


def _pairs(fitted: Fit, draws: int, rng: np.random.Generator) -> Array:
    """How often each run is drawn, ``[draws, runs]``: with replacement, within its setting."""
    counts = np.zeros((draws, len(fitted.n)))
    for name in {*fitted.setting}:
        runs = np.flatnonzero([one == name for one in fitted.setting])
        counts[:, runs] = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws)
    return counts
