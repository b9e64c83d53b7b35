"""Run a sweep, all of its grid or by halving, and collect what its runs ended with."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from tst_megatron.experiments.cells import Cell
from tst_megatron.sweep.grid import BASELINE, Config, Grid
from tst_megatron.sweep.halving import Rung, Search, better, rungs_of
from tst_megatron.sweep.results import Result, result_of
from tst_megatron.sweep.settings import SweepSettings
from tst_megatron.sweep.training import Machine, Trained, train_within


@dataclass(frozen=True)
class Sweep:
    """A sweep in its folder.

    Attributes:
        root: the cells' folders lie in here.
        settings: of every run.
        grid: what is asked for, with its seeds.
        machine: how runs are started.
        budget_hours: GPU hours of all runs, core hours on a CPU; None for no end.
    """

    root: Path
    settings: SweepSettings
    grid: Grid
    machine: Machine
    budget_hours: float | None

    def cells(self, configs: Sequence[Config], num_steps: int | None = None) -> list[Cell]:
        """Runs of some configs, all of a seed before those of the next."""
        return [self.settings.cell(c, seed, num_steps) for seed in self.grid.seeds for c in configs]

    def results(self, failed: Collection[str] = ()) -> list[Result]:
        """The whole runs that are done, of the grid and its baselines.

        Args:
            failed: names of cells whose runs broke off, to be there without a loss.
        """
        found = []
        for config in (BASELINE, *self.grid.configs):
            for seed in self.grid.seeds:
                cell = self.settings.cell(config, seed)
                result = result_of(self.root, cell, config, seed)
                if cell.name in failed:
                    result = Result(config, seed, math.nan)
                if result is not None:
                    found.append(result)
        return found


def run_grid(sweep: Sweep, console: Console) -> Trained:
    """Train the whole grid.

    Raises:
        UserError: as of `train_within`.
    """
    cells = sweep.cells(sweep.grid.ordered_configs())
    return train_within(sweep.root, cells, sweep.machine, console, sweep.budget_hours)


def run_halving(
    sweep: Sweep, configs: Sequence[Config], console: Console
) -> tuple[Trained, Search]:
    """Train rung after rung, each with the better half of the one before; the baseline comes last.

    Args:
        sweep: with the grid.
        configs: of the grid, those to choose from.
        console: where progress goes.

    Raises:
        UserError: as of `train_within`.
    """
    grid, settings = sweep.grid, sweep.settings
    rungs = rungs_of(len(configs), settings.num_steps)
    left = [config for config in grid.ordered_configs() if config in configs]
    losses: list[Mapping[Config, float]] = []
    earlier: list[Cell] = []
    failed: dict[str, str] = {}
    for rung in rungs:
        whole = rung.steps == settings.num_steps
        cells = sweep.cells([*left, BASELINE] if whole else left, rung.steps)
        console.print(
            f"{rung.steps:,} steps a run: " + ", ".join(str(config) for config in left),
            highlight=False,
        )
        trained = train_within(
            sweep.root, cells, sweep.machine, console, sweep.budget_hours, earlier
        )
        failed |= trained.failed
        if not trained.finished or trained.left_out:
            break
        earlier += cells
        losses.append(_losses(sweep, left, rung))
        left = list(better(losses[-1], -(-len(left) // 2)))
    return replace(trained, failed=failed), Search(
        rungs,
        tuple(losses),
        len(grid.seeds),
        len(configs) * settings.num_steps * len(grid.seeds),
        _best_of(sweep, configs),
    )


def _losses(sweep: Sweep, configs: Sequence[Config], rung: Rung) -> dict[Config, float]:
    """Mean final losses over the seeds; NaN where a run diverged or failed."""
    losses = {}
    for config in configs:
        results = [
            result_of(sweep.root, sweep.settings.cell(config, seed, rung.steps), config, seed)
            for seed in sweep.grid.seeds
        ]
        losses[config] = fmean(math.nan if r is None else r.loss for r in results)
    return losses


def _best_of(sweep: Sweep, configs: Sequence[Config]) -> tuple[Config, float] | None:
    """The best of some configs, where all of their whole runs are in the folder."""
    by_config: dict[Config, list[float]] = {config: [] for config in configs}
    for result in sweep.results():
        if result.config in by_config:
            by_config[result.config].append(result.loss)
    if any(len(losses) < len(sweep.grid.seeds) for losses in by_config.values()):
        return None
    means = {config: fmean(losses) for config, losses in by_config.items()}
    (best,) = better(means, 1)
    return best, means[best]
