"""What a law's numbers are by other choices, and without a part of its runs.

The one idea: an interval knows the runs' scatter and nothing of the choices that were made, so the
same runs are fitted by others, and what moves is shown beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.scaling.checks import Axis, left_out
from tst_megatron.analysis.scaling.fitting import CHINCHILLA_DELTA, LEAST_ABSOLUTE, Fit, fit
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.report import formats
from tst_megatron.report.table import Table

_OTHERS = (
    ("least squares", float("inf")),
    ("Huber 1e-3 (Chinchilla's)", CHINCHILLA_DELTA),
    ("least absolute deviations", LEAST_ABSOLUTE),
)


@dataclass(frozen=True)
class Other:
    """A law of the same runs by another choice.

    Attributes:
        choice: in words.
        numbers: by name: E, alpha, beta, a, and m of each setting at the middle of the runs; NaN
            where the choice tells none.
    """

    choice: str
    numbers: dict[str, float]


def sensitivity(fitted: Fit) -> list[Other]:
    """The law as it was fitted, by other losses, and without each size and each length."""
    found = [Other("as fitted", _numbers(fitted, fitted.law))]
    for choice, delta in _OTHERS:
        again = fit(
            fitted.n,
            fitted.d,
            fitted.loss,
            fitted.setting,
            fitted.weights,
            delta,
            seeds=fitted.seeds,
            multipliers=fitted.form.multipliers,
            equal_exponents=fitted.form.equal_exponents,
        )
        found.append(Other(choice, _numbers(fitted, again.law)))
    axes: tuple[tuple[Axis, str], ...] = (("size", "N"), ("length", "D"))
    for axis, letter in axes:
        without = left_out(fitted, axis)
        for place, value in enumerate(without.values):
            law = _one(without.law, place)
            choice = f"without {letter} {formats.count(float(value))}"
            found.append(Other(choice, _numbers(fitted, law)))
    return found


def table_of_sensitivity(found: Sequence[Other]) -> Table:
    """A row a choice."""
    names = list(found[0].numbers)
    rows = tuple((one.choice, *(_cell(one.numbers[name]) for name in names)) for one in found)
    return Table("What other choices come to", ("", *names), rows)


def _cell(value: float) -> str:
    return formats.UNKNOWN if np.isnan(value) else f"{value:.4g}"


def _numbers(fitted: Fit, law: Law) -> dict[str, float]:
    asked: dict[str, Callable[[Law], object]] = {
        "E": lambda law: law.E,
        "alpha": lambda law: law.alpha,
        "beta": lambda law: law.beta,
        "a": lambda law: law.exponents().a,
    }
    found = {name: float(np.asarray(of(law))) for name, of in asked.items()}
    for name in fitted.form.settings:
        at = law.multiplier(fitted.form.n0, fitted.form.d0, name)
        found[f"m, {name}"] = float(at)
    return found


def _one(law: Law, place: int) -> Law:
    """A law of draws at one of them."""

    def at(value: object) -> float:
        array = np.asarray(value, float)
        return float(array[place] if array.ndim else array)

    return replace(
        law,
        **{name: at(getattr(law, name)) for name in ("E", "A", "alpha", "B", "beta")},
        multipliers={
            name: replace(of, c0=at(of.c0), c_n=at(of.c_n), c_d=at(of.c_d))
            for name, of in law.multipliers.items()
        },
    )
