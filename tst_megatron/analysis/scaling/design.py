"""What planned runs would tell of a law, before one of them runs.

The one idea: a law guessed, or fitted elsewhere, has slopes at the planned sizes and lengths, and
those alone say how the scatter of losses becomes an error of whatever is asked. Small exponents'
errors are bought with runs far apart in size *and* in length; runs along one line, of equal compute
or of equal tokens a parameter, buy hardly any, however many they are.

Errors are those of least squares to first order. Huber's loss at its default constant has 5 % more
variance at normal scatter; a law that does not describe the runs is not foreseen at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tst_megatron.analysis.scaling.fitting import jacobian
from tst_megatron.analysis.scaling.form import Form, Multipliers, Setting, form_of
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.statistics.array import Array

# Steps of what is sought for slopes of a figure: the error of the slope is of the order of the
# square, and of rounding over it, both about 1e-10 of the figure.
_STEP = 1e-5


@dataclass(frozen=True)
class Expected:
    """What the runs would tell.

    Attributes:
        law: that is supposed.
        form: what is sought.
        sought: ``[P]``, the law in the form's coordinates: exponents, and logarithms of what E,
            size and length contribute at the runs' geometric means.
        rank: how many of the P numbers the runs tell apart.
        condition: of the slopes ``[runs, P]`` of ln L over the coordinates; infinite below
            full rank. Chinchilla's 240 runs have 62.
        covariance: ``[P, P]`` of what would be found; infinite on the diagonal below full rank.
    """

    law: Law
    form: Form
    sought: Array
    rank: int
    condition: float
    covariance: Array

    def standard_error(self, figure: Callable[[Law], Array]) -> float:
        """Of a figure of the law, to first order; infinite where the runs do not tell the law.

        Args:
            figure: of laws whose numbers are ``[draws]``: ``[draws]``.
        """
        if not np.isfinite(self.condition):
            return float("inf")
        steps = _STEP * np.eye(len(self.sought))
        either = np.concatenate([self.sought + steps, self.sought - steps])
        up, down = np.split(figure(self.form.law(either, self.law.flops_per_position)), 2)
        slope = (up - down) / (2 * _STEP)
        return float(np.sqrt(slope @ self.covariance @ slope))

    @property
    def alpha(self) -> float:
        """Standard error of alpha."""
        return self.standard_error(lambda law: np.asarray(law.alpha))

    @property
    def beta(self) -> float:
        """Standard error of beta."""
        return self.standard_error(lambda law: np.asarray(law.beta))

    @property
    def a(self) -> float:
        """Standard error of a of N ~ C^a."""
        return self.standard_error(lambda law: law.exponents().a)

    def ln_multiplier(self, setting: str) -> float:
        """Standard error of ln m at the runs' geometric means."""
        n0, d0 = self.form.n0, self.form.d0
        return self.standard_error(lambda law: np.log(law.multiplier(n0, d0, setting)))

    def ln_loss(self, n: float, d: float, setting: Setting = None) -> float:
        """Standard error of the law's ln L at a size and a length, such as one to be predicted."""
        return self.standard_error(lambda law: np.log(law.loss(n, d, setting)))


def expected(
    law: Law,
    n: Array,
    d: Array,
    setting: Sequence[Setting] | None = None,
    seeds: Sequence[object] | None = None,
    *,
    rest: float,
    level: float = 0.0,
    multipliers: Multipliers = "constant",
    equal_exponents: bool = False,
) -> Expected:
    """What runs would tell if a law were true.

    Args:
        law: that is supposed, with a multiplier of every setting.
        n: ``[runs]``, parameters.
        d: ``[runs]``, positions.
        setting: of each run; None is the baseline.
        seeds: of each run, whose levels would be fitted beside the law; None: one each.
        rest: standard deviation of ln L of a run about its seed's level.
        level: standard deviation of ln L between seeds.
        multipliers: that would be fitted.
        equal_exponents: alpha = beta would be fitted.
    """
    n, d = (np.array(values, float) for values in (n, d))
    settings = tuple(setting) if setting is not None else (None,) * len(n)
    form = form_of(n, d, settings, multipliers, equal_exponents, seeds)
    sought = form.sought(law)
    slopes = jacobian(form.terms(n, d, settings, seeds), sought)
    rank, condition = rank_and_condition(slopes[:, : form.parameters])
    if not np.isfinite(rank_and_condition(slopes)[1]):
        condition = float("inf")
    covariance = np.full((form.columns,) * 2, np.inf)
    if np.isfinite(condition):
        inverse = np.linalg.pinv(slopes, rcond=0)
        # Without seeds every run has a level of its own, which is scatter.
        own = rest**2 if seeds is not None else rest**2 + level**2
        # The levels' mean is a level of all runs: e, a and b move by it alike.
        common = np.zeros(form.columns)
        common[:3] = level / np.sqrt(max(len(form.seeds), 1)) if seeds is not None else 0
        covariance = own * inverse @ inverse.T + np.outer(common, common)
    return Expected(law, form, sought, rank, condition, covariance)


def rank_and_condition(slopes: Array) -> tuple[int, float]:
    """Of slopes ``[runs, P]``; the condition is infinite below full rank."""
    sizes = np.linalg.svd(slopes, compute_uv=False)
    # numpy's own bound for what rounding leaves of a 0.
    rank = int((sizes > sizes[0] * max(slopes.shape) * np.finfo(float).eps).sum())
    full = rank == slopes.shape[1]
    return rank, float(sizes[0] / sizes[-1]) if full else float("inf")
