"""Draws of a law, and the intervals of whatever follows from it.

The one idea: runs of one seed are no independent runs. What a seed does to one of them it does, for
the most part, to all of them: their losses share a level, and a few levels are all that is known of
how far one may lie from another. So the levels are redrawn as normal numbers of the levels' own
spread, stretched by the root of nu over a chi-square variable of nu = seeds - 1 degrees of freedom,
which makes a mean's interval Student's; what is left of a run's residual is redrawn beside it.
Drawing pairs of runs and losses, as Epoch does (arXiv 2404.10102), takes every run for a
witness of its own, and is there for runs without a seed.

Either kind redraws at the fit's own Huber constant: how the law depends on that, no draw knows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

    def quantiles(self, figure: Callable[[Law], Array], shares: Sequence[float]) -> Array:
        """Quantiles over the draws of figures ``[draws, ...]``: ``[shares, ...]``."""
        return np.asarray(np.quantile(figure(self.laws), shares, axis=0))


@dataclass(frozen=True)
class Levels:
    """What the residuals of a fit tell of the seeds.

    Attributes:
        seeds: in the order of their levels.
        level: ``[seeds]``, of ln L about their mean; the part of it that is the rest's scatter
            is taken off.
        rest: ``[runs]``, the residuals without their seed's level.
        spread: standard deviation between seeds' levels, in ln L.
        scatter: of the rest, in ln L, for the numbers that the fit took from it.
        freedom: degrees of freedom of the scatter.
    """

    seeds: tuple[object, ...]
    level: Array
    rest: Array
    spread: float
    scatter: float
    freedom: int

    @property
    def share(self) -> float:
        """Of the variance of a run's ln L about the law, what is its seed's."""
        whole = self.spread**2 + self.scatter**2
        return self.spread**2 / whole if whole else 0.0


def draw(
    fitted: Fit,
    seeds: Sequence[object] | None = None,
    *,
    kind: Kind | None = None,
    draws: int = DRAWS,
    random_seed: int = 0,
) -> Draws:
    """Draw laws.

    Args:
        fitted: the fit.
        seeds: of each run, or None where they are not known.
        kind: by default `levels` where seeds are given and `pairs` where they are not.
        draws: how many.
        random_seed: the same arguments give the same draws.

    Raises:
        UserError: levels of fewer than two seeds.
    """
    rng = np.random.default_rng(random_seed)
    kind = kind or ("pairs" if seeds is None else "levels")
    if kind == "pairs":
        found, levels = refit(fitted, weights=fitted.weights * _pairs(fitted, draws, rng)), None
    else:
        known = list(seeds) if seeds is not None else []
        levels = levels_of(fitted, known)
        found = refit(fitted, loss=_redrawn(fitted, known, levels, draws, rng))
    return Draws(fitted.law, found.law, kind, levels, float(found.converged.mean()))


def levels_of(fitted: Fit, seeds: Sequence[object]) -> Levels:
    """Levels by least squares beside the law's own slopes, so that no seed's share of sizes counts.

    Raises:
        UserError: fewer than two seeds, or too few runs to tell levels from scatter.
    """
    names, place = _numbered(seeds)
    if len(names) < 2:
        raise UserError(
            "runs of one seed do not tell what a seed does: train a second one, or ask for pairs"
        )
    used = fitted.weights > 0
    of = np.eye(len(names))[place]
    free = _without(fitted.jacobian[used], of[used])
    # A level of all seeds alike is a scale of E, A and B: of least length, levels add up to 0.
    raw = np.linalg.lstsq(free, fitted.residuals[used], rcond=1e-9)[0]
    raw -= raw.mean()
    freedom = int(used.sum()) - fitted.form.parameters - len(names) + 1
    if freedom < 1:
        raise UserError(
            f"{int(used.sum())} runs of {len(names)} seeds do not tell levels from scatter beside "
            f"a law of {fitted.form.parameters} numbers: train more runs, or ask for pairs"
        )
    rest = fitted.residuals - of @ raw
    variance = float((rest[used] ** 2).sum() / freedom)
    between = float((raw**2).sum() / (len(names) - 1))
    # A level is a mean of so many runs, and has that share of their scatter in it.
    own = max(between - variance * float(np.mean(1 / of[used].sum(axis=0))), 0.0)
    level = raw * np.sqrt(own / between) if between else raw
    return Levels(names, level, rest, own**0.5, variance**0.5, freedom)


def _numbered(seeds: Sequence[object]) -> tuple[tuple[object, ...], np.ndarray]:
    """The seeds that there are, and which of them each run has."""
    names = tuple(dict.fromkeys(seeds))
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in seeds], dtype=int)


def _without(columns: Array, values: Array) -> Array:
    """Values less what the columns say of them."""
    return np.asarray(values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0])


def _redrawn(
    fitted: Fit, seeds: Sequence[object], levels: Levels, draws: int, rng: np.random.Generator
) -> Array:
    """Losses ``[draws, runs]`` of the law with levels and rests drawn anew."""
    _, place = _numbered(seeds)
    drawn = rng.standard_normal((draws, len(levels.seeds))) * levels.spread
    drawn *= _stretch(len(levels.seeds) - 1, draws, rng)
    used = levels.rest[fitted.weights > 0]
    rest = rng.choice(used - used.mean(), size=(draws, len(fitted.n)))
    rest *= levels.scatter / max(float(used.std()), np.finfo(float).tiny)
    rest *= _stretch(levels.freedom, draws, rng)
    return np.asarray(fitted.loss * np.exp(drawn[:, place] + rest - fitted.residuals))


def _stretch(freedom: int, draws: int, rng: np.random.Generator) -> Array:
    """What makes normal numbers Student's, ``[draws, 1]``."""
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, (draws, 1))))


def _pairs(fitted: Fit, draws: int, rng: np.random.Generator) -> Array:
    """How often each run is drawn, ``[draws, runs]``: with replacement, within its setting."""
    counts = np.zeros((draws, len(fitted.n)))
    for name in {*fitted.setting}:
        runs = np.flatnonzero([one == name for one in fitted.setting])
        counts[:, runs] = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws)
    return counts
