"""What is fitted: the law's logarithm, a log-sum-exp of three terms linear in what is sought.

    ln L = ln(e^t0 + e^t1 + e^t2),  t0 = e,  t1 = a - alpha x,  t2 = b - beta y - M kappa

x = ln N and y = ln D less their means, so that scales and exponents hardly move each other; M has
the columns of the multipliers, ``ln m = M kappa / beta``. Every term is linear, so that derivatives
are sums of outer products, and a multiplier or equal exponents are other columns and no other code.
E, A and B are exponentials: above 0 by construction.

Runs of one seed share a level: a number of theirs that is added to ln L, and so to all three terms.
Levels are sought beside the law and add up to 0, so that no seed is taken for a size or a length of
which it has more runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_megatron.analysis.scaling.law import TRAINING_FLOPS, Law, Multiplier, Number
from tst_megatron.statistics.array import Array

Setting = str | None
"""Of the method; None is the baseline."""
Multipliers = Literal["constant", "log-linear"]
"""m one number a setting, or ``ln m = c0 + c_n ln(N / n0) + c_d ln(D / d0)``."""


@dataclass(frozen=True)
class Form:
    """Which law is fitted, and around which runs its logarithms are centred.

    Attributes:
        n0: parameters, the geometric mean of the runs'.
        d0: positions, likewise.
        settings: of the method, in the order of their columns.
        multipliers: what m is.
        equal_exponents: alpha = beta: four numbers in place of five.
        seeds: whose levels are sought; none, or two and more.
    """

    n0: float
    d0: float
    settings: tuple[str, ...] = ()
    multipliers: Multipliers = "constant"
    equal_exponents: bool = False
    seeds: tuple[object, ...] = ()

    @property
    def columns_of_multiplier(self) -> int:
        """Of one setting."""
        return 1 if self.multipliers == "constant" else 3

    @property
    def alpha(self) -> int:
        """The column of alpha: (e, a, b, beta, kappa ...), and alpha last, if it is its own."""
        return 3 if self.equal_exponents else self.parameters - 1

    @property
    def parameters(self) -> int:
        """Numbers of the law that are sought, which stand first."""
        own = 4 if self.equal_exponents else 5
        return own + len(self.settings) * self.columns_of_multiplier

    @property
    def columns(self) -> int:
        """All that is sought, P: the law's numbers, and the levels but for the last seed's."""
        return self.parameters + max(len(self.seeds) - 1, 0)

    def terms(
        self,
        n: Array,
        d: Array,
        setting: Sequence[Setting],
        seeds: Sequence[object] | None = None,
    ) -> Array:
        """The terms' columns ``[3, runs, P]``: a term is its columns times what is sought.

        Args:
            n: ``[runs]``, parameters.
            d: ``[runs]``, positions.
            setting: of each run.
            seeds: of each run; None is the law at the seeds' mean.
        """
        x, y = np.log(n / self.n0), np.log(d / self.d0)
        columns = np.zeros((3, len(n), self.columns))
        columns[0, :, 0] = columns[1, :, 1] = columns[2, :, 2] = 1
        columns[1, :, self.alpha] = -x
        columns[2, :, 3] = -y
        around = np.stack([np.ones_like(x), x, y][: self.columns_of_multiplier], axis=1)
        for place, name in enumerate(self.settings):
            of = np.array([one == name for one in setting], dtype=float)
            columns[2, :, self._columns(place)] = -of[:, None] * around
        if seeds is not None and self.seeds:
            of_seed = np.array([[one == name for name in self.seeds] for one in seeds], float)
            columns[:, :, self.parameters :] = of_seed[:, :-1] - of_seed[:, -1:]
        return columns

    def levels(self, sought: Array) -> Array:
        """The seeds' levels ``[..., seeds]``, which add up to 0."""
        levels = sought[..., self.parameters :]
        return np.concatenate([levels, -levels.sum(axis=-1, keepdims=True)], axis=-1)

    def law(self, sought: Array, flops_per_position: float = TRAINING_FLOPS) -> Law:
        """The law of ``[P]``, or the laws of ``[draws, P]``."""
        e, a, b, beta = (sought[..., column] for column in range(4))
        alpha = sought[..., self.alpha]
        return Law(
            E=_number(np.exp(e)),
            A=_number(np.exp(a + alpha * np.log(self.n0))),
            alpha=_number(alpha),
            B=_number(np.exp(b + beta * np.log(self.d0))),
            beta=_number(beta),
            multipliers={
                name: self._multiplier(sought[..., self._columns(place)] / beta[..., None])
                for place, name in enumerate(self.settings)
            },
            flops_per_position=flops_per_position,
        )

    def sought(self, law: Law) -> Array:
        """``[P]`` of a law, or ``[draws, P]`` of laws, its levels 0; `law` is the inverse."""
        numbers = [
            np.log(law.E),
            np.log(law.A) - law.alpha * np.log(self.n0),
            np.log(law.B) - law.beta * np.log(self.d0),
            law.beta,
        ]
        for name in self.settings:
            of = law.multipliers[name]
            middle = np.log(self.n0 / of.n0), np.log(self.d0 / of.d0)
            c0 = of.c0 + of.c_n * middle[0] + of.c_d * middle[1]
            numbers += [law.beta * c for c in (c0, of.c_n, of.c_d)[: self.columns_of_multiplier]]
        if not self.equal_exponents:
            numbers.append(law.alpha)
        numbers += [0.0] * (self.columns - self.parameters)
        return np.stack(np.broadcast_arrays(*numbers), axis=-1)

    def _columns(self, place: int) -> slice:
        width = self.columns_of_multiplier
        return slice(4 + place * width, 4 + (place + 1) * width)

    def _multiplier(self, coefficients: Array) -> Multiplier:
        """Of ``[..., 1 or 3]``."""
        numbers = [_number(coefficients[..., column]) for column in range(coefficients.shape[-1])]
        c0, c_n, c_d = numbers if len(numbers) == 3 else (numbers[0], 0.0, 0.0)
        return Multiplier(c0, c_n, c_d, self.n0, self.d0)


def _number(values: Array) -> Number:
    """A float of one number."""
    return values if np.ndim(values) else float(values)


def form_of(
    n: Array,
    d: Array,
    setting: Sequence[Setting],
    multipliers: Multipliers = "constant",
    equal_exponents: bool = False,
    seeds: Sequence[object] | None = None,
) -> Form:
    """The form for runs: centred on them, with their settings in the order of their names."""
    named = tuple(sorted({name for name in setting if name is not None}))
    n0, d0 = (float(np.exp(np.log(values).mean())) for values in (n, d))
    names = tuple(dict.fromkeys(seeds)) if seeds is not None else ()
    return Form(n0, d0, named, multipliers, equal_exponents, names if len(names) > 1 else ())
