"""``L = E + A N^-alpha + B (m D)^-beta``: a law of loss, and what follows from it.

The one idea: whatever a multiplier does, the law is ``E + A N^-alpha + B' N^-p D^-q``: a log-linear
one only moves the exponents. So the best size for a budget has a closed form with a method as
without one; only tokens that are served later or read again take a search, along one axis.

Every number of a law is a float, or an array ``[draws]``; a figure of a law of draws has that axis
first. The form is that of Hoffmann et al. (arXiv 2203.15556), approach 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tst_megatron.statistics.array import Array

Number = float | Array
"""A float, or float64 ``[draws]``."""

TRAINING_FLOPS = 6.0
"""FLOPs a parameter and position: forward, and twice that backward."""
SERVING_FLOPS = 2.0
"""FLOPs a parameter and served token: forward alone (Sardana et al., arXiv 2401.00448)."""
REPEAT_HALF_LIFE = 15.39
"""R*: epochs beyond the first over which repeats lose their worth (Muennighoff et al.,
arXiv 2305.16264, on C4). No constant of nature: it goes with weight decay (arXiv 2605.01640)."""

# Halvings of a bracket: its width in ln N, some hundreds at most, comes down to rounding.
_HALVINGS = 64
# Of the bracket for a size: factors of e above the least that reaches the loss.
_WIDEST = 200.0
# Beyond so many half-lives a repeat is worth nothing in double precision.
_WORTHLESS = 40.0


@dataclass(frozen=True)
class Multiplier:
    """What a method's data are worth: ``ln m = c0 + c_n ln(N / n0) + c_d ln(D / d0)``.

    Attributes:
        c0: ``ln m`` at `n0` and `d0`.
        c_n: slope over ln N; 0 of a constant.
        c_d: slope over ln D.
        n0: parameters at which `c0` holds.
        d0: positions at which `c0` holds.
    """

    c0: Number
    c_n: Number = 0.0
    c_d: Number = 0.0
    n0: float = 1.0
    d0: float = 1.0


@dataclass(frozen=True)
class Optimum:
    """The best run for a budget, or the cheapest for a loss.

    Attributes:
        n: parameters; NaN where no size is best for a budget, infinite where none has the loss.
        d: positions.
        loss: in the law's unit.
        flops: of training, and of serving where that was asked for.
    """

    n: Array
    d: Array
    loss: Array
    flops: Array

    @property
    def tokens_per_parameter(self) -> Array:
        """D / N."""
        return np.asarray(self.d / self.n)


@dataclass(frozen=True)
class Exponents:
    """How the best run grows with compute: N ~ C^a, D ~ C^b, L - E ~ C^-gamma; NaN without one."""

    a: Array
    b: Array
    gamma: Array


@dataclass(frozen=True)
class Law:
    """``L = E + A N^-alpha + B (m D)^-beta``, N in parameters, D in positions, L in nats a token or
    bits a byte.

    Attributes:
        E: loss that neither size nor length takes away.
        A: scale of what size takes away.
        alpha: its exponent.
        B: scale of what length takes away.
        beta: its exponent.
        multipliers: m of each setting of the method by its name; 1 where there is none.
        flops_per_position: FLOPs of training a parameter and position, k of C = k N D.
    """

    E: Number
    A: Number
    alpha: Number
    B: Number
    beta: Number
    multipliers: Mapping[str, Multiplier] = field(default_factory=dict)
    flops_per_position: float = TRAINING_FLOPS

    def loss(self, n: Any, d: Any, setting: str | None = None) -> Array:
        """Loss of runs.

        Args:
            n: parameters, a number or an array; broadcast with `d`.
            d: positions (effective ones where text is read again: `effective_data`).
            setting: of the method; None is the baseline.

        Returns:
            The shape of ``n`` and ``d``, behind ``[draws]`` where the law has them.

        Raises:
            KeyError: the law has no such setting.
        """
        n, d = np.broadcast_arrays(np.asarray(n, float), np.asarray(d, float))
        powers = self._powers(setting, n.ndim)
        return np.asarray(powers.E + powers.by_size(n) + powers.by_data(n, d))

    def multiplier(self, n: Any, d: Any, setting: str | None = None) -> Array:
        """m at sizes and lengths of the method's runs; shapes as of `loss`."""
        n, d = np.broadcast_arrays(np.asarray(n, float), np.asarray(d, float))
        of = _with_axes(self._multiplier(setting), n.ndim)
        return np.asarray(np.exp(of.c0 + of.c_n * np.log(n / of.n0) + of.c_d * np.log(d / of.d0)))

    def data_for_loss(self, loss: Any, n: Any, setting: str | None = None) -> Array:
        """Positions after which a size has a loss; infinite where no length gives it.

        Shapes as of `loss`, with the loss in the place of `d`; divide by the positions of a step
        for steps.
        """
        loss, n = np.broadcast_arrays(np.asarray(loss, float), np.asarray(n, float))
        return self._powers(setting, n.ndim).data_for_loss(loss, n)

    def exponents(self, setting: str | None = None) -> Exponents:
        """a, b and gamma of the best runs; each ``[draws]``, or a number."""
        powers = self._powers(setting, 0)
        slope = powers.q - powers.p
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.where(
                (slope > 0) & (powers.alpha > 0), powers.q / (powers.alpha + slope), np.nan
            )
        return Exponents(a, np.asarray(1 - a), np.asarray(powers.alpha * a))

    def optimum(
        self,
        flops: Any,
        setting: str | None = None,
        *,
        unique: float = np.inf,
        half_life: float = REPEAT_HALF_LIFE,
    ) -> Optimum:
        """The size and length of least loss for a budget.

        Args:
            flops: of training, a number or an array.
            setting: of the method; None is the baseline.
            unique: positions that the text there is gives without reading any of it again.
            half_life: R* of repeats.

        Returns:
            Each ``[draws, ...]``, or the shape of ``flops``.
        """
        flops = np.asarray(flops, float)
        powers = self._powers(setting, flops.ndim)
        product = flops / self.flops_per_position
        n = powers.best_size(product)
        if np.isfinite(unique):
            again = _root(
                lambda n: powers.gain_of_size(n, product / n, unique, half_life),
                np.broadcast_to(np.log(product / (unique * (1 + _WORTHLESS * half_life))), n.shape),
                np.broadcast_to(np.log(product / unique), n.shape),
            )
            n = np.where(product / n > unique, again, n)
        d = product / n
        effective = effective_data(d, unique, half_life)
        loss = powers.E + powers.by_size(n) + powers.by_data(n, effective)
        return Optimum(n, d, np.asarray(loss), np.broadcast_to(flops, n.shape))

    def cheapest(
        self,
        loss: Any,
        setting: str | None = None,
        *,
        served_tokens: float = 0.0,
        unique: float = np.inf,
        half_life: float = REPEAT_HALF_LIFE,
    ) -> Optimum:
        """The run of least compute that has a loss: least ``k N D + 2 N served_tokens``.

        Args:
            loss: in the law's unit, a number or an array.
            setting: of the method; None is the baseline.
            served_tokens: that the trained model is to read and write.
            unique: positions that the text there is gives without reading any of it again.
            half_life: R* of repeats.

        Returns:
            Each ``[draws, ...]``, or the shape of ``loss``.
        """
        loss = np.asarray(loss, float)
        powers = self._powers(setting, loss.ndim)
        left = loss - powers.E
        k, served = self.flops_per_position, SERVING_FLOPS * served_tokens

        def needed(n: Array) -> Array:
            return read_data(powers.data_for_loss(loss, n), unique, half_life)

        def saved_by_size(n: Array) -> Array:
            """How fast ln(k D + served) falls over ln N, less the 1 by which ln N itself grows."""
            d = needed(n)
            rest = left - powers.by_size(n)
            with np.errstate(all="ignore"):
                fall = powers.alpha * powers.by_size(n) / rest + powers.p
                fall = fall / (powers.q * worth(d, unique, half_life))
                share = np.where(np.isinf(d), 1.0, k * d / (k * d + served))
                return np.where(np.isfinite(d), fall * share - 1, np.inf)

        with np.errstate(divide="ignore", invalid="ignore"):
            least = np.log(powers.A / left) / powers.alpha
        n = _root(saved_by_size, least, least + _WIDEST)
        d = needed(n)
        # Where size always saves more than it costs, none is best; where data never suffice, it
        # seems to save without end.
        at_end = saved_by_size(np.exp(least + _WIDEST))
        nowhere = np.where((at_end > 0) & np.isfinite(at_end), np.nan, np.inf)
        found = np.isfinite(n) & np.isfinite(d) & ~(at_end > 0)
        n, d = np.where(found, n, nowhere), np.where(found, d, nowhere)
        return Optimum(n, d, np.where(found, loss, np.nan), np.asarray(n * (k * d + served)))

    @property
    def _is_drawn(self) -> bool:
        return np.ndim(self.E) > 0

    def _multiplier(self, setting: str | None) -> Multiplier:
        return Multiplier(0.0) if setting is None else self.multipliers[setting]

    def _powers(self, setting: str | None, axes: int) -> "_Powers":
        law, of = _with_axes(self, axes), _with_axes(self._multiplier(setting), axes)
        worth_at_one = of.c0 - of.c_n * np.log(of.n0) - of.c_d * np.log(of.d0)
        return _Powers(
            np.asarray(law.E, float),
            np.asarray(law.A, float),
            np.asarray(law.alpha, float),
            np.asarray(law.B * np.exp(-law.beta * worth_at_one)),
            np.asarray(law.beta * of.c_n, float),
            np.asarray(law.beta * (1 + of.c_d), float),
        )


