"""Where to start: with both exponents held, the rest of the law is linear least squares.

Variable projection on a grid of exponents, so that no start depends on a guess of the scales, and a
minimum far from the usual exponents is found as well (Czech et al., arXiv 2603.22339).
"""

import numpy as np

from tst_megatron.analysis.scaling.form import Form, Setting
from tst_megatron.analysis.scaling.newton import Objective
from tst_megatron.statistics.array import Array

# From a twentieth of the published exponents, 0.34 and 0.28, to where Hoffmann's starts end.
_EXPONENTS = np.geomspace(0.015, 2.0, 14)
# The best of the grid that are walked down from: neighbours of one valley, and other valleys.
_WALKED = 24
# A part of the loss that least squares has at or below 0 starts as this share of it.
_LEAST_SHARE = 1e-3


def starts(
    form: Form,
    n: Array,
    d: Array,
    setting: tuple[Setting, ...],
    objective: Objective,
) -> Array:
    """The best starts of a grid, ``[starts, P]``, best first.

    Args:
        form: of the law.
        n: ``[runs]``.
        d: ``[runs]``.
        setting: of each run.
        objective: with a target and weights of one row.
    """
    alphas, betas = _grid(form.equal_exponents)
    x, y = np.log(n / form.n0), np.log(d / form.d0)
    names = (None, *form.settings)
    of = np.array([[one == name for one in setting] for name in names], dtype=float)
    by_data = np.exp(-betas[:, None] * y)[:, :, None] * of.T
    by_size = np.exp(-alphas[:, None] * x)[:, :, None]
    basis = np.concatenate([np.ones_like(by_size), by_size, by_data], axis=2)
    parts = _least_squares(basis, np.exp(objective.target), objective.weights)
    sought = _as_sought(form, alphas, betas, parts)
    value = objective.value(sought)
    return sought[np.argsort(value)[:_WALKED]]


def _grid(equal: bool) -> tuple[Array, Array]:
    if equal:
        return _EXPONENTS, _EXPONENTS
    alphas, betas = np.meshgrid(_EXPONENTS, _EXPONENTS)
    return alphas.ravel(), betas.ravel()


def _least_squares(basis: Array, losses: Array, weights: Array) -> Array:
    """Parts of the loss ``[grid, parts]``, above 0, by least squares of relative residuals."""
    scale = np.sqrt(weights) / losses
    parts = np.einsum("gpr,r->gp", np.linalg.pinv(basis * scale[:, None]), losses * scale)
    return np.asarray(np.maximum(parts, _LEAST_SHARE * np.median(losses)))


def _as_sought(form: Form, alphas: Array, betas: Array, parts: Array) -> Array:
    e, a, b = np.log(parts[:, :3]).T
    sought = np.zeros((len(alphas), form.columns))
    sought[:, :4] = np.stack([e, a, b, betas], axis=1)
    sought[:, form.alpha] = alphas
    for place in range(len(form.settings)):
        # B m^-beta is the setting's part, and b - kappa its logarithm.
        sought[:, 4 + place * form.columns_of_multiplier] = b - np.log(parts[:, 3 + place])
    return sought
