"""Successive halving: short runs of all pairs, longer ones of the better half, and so on.

The one idea: a rung is whole runs. Each has its own recovery phase and its own decay, in the same
shares of the steps as the run it stands for, so that losses are compared where they end and not in
the middle of a phase.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tst_megatron.sweep.grid import Config

_MOST_RUNGS = 4  # The shortest runs are an eighth.


@dataclass(frozen=True)
class Rung:
    """Runs of one length.

    Attributes:
        steps: of each.
        num_configs: pairs that are run.
    """

    steps: int
    num_configs: int


def rungs_of(num_configs: int, num_steps: int) -> tuple[Rung, ...]:
    """The rungs of a search, the last of them whole runs.

    Args:
        num_configs: pairs to choose from; each rung keeps the better half, rounded up.
        num_steps: N; the rungs before have N/2, N/4 and N/8 steps, as many of them as there are
            halves to be left out.
    """
    number = min(_MOST_RUNGS, 1 + math.ceil(math.log2(num_configs)))
    rungs = []
    for rung in range(number):
        rungs.append(Rung(max(1, num_steps // 2 ** (number - 1 - rung)), num_configs))
        num_configs = -(-num_configs // 2)
    return tuple(rungs)


def better(losses: Mapping[Config, float], number: int) -> tuple[Config, ...]:
    """The configs of the lowest losses, lowest first; one that diverged comes last."""

    def rank(config: Config) -> tuple[bool, float]:
        loss = losses[config]
        return not math.isfinite(loss), loss

    return tuple(sorted(losses, key=rank)[:number])


def steps_of(rungs: Sequence[Rung], num_seeds: int) -> int:
    """Steps of all runs of a search, without the baseline's."""
    return sum(rung.steps * rung.num_configs for rung in rungs) * num_seeds


@dataclass(frozen=True)
class Search:
    """What a search did.

    Attributes:
        rungs: as planned.
        losses: of each rung that was run, mean over seeds by config.
        num_seeds: runs of a config.
        grid_steps: what the whole grid takes.
        best_of_grid: the lowest mean loss of whole runs of the whole grid; None where these were
            not all run, so that nobody knows.
    """

    rungs: tuple[Rung, ...]
    losses: tuple[Mapping[Config, float], ...]
    num_seeds: int
    grid_steps: int
    best_of_grid: tuple[Config, float] | None

    @property
    def is_done(self) -> bool:
        """Whether the last rung was run."""
        return len(self.losses) == len(self.rungs)

    @property
    def chosen(self) -> Config | None:
        """The best of the last rung; None where none of it has a loss."""
        if not self.is_done:
            return None
        (best,) = better(self.losses[-1], 1)
        return best if math.isfinite(self.losses[-1][best]) else None

    @property
    def cost_share(self) -> float:
        """Its steps over the whole grid's, the baseline in neither."""
        return steps_of(self.rungs, self.num_seeds) / self.grid_steps

    @property
    def regret(self) -> float | None:
        """The loss of what was chosen over the grid's best, nats; None where one is not known."""
        if self.chosen is None or self.best_of_grid is None:
            return None
        return self.losses[-1][self.chosen] - self.best_of_grid[1]