@dataclass(frozen=True)
class _Powers:
    """``E + A N^-alpha + B N^-p D^-q``, each broadcast with the runs' axes."""

    E: Array
    A: Array
    alpha: Array
    B: Array
    p: Array
    q: Array

    def by_size(self, n: Array) -> Array:
        with np.errstate(over="ignore", divide="ignore"):
            return np.asarray(np.exp(np.log(self.A) - self.alpha * np.log(n)))

    def by_data(self, n: Array, d: Array) -> Array:
        # Of a draw that ran off one factor is beyond a float, and the product is not.
        with np.errstate(over="ignore", divide="ignore"):
            return np.asarray(np.exp(np.log(self.B) - self.p * np.log(n) - self.q * np.log(d)))

    def data_for_loss(self, loss: Array, n: Array) -> Array:
        """Data after which a size has a loss; infinite where no length gives it."""
        left = loss - self.E - self.by_size(n)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            d = (self.B * n**-self.p / left) ** (1 / self.q)
        return np.where((left > 0) & (self.q > 0), d, np.inf)

    def best_size(self, product: Array) -> Array:
        """N of least loss with N D held; NaN where the least is at no size."""
        slope = self.q - self.p
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = self.alpha * self.A / (slope * self.B)
            n = (scale * product**self.q) ** (1 / (self.alpha + slope))
        return np.where((slope > 0) & (self.alpha > 0), n, np.nan)

    def gain_of_size(self, n: Array, d: Array, unique: float, half_life: float) -> Array:
        """How fast the loss falls over ln N with N D held, where text is read again."""
        by_data = self.by_data(n, effective_data(d, unique, half_life))
        worth_of_data = self.q * worth(d, unique, half_life)
        return np.asarray(self.alpha * self.by_size(n) + (self.p - worth_of_data) * by_data)


