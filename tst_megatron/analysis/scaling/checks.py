"""What speaks against a law, as far as its runs tell: each a sentence with the numbers it is of.

The one idea: any runs give five numbers. Whether they mean something shows in how the runs are
spread, in what the law leaves over, and in what becomes of it when a part of them is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_megatron.analysis.scaling.design import rank_and_condition
from tst_megatron.analysis.scaling.fitting import Fit, refit
from tst_megatron.analysis.scaling.form import Setting
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.f_test import f_tail

FEWEST = 3
"""Sizes, and lengths: two are met by every exponent."""
MOST_CONDITION = 500.0
"""Between grids of three by three, over 4 times each (274: exponents to 0.4) or 16 times (88), and
one line of equal compute over 64 times (3,200: exponents to 1.7)."""
EXPONENTS = (0.01, 2.0)
"""Where an exponent is one: below, a power is a logarithm; above, Hoffmann's starts end
(arXiv 2203.15556)."""
SHARES_OF_E = (0.001, 0.999)
"""Of the lowest loss of the law at its runs."""
FARTHEST = 10.0
"""Times the largest compute, beyond which nothing is predicted."""
CHANCE = 0.01
"""Below which scatter alone is no reason."""
MISFIT = 0.01
"""Of ln L, root mean square: three times the median residual of Chinchilla's own runs, 0.0032."""

# Sizes and lengths that are the same to all purposes, and the spread that makes a line.
_SAME, _LINE = 1.05, 1.25
# Of ln L: what numbers of four or five digits leave over by themselves.
_ROUNDING = 1e-5

Axis = Literal["size", "length"]


@dataclass(frozen=True)
class Finding:
    """Something that speaks against a law.

    Attributes:
        name: of the check.
        sentence: what was measured and what to do.
        figures: the numbers of the sentence.
        refuses: no law is to be told; else it is a note beside it.
    """

    name: str
    sentence: str
    figures: Mapping[str, float]
    refuses: bool = True


@dataclass(frozen=True)
class LackOfFit:
    """What a law leaves over beyond scatter.

    Attributes:
        chance: that scatter alone leaves as much.
        misfit: root mean square in ln L of what is left over, scatter taken off.
        scatter: standard deviation in ln L: of runs alike but for their seed, or about the law
            and the interaction.
        slope: of ln L over ln N times ln D, of an interaction; None of a test by replicates.
    """

    chance: float
    misfit: float
    scatter: float
    slope: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """The law without one size, or one length, at a time.

    Attributes:
        values: ``[groups]``, parameters or positions that were left out, ascending.
        law: of the others; its numbers are ``[groups]``, NaN where the others tell no law.
        error: ``[groups]``, mean over the runs left out of ln loss less that law's.
    """

    values: Array
    law: Law
    error: Array


def of_runs(
    n: Array, d: Array, setting: Sequence[Setting] | None = None, *, log_linear: bool = False
) -> tuple[Finding, ...]:
    """What speaks against any law of such runs, before one is fitted.

    Args:
        n: ``[runs]``, parameters.
        d: ``[runs]``, positions.
        setting: of each run; None is the baseline.
        log_linear: whether multipliers are to depend on N and D: every side has to have the sizes
            and lengths for it.
    """
    n, d = np.asarray(n, float), np.asarray(d, float)
    settings = tuple(setting) if setting is not None else (None,) * len(n)
    found = [*_too_few(n, d, "the runs"), *_on_a_line(n, d)]
    if log_linear:
        for name in dict.fromkeys(settings):
            of = np.array([one == name for one in settings])
            side = "the baseline's runs" if name is None else f"the runs of {name}"
            found += _too_few(n[of], d[of], side)
    return tuple(found)


def of_fit(fitted: Fit) -> tuple[Finding, ...]:
    """What speaks against a law after its fit; `of_runs` is asked before."""
    return (
        *_no_minimum(fitted),
        *_ill_conditioned(fitted),
        *_at_an_edge(fitted),
        *_misfits(fitted),
    )


