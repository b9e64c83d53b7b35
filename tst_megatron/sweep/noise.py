"""How much a run's final loss moves by itself, and which cells that leaves alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, sqrt
from statistics import fmean

import numpy as np

from tst_megatron.sweep.grid import Config
from tst_megatron.sweep.results import Result

CONFIDENCE = 0.95
# Of the drawn quantiles: their own error is below 1 % of them.
_DRAWS = 200_000


@dataclass(frozen=True)
class Noise:
    """The scatter of one run's final loss.

    Attributes:
        sd: standard deviation, nats a token.
        dof: degrees of freedom it was estimated with; infinity where it is taken as known.
        source: where it comes from, in words.
    """

    sd: float
    dof: float
    source: str

    def margin(self, num_runs: int, num_others: int) -> float:
        """How far the means of two cells may be apart by chance."""
        return t_quantile(self.dof) * self.sd * sqrt(1 / num_runs + 1 / num_others)


def noise_between_seeds(results: Sequence[Result]) -> Noise | None:
    """What is left of losses when the cell's mean and the seed's are taken out of them.

    A seed's own shift is common to all its cells, so it moves no difference between them.

    Returns:
        None where no cell has several seeds, or all that differs is the seed.
    """
    finite = [result for result in results if isfinite(result.loss)]
    if not finite:
        return None
    columns = [
        *_columns([result.config for result in finite]),
        *_columns([result.seed for result in finite]),
    ]
    design = np.stack(columns, axis=1)
    losses = np.array([result.loss for result in finite])
    solution, _, rank, _ = np.linalg.lstsq(design, losses, rcond=None)
    dof = len(finite) - int(rank)
    if dof < 1:
        return None
    residuals = losses - design @ solution
    seeds = len({result.seed for result in finite})
    return Noise(float(sqrt(residuals @ residuals / dof)), dof, f"the spread between {seeds} seeds")


def noise_of_evaluation(results: Sequence[Result]) -> Noise | None:
    """The mean standard error of the held-out losses; None where they have none."""
    errors = [result.stderr for result in results if result.stderr and isfinite(result.stderr)]
    if not errors:
        return None
    return Noise(fmean(errors), float("inf"), "the error of the held-out evaluation alone")


def means_of(results: Iterable[Result]) -> dict[Config, tuple[float, int]]:
    """Mean loss and number of runs of every cell; NaN where a run diverged."""
    losses: dict[Config, list[float]] = {}
    for result in results:
        losses.setdefault(result.config, []).append(result.loss)
    return {config: (fmean(values), len(values)) for config, values in losses.items()}


@cache
def t_quantile(dof: float) -> float:
    """The upper end of Student's t distribution's middle 95 %."""
    rng = np.random.default_rng(0)
    draws = rng.standard_normal(_DRAWS) if dof == float("inf") else rng.standard_t(dof, _DRAWS)
    return float(np.quantile(np.abs(draws), CONFIDENCE))


def _columns(values: Sequence[object]) -> list[np.ndarray]:
    return [
        np.array([float(value == one) for value in values])
        for one in sorted(set(values), key=values.index)
    ]
