"""How much a run's final loss moves by itself, and which cells that leaves alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import floor, isfinite, sqrt
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from tst_megatron.runs.outcomes import Choice, Outcome

CONFIDENCE = 0.95
# Of the drawn quantiles: their own error is below 1 % of them.
_DRAWS = 200_000


@dataclass(frozen=True)
class Noise:
    """The scatter of one run's final loss.

    Attributes:
        sd: standard deviation, nats a token.
        dof: degrees of freedom it was estimated with.
        source: where it comes from, in words.
    """

    sd: float
    dof: float
    source: str

    def margin(self, num_runs: int, num_others: int, chosen_of: int = 1) -> float:
        """How far the means of two cells may be apart by chance.

        Args:
            num_runs: of one.
            num_others: of the other.
            chosen_of: cells of which one is the lowest: the luckiest of many is lower by chance
                than any one of them (Bonferroni's bound).
        """
        # Whole degrees, of which there are few to be drawn for; down, which is wider.
        quantile = t_quantile(max(1, floor(self.dof)), chosen_of)
        return quantile * self.sd * sqrt(1 / num_runs + 1 / num_others)


@dataclass(frozen=True)
class Parted:
    """Losses parted into their cells', their seeds' and the rest.

    Attributes:
        runs: every seed's own level taken out of their losses; the level of all together stays.
        rest: what neither says ``[n]``.
        num_levels: of seeds, as far as they have been estimated.
        num_numbers: that cells and seeds say together.
        is_joined: whether any two cells can be compared; see `parted`.
    """

    runs: tuple[Outcome, ...]
    rest: NDArray[np.float64]
    num_levels: int
    num_numbers: int
    is_joined: bool


def usable(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The runs of cells that all ended with a loss.

    A choice with a seed that diverged is none, whatever its other seeds came to. The baseline is
    not chosen but compared with: its other runs stay.
    """
    outcomes = list(outcomes)
    out = {r.choice for r in outcomes if not isfinite(r.loss) and not r.choice.is_baseline}
    return [r for r in outcomes if isfinite(r.loss) and r.choice not in out]


def parted(outcomes: Iterable[Outcome]) -> Parted:
    """The usable runs, every seed's own level taken out of them.

    A seed is higher or lower in all its cells, by how it draws weights and text; that moves no
    difference between cells, but would where some cells have not been run with every seed. A level
    is estimated from differences within cells alone: where no cell joins two groups of seeds, what
    is between them stays in the cells' losses. That is noise like any other where each cell has
    seeds of its own; else the cells cannot be compared, as some differ by it and some do not.
    """
    runs = usable(outcomes)
    choices = sorted({run.choice for run in runs})
    seeds = sorted({run.seed for run in runs})
    losses = np.array([run.loss for run in runs])
    of_cell = np.array([[run.choice == choice for choice in choices] for run in runs], float)
    of_seed = np.array([[run.seed == seed for seed in seeds] for run in runs], float)
    if not runs:
        return Parted((), losses, 0, 0, is_joined=True)
    mean = of_cell @ (of_cell / of_cell.sum(axis=0)).T
    within, within_seeds = losses - mean @ losses, of_seed - mean @ of_seed
    # The solution of least norm: the levels of seeds that are joined sum to 0.
    levels, _, rank, _ = np.linalg.lstsq(within_seeds, within, rcond=None)
    groups = len(seeds) - int(rank)
    if groups == len(choices) > 1:
        levels, rank = np.zeros(len(seeds)), 0
    level = of_seed @ levels
    return Parted(
        tuple(replace(run, loss=run.loss - float(x)) for run, x in zip(runs, level, strict=True)),
        within - within_seeds @ levels,
        int(rank),
        len(choices) + int(rank),
        is_joined=groups in (1, len(choices)),
    )


def levelled(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """The usable runs, every seed's own level taken out of them."""
    return parted(outcomes).runs


def noise_between_seeds(outcomes: Sequence[Outcome]) -> Noise | None:
    """What is left of losses when the cell's mean and the seed's level are taken out of them.

    Returns:
        None where no cell has several seeds, all that differs is the seed, or cells cannot be
        compared.
    """
    parts = parted(outcomes)
    dof = len(parts.runs) - parts.num_numbers
    if dof < 1 or not parts.is_joined:
        return None
    source = f"the spread between {len({run.seed for run in parts.runs})} seeds"
    return Noise(float(sqrt(parts.rest @ parts.rest / dof)), dof, source)


def means_of(outcomes: Iterable[Outcome]) -> dict[Choice, tuple[float, int]]:
    """Mean loss and number of runs of every cell."""
    losses: dict[Choice, list[float]] = {}
    for outcome in outcomes:
        losses.setdefault(outcome.choice, []).append(outcome.loss)
    return {choice: (fmean(values), len(values)) for choice, values in losses.items()}


@cache
def t_quantile(dof: int, num_tests: int = 1) -> float:
    """The upper end of Student's t distribution's middle 95 %, that of all of some tests."""
    draws = np.random.default_rng(0).standard_t(dof, _DRAWS)
    return float(np.quantile(np.abs(draws), 1 - (1 - CONFIDENCE) / num_tests))