def left_out(fitted: Fit, axis: Axis) -> LeftOut:
    """Leave out one size, or one length, at a time, and fit the others."""
    values = fitted.n if axis == "size" else fitted.d
    group = _groups(values)
    kept = np.array([group != number for number in range(group.max() + 1)])
    weights = fitted.weights * kept
    found = refit(fitted, weights=weights)
    tells = np.array([_condition(fitted, row)[1] <= MOST_CONDITION for row in weights])
    sought = np.where(tells[:, None], found.sought, np.nan)
    law = fitted.form.law(sought, fitted.law.flops_per_position)
    errors = np.log(fitted.loss) - _at_runs(fitted, sought)
    return LeftOut(
        values=np.array([np.exp(np.log(values[~row]).mean()) for row in kept]),
        law=law,
        error=np.where(kept, 0, errors).sum(axis=1) / (~kept).sum(axis=1),
    )


def lack_of_fit(fitted: Fit) -> LackOfFit | None:
    """The law's residuals against the scatter of runs alike but for their seed.

    Seeds' levels, where they were fitted, count neither as misfit nor as scatter.

    Returns:
        None without replicates.
    """
    cells = _one_hot(list(zip(fitted.n, fitted.d, fitted.setting, strict=True)))
    slopes = fitted.jacobian
    left, freedom = _left_over(fitted, slopes)
    levels = slopes[:, fitted.form.parameters :]
    pure, pure_freedom = _left_over(fitted, np.hstack([cells, levels]))
    more = freedom - pure_freedom
    if pure_freedom < 1 or more < 1:
        return None
    variance = pure / pure_freedom
    between = max(left - pure, 0.0)
    ratio = between / more / variance if variance else np.inf
    misfit = np.sqrt(max(between - more * variance, 0.0) / len(fitted.n))
    return LackOfFit(f_tail(ratio, more, pure_freedom), float(misfit), float(np.sqrt(variance)))


def interaction(fitted: Fit) -> LackOfFit | None:
    """Whether ln L also goes with ln N times ln D, as no sum of a power of each does.

    Farseer (arXiv 2506.10972) has B and beta depend on N; this is the first term of that.

    Returns:
        None where runs are too few, or spread so that the law takes the term for its own.
    """
    form = fitted.form
    both = np.log(fitted.n / form.n0) * np.log(fitted.d / form.d0)
    known, root = fitted.jacobian, np.sqrt(fitted.weights)
    own = root * both
    own = own - (root[:, None] * known) @ np.linalg.lstsq(root[:, None] * known, own, rcond=None)[0]
    left, freedom = _left_over(fitted, known)
    length = float(np.linalg.norm(own))
    if freedom < 2 or length < 1e-6 * np.linalg.norm(root * both):
        return None
    slope = float(own @ (root * fitted.residuals)) / length**2
    gained = slope**2 * length**2
    variance = max(left - gained, 0.0) / (freedom - 1)
    ratio = gained / variance if variance else np.inf
    misfit = np.sqrt(max(gained - variance, 0.0) / len(fitted.n))
    chance = f_tail(ratio, 1, freedom - 1)
    return LackOfFit(chance, float(misfit), float(np.sqrt(variance)), slope)


def _too_few(n: Array, d: Array, whose: str) -> Iterator[Finding]:
    for what, values, unit in (("sizes", n, "parameters"), ("lengths", d, "positions")):
        group = _groups(values)
        count = int(group.max()) + 1 if len(group) else 0
        if count < FEWEST:
            listed = " and ".join(f"{values[group == one].mean():.3g}" for one in range(count))
            sentence = (
                f"{whose} have {count} {what} ({listed} {unit}), and {FEWEST} are the fewest that "
                f"tell an exponent: train at further {what}"
            )
            yield Finding(f"too few {what}", sentence, {what: count})


def _on_a_line(n: Array, d: Array) -> Iterator[Finding]:
    lines = (
        ("one isoFLOP line", n * d, "compute", "at other budgets"),
        ("one D/N ratio", d / n, "positions a parameter", "at other lengths of the same sizes"),
    )
    for name, values, what, remedy in lines:
        spread = float(values.max() / values.min()) if len(values) else 1.0
        if spread < _LINE:
            sentence = (
                f"the largest and the smallest {what} of the runs are {spread:.3g} times apart, so "
                "that size and length were never moved one without the other, and their parts of "
                f"the loss are not told apart: train {remedy}"
            )
            yield Finding(name, sentence, {"spread": spread})


def _no_minimum(fitted: Fit) -> Iterator[Finding]:
    if not fitted.converged:
        sentence = (
            "the fit ran off along a valley without a lowest point: the runs do not hold all of "
            "the law's numbers; train more sizes and lengths, or fit alpha = beta"
        )
        yield Finding("no minimum", sentence, {"objective": fitted.objective})


