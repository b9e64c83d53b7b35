"""A law fitted to runs: Huber's loss on the logarithm of the loss, brought to its least.

The one idea: Huber's constant is not a number of nature. By default it follows from the runs' own
scatter, at which the fit is nearly as sharp as least squares and an outlier counts little;
Chinchilla's 1e-3 and least absolute deviations are there to be compared with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.scaling.form import Form, Multipliers, Setting, form_of
from tst_megatron.analysis.scaling.law import TRAINING_FLOPS, Law
from tst_megatron.analysis.scaling.newton import Minimum, Objective, Terms, minimise
from tst_megatron.analysis.scaling.starts import starts
from tst_megatron.errors import UserError
from tst_megatron.statistics.array import Array

CHINCHILLA_DELTA = 1e-3
"""Hoffmann's and Epoch's constant, whatever the scatter (arXiv 2203.15556, approach 3)."""
LEAST_ABSOLUTE = 1e-6
"""A constant so far below any scatter that all but a law's few runs count by their distance."""
EFFICIENT_DELTA = 1.345
"""In standard deviations of the scatter: 95 % of least squares' efficiency at normal scatter
(Huber 1964; Holland and Welsch 1977)."""

_MEDIAN_OF_NORMAL = 0.6744897501960817
# Scatter below the last digit that anybody logs is none.
_LEAST_DELTA = 1e-7
# The constant and the scatter about the fit it gives, until they hardly move each other.
_ROUNDS, _SETTLED = 20, 1e-3
# Steps of every start: those that want more run off along a flat valley, or the best goes on.
_FEW_STEPS = 40
# A constant far below the scatter is come down to by thirds: each fit is near the next.
_FALL = 1 / 3


@dataclass(frozen=True)
class Fit:
    """A law and the runs that it was fitted to.

    Attributes:
        law: its numbers are floats.
        form: what was sought, and around which means.
        sought: ``[P]``, the law in the form's coordinates.
        n: ``[runs]``, parameters.
        d: ``[runs]``, positions.
        loss: ``[runs]``, in one unit.
        setting: of each run; None is the baseline.
        seeds: of each run, if their levels were sought.
        weights: ``[runs]``.
        delta: Huber's constant, in ln L.
        objective: sum over runs of weight times Huber's loss of ln L.
        converged: whether a further step would have gained a share of 1e-12 at most.
    """

    law: Law
    form: Form
    sought: Array
    n: Array
    d: Array
    loss: Array
    setting: tuple[Setting, ...]
    seeds: tuple[object, ...] | None
    weights: Array
    delta: float
    objective: float
    converged: bool

    @property
    def terms(self) -> Array:
        """The law's columns at the runs, ``[3, runs, P]``."""
        return self.form.terms(self.n, self.d, self.setting, self.seeds)

    @property
    def residuals(self) -> Array:
        """``ln loss`` less the law's and the seed's level, ``[runs]``."""
        return -_objective(self).residuals(self.sought[None])[0]

    @property
    def jacobian(self) -> Array:
        """Slopes of the law's ln L at the runs over what was sought, ``[runs, P]``."""
        return jacobian(self.terms, self.sought)


@dataclass(frozen=True)
class Refits:
    """Laws of the same runs with other losses or weights, each from the first fit's law.

    Attributes:
        law: its numbers are ``[rows]``.
        sought: ``[rows, P]``.
        objective: ``[rows]``.
        converged: bool ``[rows]``.
    """

    law: Law
    sought: Array
    objective: Array
    converged: np.ndarray


def fit(
    n: Array,
    d: Array,
    loss: Array,
    setting: Sequence[Setting] | None = None,
    weights: Array | None = None,
    delta: float | None = None,
    *,
    seeds: Sequence[object] | None = None,
    multipliers: Multipliers = "constant",
    equal_exponents: bool = False,
    flops_per_position: float = TRAINING_FLOPS,
) -> Fit:
    """The law of runs.

    Args:
        n: ``[runs]``, parameters.
        d: ``[runs]``, positions (effective ones where text was read again).
        loss: ``[runs]``, in one unit, above 0.
        setting: of each run; None, as a whole or of a run, is the baseline.
        weights: ``[runs]``, 0 or more; 1 each by default.
        delta: Huber's constant in ln L; infinite is least squares, `CHINCHILLA_DELTA` Epoch's,
            `LEAST_ABSOLUTE` least absolute deviations. By default `EFFICIENT_DELTA` times the
            scatter about the fit.
        seeds: of each run: a level of ln L is sought for each seed beside the law, so that what a
            seed does to all its runs is no scatter. None, or the same for all: every run stands
            for itself.
        multipliers: one number a setting, or log-linear in N and D.
        equal_exponents: alpha = beta.
        flops_per_position: k of the law's C = k N D.

    Raises:
        UserError: no more runs than numbers that are sought, no run of the baseline, or a loss,
            size or length that is no number above 0.
    """
    n, d, loss = (np.array(values, float) for values in (n, d, loss))
    settings = tuple(setting) if setting is not None else (None,) * len(n)
    weights = np.ones(len(n)) if weights is None else np.array(weights, float)
    _check_numbers(n, d, loss)
    form = form_of(n, d, settings, multipliers, equal_exponents, seeds)
    _check_runs(form, settings, weights)
    shared = tuple(seeds) if seeds is not None and form.seeds else None
    terms, target = Terms(form.terms(n, d, settings, shared)), np.log(loss)

    def huber(constant: float) -> Objective:
        return Objective(terms, target, weights, constant)

    squares = _lowest_of_starts(huber(np.inf), starts(form, n, d, settings, huber(np.inf)))
    if delta is None:
        delta, found = _by_scatter(huber, squares)
    else:
        found = squares
        for constant in path_to(delta, scatter(huber(delta), found.sought)):
            found = minimise(huber(constant), found.sought)
        # Huber's loss has valleys of its own, more so the smaller its constant.
        again = starts(form, n, d, settings, huber(delta))
        found = _lowest_of_starts(huber(delta), np.concatenate([found.sought, again]))
    return Fit(
        law=form.law(found.sought[0], flops_per_position),
        form=form,
        sought=found.sought[0],
        n=n,
        d=d,
        loss=loss,
        setting=settings,
        seeds=shared,
        weights=weights,
        delta=float(delta),
        objective=float(found.objective[0]),
        converged=bool(found.converged[0]),
    )


