"""How much a run's final loss moves by itself, and which cells that leaves alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite, sqrt
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

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


def levelled(results: Sequence[Result]) -> list[Result]:
    """The runs with a final loss, every seed's own level taken out of them.

    A seed is higher or lower in all its cells, by how it draws weights and text; that moves no
    difference between cells, but would where some cells have not been run with every seed. The
    level of all seeds together stays.
    """
    finite = [result for result in results if isfinite(result.loss)]
    if not finite:
        return []
    _, shifts, _ = _parted(finite)
    return [replace(result, loss=result.loss - shifts[result.seed]) for result in finite]


def noise_between_seeds(results: Sequence[Result]) -> Noise | None:
    """What is left of losses when the cell's mean and the seed's level are taken out of them.

    Returns:
        None where no cell has several seeds, or all that differs is the seed.
    """
    finite = [result for result in results if isfinite(result.loss)]
    if not finite:
        return None
    residuals, shifts, rank = _parted(finite)
    dof = len(finite) - rank
    if dof < 1:
        return None
    source = f"the spread between {len(shifts)} seeds"
    return Noise(float(sqrt(residuals @ residuals / dof)), dof, source)


def _parted(results: Sequence[Result]) -> tuple[NDArray[np.float64], dict[int, float], int]:
    """Losses parted into their cell's, their seed's and the rest.

    Returns:
        The rest ``[n]``, every seed's shift, which sum to 0, and how many numbers say it all.
    """
    configs = sorted({result.config for result in results})
    seeds = sorted({result.seed for result in results})
    design = np.zeros((len(results), len(configs) + len(seeds)))
    for row, result in enumerate(results):
        design[row, configs.index(result.config)] = 1.0
        design[row, len(configs) + seeds.index(result.seed)] = 1.0
    losses = np.array([result.loss for result in results])
    solution, _, rank, _ = np.linalg.lstsq(design, losses, rcond=None)
    of_seeds = solution[len(configs) :]
    shifts = dict(zip(seeds, map(float, of_seeds - of_seeds.mean()), strict=True))
    return losses - design @ solution, shifts, int(rank)


def noise_of_evaluation(results: Sequence[Result]) -> Noise | None:
    """The mean standard error of the held-out losses; None where they have none."""
    errors = [result.stderr for result in results if result.stderr and isfinite(result.stderr)]
    if not errors:
        return None
    return Noise(fmean(errors), float("inf"), "the error of the held-out evaluation alone")


def means_of(results: Iterable[Result]) -> dict[Config, tuple[float, int]]:
    """Mean loss and number of runs of every cell."""
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