def effective_data(d: Any, unique: float, half_life: float = REPEAT_HALF_LIFE) -> Array:
    """Fresh positions that are worth as much as `d` of which only `unique` are fresh.

    ``U + U R* (1 - exp(-(D/U - 1) / R*))`` beyond U (Muennighoff et al., equation 5).
    """
    d = np.asarray(d, float)
    if np.isinf(unique):
        return d
    repeats = np.maximum(d / unique - 1, 0)
    return np.where(d > unique, unique * (1 - half_life * np.expm1(-repeats / half_life)), d)


def read_data(effective: Any, unique: float, half_life: float = REPEAT_HALF_LIFE) -> Array:
    """Positions to read for so many effective ones: what `effective_data` takes; or infinite."""
    effective = np.asarray(effective, float)
    if np.isinf(unique):
        return effective
    with np.errstate(divide="ignore", invalid="ignore"):
        repeats = -half_life * np.log1p(-(effective / unique - 1) / half_life)
        read = np.where(effective > unique, unique * (1 + repeats), effective)
    return np.where(effective < unique * (1 + half_life), read, np.inf)


def worth(d: Any, unique: float, half_life: float = REPEAT_HALF_LIFE) -> Array:
    """How fast the logarithm of effective data grows over that of data: 1 while all are fresh."""
    d = np.asarray(d, float)
    if np.isinf(unique):
        return np.ones_like(d)
    with np.errstate(invalid="ignore"):
        slope = d / effective_data(d, unique, half_life) * np.exp(-(d / unique - 1) / half_life)
    return np.where(d > unique, slope, 1.0)


def _with_axes[T: (Law, Multiplier)](value: T, axes: int) -> T:
    """A value of draws, to be broadcast with arrays of so many axes behind theirs."""
    numbers: dict[str, Any] = {
        name: number.reshape(number.shape + (1,) * axes)
        for name, number in vars(value).items()
        if isinstance(number, np.ndarray) and number.ndim
    }
    return replace(value, **numbers)


def _root(falling: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """``exp`` of where a falling function of its logarithm is 0, by halving the bracket."""
    low, high = np.array(low, float), np.array(high, float)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = falling(np.exp(middle)) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.exp((low + high) / 2)