def _ill_conditioned(fitted: Fit) -> Iterator[Finding]:
    rank, condition = _condition(fitted, fitted.weights)
    if condition > MOST_CONDITION:
        number = f"{condition:.3g}" if np.isfinite(condition) else "infinite"
        sentence = (
            f"the condition number of the runs' slopes is {number} (rank {rank} of "
            f"{fitted.form.parameters}), over {MOST_CONDITION:g}: numbers of the law stand in for "
            "one another; train sizes and lengths farther apart"
        )
        yield Finding("ill-conditioned", sentence, {"condition": condition, "rank": rank})


def _at_an_edge(fitted: Fit) -> Iterator[Finding]:
    law = fitted.law
    lowest = float(np.exp(_at_runs(fitted, fitted.sought)[fitted.weights > 0]).min())
    edges = {
        "alpha": (float(law.alpha), EXPONENTS, "alpha"),
        "beta": (float(law.beta), EXPONENTS, "beta"),
        "E": (float(law.E) / lowest, SHARES_OF_E, "E over the lowest loss"),
    }
    for name, (value, (low, high), what) in edges.items():
        if not low <= value <= high:
            sentence = (
                f"{what} came out as {value:.3g}, outside {low:g} to {high:g}: the runs do not "
                "show where their losses bend; train more sizes and lengths"
            )
            yield Finding(f"{name} at an edge", sentence, {name: value})


def _misfits(fitted: Fit) -> Iterator[Finding]:
    left, crossed = lack_of_fit(fitted), interaction(fitted)
    if left is not None and left.chance < CHANCE and left.misfit > _ROUNDING:
        sentence = (
            f"the law misses the cells' means by {left.misfit:.2%} of the loss (root mean square), "
            f"where runs alike but for their seed scatter by {left.scatter:.2%}: chance leaves as "
            f"much {left.chance:.1e} of the time; look at the residuals, leave out what is no part "
            "of the law, or let m vary (--multiplier log-linear)"
        )
        figures = {"misfit": left.misfit, "scatter": left.scatter, "chance": left.chance}
        yield Finding("lack of fit", sentence, figures, left.misfit > MISFIT)
    if crossed is None or crossed.slope is None or crossed.misfit <= _ROUNDING:
        return
    if crossed.chance < CHANCE:
        sentence = (
            f"ln L goes with {crossed.slope:.2g} ln N ln D as well ({crossed.misfit:.2%} of the "
            f"loss, root mean square; by chance {crossed.chance:.1e} of the time), as no "
            "sum of a power of N and one of D does"
        )
        figures = {"slope": crossed.slope, "misfit": crossed.misfit, "chance": crossed.chance}
        yield Finding("N and D interact", sentence, figures, crossed.misfit > MISFIT)


def _condition(fitted: Fit, weights: Array) -> tuple[int, float]:
    """Rank and condition of the law's own slopes at the runs that count; infinite for too few."""
    slopes = fitted.jacobian[weights > 0]
    rank, condition = rank_and_condition(slopes[:, : fitted.form.parameters])
    return rank, condition if len(slopes) > fitted.form.columns else float("inf")


def _at_runs(fitted: Fit, sought: Array) -> Array:
    """The law's ln L at the fit's runs, ``[..., runs]`` of ``[..., P]``."""
    return np.asarray(
        np.log(np.exp(np.einsum("irp,...p->i...r", fitted.terms, sought)).sum(axis=0))
    )


def _groups(values: Array) -> np.ndarray:
    """Which of the values are the same to all purposes: numbers from 0, by size.

    A group goes from its least value on, so that sizes without a gap are not all one.
    """
    group, first = np.zeros(len(values), int), np.inf
    number = -1
    for place in np.argsort(values):
        if number < 0 or values[place] > _SAME * first:
            number, first = number + 1, values[place]
        group[place] = number
    return group


def _one_hot(names: Sequence[object]) -> Array:
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.eye(len(place))[[place[name] for name in names]]


def _left_over(fitted: Fit, columns: Array) -> tuple[float, int]:
    """What columns leave of the residuals: weighted sum of squares, and its degrees of freedom."""
    root = np.sqrt(fitted.weights)
    of, values = root[:, None] * columns, root * fitted.residuals
    known, _, rank, _ = np.linalg.lstsq(of, values, rcond=1e-9)
    return float(((values - of @ known) ** 2).sum()), int((root > 0).sum()) - int(rank)
