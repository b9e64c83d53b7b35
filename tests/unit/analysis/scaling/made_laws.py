"""Runs made from a law: the study's grid, its method and its seeds, and the published law's."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tst_megatron.analysis.scaling.fitting import Fit, fit, refit
from tst_megatron.analysis.scaling.law import Law, Multiplier
from tst_megatron.statistics.array import Array

METHOD = "candidate"
POSITIONS_OF_A_STEP = 512 * 16
SIZES = (51e3, 156e3, 525e3, 2.07e6, 3.6e6)
STEPS = (3_500, 14_000, 56_000)
SEEDS = (1, 2, 3)
STUDY = Law(1.05, 40.0, 0.34, 110.0, 0.37, {METHOD: Multiplier(np.log(2.0))})
# Epoch's Huber minimum, which the facts' figures are of.
CHINCHILLA = Law(1.81722, 477.83, 0.34731, 2143.4, 0.36717)


@dataclass(frozen=True)
class Made:
    n: Array
    d: Array
    setting: tuple[str | None, ...]
    seeds: tuple[int, ...]
    ln_loss: Array

    def noisy(
        self,
        rng: np.random.Generator,
        rest: float,
        level: float = 0.0,
        *,
        by_side: float = 0.0,
        by_size: float = 0.0,
        of_method: float = 1.0,
    ) -> Array:
        """Losses whose logarithms a seed moves by its level, and every run by its own.

        Args:
            by_side, by_size: what a seed does to the runs of one side, of one size.
            of_method: how many times ``rest`` the method's runs move.
        """

        def normal(keys: list[object]) -> Array:
            moved = {key: rng.standard_normal() for key in dict.fromkeys(keys)}
            return np.array([moved[key] for key in keys])

        own = rest * np.where([one is None for one in self.setting], 1.0, of_method)
        return np.exp(
            self.ln_loss
            + level * normal([*self.seeds])
            + by_side * normal([*zip(self.seeds, self.setting, strict=True)])
            + by_size * normal([*zip(self.seeds, self.n, strict=True)])
            + own * rng.standard_normal(len(self.n))
        )

    def cut_off(self) -> "Made":
        """Before all seeds are done: one of what is large or long."""
        kept = [
            run
            for run, seed in enumerate(self.seeds)
            if seed == SEEDS[0]
            or self.n[run] < 1e5
            or (self.n[run] < 1e6 and self.d[run] < STEPS[-1] * POSITIONS_OF_A_STEP)
        ]
        setting, seeds = (tuple(one[run] for run in kept) for one in (self.setting, self.seeds))
        return Made(self.n[kept], self.d[kept], setting, seeds, self.ln_loss[kept])

    def fits(
        self, losses: Array, seeds: tuple[int, ...] | None, delta: float | None = None
    ) -> Iterator[Fit]:
        """A fit of each of ``[repetitions, runs]``, at the first one's constant."""
        first = fit(self.n, self.d, losses[0], self.setting, delta=delta, seeds=seeds)
        rows = refit(first, losses)
        assert rows.converged.all()
        for loss, sought in zip(losses, rows.sought, strict=True):
            yield replace(first, loss=loss, sought=sought, law=first.form.law(sought))


def made_study(law: Law = STUDY, settings: tuple[str | None, ...] = (None, METHOD)) -> Made:
    """Five sizes, three lengths of the smaller ones, and two seeds of the largest."""
    runs = [
        (n, steps * POSITIONS_OF_A_STEP, setting, seed)
        for n in SIZES
        for steps in STEPS
        for setting in settings
        for seed in SEEDS
        if not (steps == max(STEPS) and n > 6e5) and not (n == max(SIZES) and seed == 3)
    ]
    n, d = (np.array(values) for values in list(zip(*runs, strict=True))[:2])
    setting, seeds = (tuple(values) for values in list(zip(*runs, strict=True))[2:])
    losses = [law.loss(*run[:3]) for run in runs]
    return Made(n, d, setting, seeds, np.log(np.array(losses)))


def grid(times: float, count: int, n: float = 1e8, d: float = 2e9) -> tuple[Array, Array]:
    """Sizes from ``n`` and lengths from ``d`` on, each so many times apart."""
    steps = np.geomspace(1, times, count)
    sizes, lengths = np.meshgrid(n * steps, d * steps)
    return sizes.ravel(), lengths.ravel()


def iso_flop_lines(budgets: Array, times: float, law: Law = CHINCHILLA) -> tuple[Array, Array]:
    """Nine sizes a budget, so many times apart around the best one."""
    steps = np.geomspace(times**-0.5, times**0.5, 9)
    best = law.optimum(budgets)
    return np.outer(best.n, steps).ravel(), np.outer(best.d, 1 / steps).ravel()