def refit(fitted: Fit, loss: Array | None = None, weights: Array | None = None) -> Refits:
    """The law of the same runs with other losses or weights, many at once, at the same constant.

    Args:
        fitted: the first fit; every row starts at its law.
        loss: ``[rows, runs]``; the first fit's by default.
        weights: ``[rows, runs]``; the first fit's by default.
    """
    objective = _objective(fitted)
    if loss is not None:
        objective = replace(objective, target=np.log(loss))
    if weights is not None:
        objective = replace(objective, weights=np.asarray(weights, float))
    arrays = (objective.target, objective.weights)
    rows = max((len(array) for array in arrays if array.ndim == 2), default=1)
    sought = np.tile(fitted.sought, (rows, 1))
    own = scatter(_objective(fitted), fitted.sought[None])
    for constant in path_to(fitted.delta, own):
        found = minimise(replace(objective, delta=constant), sought)
        sought = found.sought
    law = fitted.form.law(found.sought, fitted.law.flops_per_position)
    return Refits(law, found.sought, found.objective, found.converged)


def jacobian(terms: Array, sought: Array) -> Array:
    """Slopes of ln L over what is sought, ``[runs, P]``: the terms' columns by their shares."""
    sizes = np.exp(terms @ sought)
    return np.asarray(np.einsum("ir,irp->rp", sizes / sizes.sum(axis=0), terms))


def scatter(objective: Objective, sought: Array) -> float:
    """The residuals' standard deviation about ``[1, P]``, by their median: an outlier hardly tells.

    It is wider by the root of runs over runs less P than the residuals' own, which the fit
    has made smaller.
    """
    used = objective.weights > 0
    residuals = np.abs(objective.residuals(sought)[0][used])
    freedom = max(len(residuals) - sought.shape[1], 1)
    return float(np.median(residuals) / _MEDIAN_OF_NORMAL * np.sqrt(len(residuals) / freedom))


def path_to(delta: float, from_scatter: float) -> list[float]:
    """Constants from the scatter down to one that is far below it; it alone where it is not."""
    constants = [delta]
    while constants[-1] / _FALL < from_scatter * _FALL:
        constants.append(constants[-1] / _FALL)
    return constants[::-1]


def _by_scatter(huber: Callable[[float], Objective], found: Minimum) -> tuple[float, Minimum]:
    """The constant that its own fit's scatter gives, and the fit."""
    delta = np.inf
    for _ in range(_ROUNDS):
        before = delta
        delta = max(EFFICIENT_DELTA * scatter(huber(delta), found.sought), _LEAST_DELTA)
        found = minimise(huber(delta), found.sought)
        if abs(delta / before - 1) < _SETTLED:
            break
    return delta, found


def _lowest_of_starts(objective: Objective, sought: Array) -> Minimum:
    """The lowest ``[1, P]`` that starts ``[starts, P]`` lead to in a few steps, and on from it."""
    found = minimise(objective, sought, _FEW_STEPS)
    return minimise(objective, found.sought[[np.argmin(found.objective)]])


def _objective(fitted: Fit) -> Objective:
    return Objective(Terms(fitted.terms), np.log(fitted.loss), fitted.weights, fitted.delta)


def _check_numbers(n: Array, d: Array, loss: Array) -> None:
    """Raise unless all are numbers above 0."""
    for name, values in (("parameters", n), ("positions", d), ("loss", loss)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise UserError(
                f"run {bad[0] + 1} of {len(n)} has {name} {values[bad[0]]:g}: a law is fitted to "
                "numbers above 0; leave the run out"
            )


def _check_runs(form: Form, settings: tuple[Setting, ...], weights: Array) -> None:
    """Raise unless there are more runs than numbers that are sought, some of the baseline."""
    counted = [setting for setting, weight in zip(settings, weights, strict=True) if weight > 0]
    if len(counted) <= form.columns:
        beside = f" beside the levels of {len(form.seeds)} seeds" if form.seeds else ""
        raise UserError(
            f"{len(counted)} runs tell nothing of a law of {form.parameters} numbers{beside}: "
            + (
                "where every run has a seed of its own draw --pairs, else train more"
                if form.seeds
                else "train more sizes and lengths, or fit alpha = beta"
            )
        )
    if None not in counted:
        raise UserError(
            f"all runs are of {form.settings[0]}: a multiplier is one of the baseline's data; add "
            "runs of the baseline, or fit these as a law of their own"
        )
