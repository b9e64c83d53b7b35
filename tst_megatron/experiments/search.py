"""Run choices with seeds: all of them whole, or by successive halving.

Halving makes short runs of all, longer ones of the better half, and so on. The one idea: a rung is
whole runs. Each has its own recovery and its own decay, in the same shares of the steps as the run
it stands for, so that losses are compared where they end and not in the middle of a stage.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from tst_megatron.experiments.budget import Trained, hours_spent, train_within
from tst_megatron.experiments.cells import Cell, Places, is_done, ledger_of
from tst_megatron.runs.ledger import read_ledger
from tst_megatron.runs.outcomes import Choice, Outcome, without_rate

_MOST_RUNGS = 4  # The shortest runs are an eighth.


@dataclass(frozen=True)
class Trials:
    """Runs of choices with seeds, in a folder.

    Attributes:
        root: the cells' folders lie in here.
        choices: in the order in which they are run, the baseline first; at several learning rates
            each, perhaps (`AtRate`).
        seeds: likewise.
        num_steps: of a whole run.
        cell_of: a choice, a seed and a number of steps as a run.
        places: where runs are put.
        budget_hours: GPU hours of all runs, core hours on a CPU; None for no end.
    """

    root: Path
    choices: tuple[Choice, ...]
    seeds: tuple[int, ...]
    num_steps: int
    cell_of: Callable[[Choice, int, int], Cell]
    places: Places
    budget_hours: float | None = None

    @property
    def baselines(self) -> list[Choice]:
        """What is compared with and not chosen: one, or one a learning rate."""
        return [choice for choice in self.choices if choice.is_baseline]

    def cells(
        self, choices: Sequence[Choice], num_steps: int, seeds: Sequence[int] | None = None
    ) -> list[Cell]:
        """Runs of some choices with some seeds or all, those of a seed before those of the next."""
        each = self.seeds if seeds is None else seeds
        return [self.cell_of(c, seed, num_steps) for seed in each for c in choices]

    def train(
        self, cells: Sequence[Cell], console: Console, earlier: Sequence[Cell] = ()
    ) -> Trained:
        """As `train_within`."""
        return train_within(self.root, cells, self.places, console, self.budget_hours, earlier)

    def outcomes(self, failed: Collection[str] = ()) -> list[Outcome]:
        """Of the whole runs that are done, choices in their own order.

        Args:
            failed: names of cells whose runs broke off, to be there without a loss.
        """
        found = []
        for choice in sorted(self.choices):
            for seed in self.seeds:
                if self.cell_of(choice, seed, self.num_steps).name in failed:
                    found.append(Outcome(choice, seed, math.nan))
                elif (outcome := self.outcome(choice, seed, self.num_steps)) is not None:
                    found.append(outcome)
        return found

    def outcome(self, choice: Choice, seed: int, num_steps: int) -> Outcome | None:
        """Of a run, from its ledger; None while it is not done."""
        cell = self.cell_of(choice, seed, num_steps)
        if not is_done(self.root, cell):
            return None
        ledger = read_ledger(ledger_of(self.root, cell))
        last = ledger.validations[-1]
        loss = last["next_token_loss"]
        return Outcome(
            choice,
            seed,
            math.nan if loss is None else float(loss),
            last.get("next_token_loss_stderr"),
            num_steps,
            last.get("data_tokens"),
            hours_spent(ledger),
        )


@dataclass(frozen=True)
class Rung:
    """Runs of one length.

    Attributes:
        steps: of each.
        num_choices: choices that are run.
        num_baselines: learning rates of the baseline that are run beside them, to be chosen of.
    """

    steps: int
    num_choices: int
    num_baselines: int = 0


def rungs_of(num_choices: int, num_steps: int, num_baselines: int = 0) -> tuple[Rung, ...]:
    """The rungs of a search, the last of them whole runs.

    Args:
        num_choices: to choose from; each rung keeps the better half, rounded up.
        num_steps: N; the rungs before have N/2, N/4 and N/8 steps, as many of them as there are
            halves to be left out.
        num_baselines: learning rates of the baseline, of which the better half is kept likewise; 0
            where it has one and is no part of the search.
    """
    number = min(_MOST_RUNGS, 1 + math.ceil(math.log2(num_choices)))
    rungs = []
    for rung in range(number):
        steps = max(1, num_steps // 2 ** (number - 1 - rung))
        rungs.append(Rung(steps, num_choices, num_baselines))
        num_choices, num_baselines = -(-num_choices // 2), -(-num_baselines // 2)
    return tuple(rungs)


def better(losses: Mapping[Choice, float], number: int) -> tuple[Choice, ...]:
    """The choices of the lowest losses, lowest first; one that diverged comes last."""

    def rank(choice: Choice) -> tuple[bool, float]:
        loss = losses[choice]
        return not math.isfinite(loss), loss

    return tuple(sorted(losses, key=rank)[:number])


def steps_of(rungs: Sequence[Rung], num_seeds: int) -> int:
    """Steps of all runs of a search; of the baseline's, those of a search for its rate."""
    return sum(rung.steps * (rung.num_choices + rung.num_baselines) for rung in rungs) * num_seeds


@dataclass(frozen=True)
class Halving:
    """What halving did.

    Attributes:
        rungs: as planned.
        losses: of each rung that was run, mean over seeds by choice.
        num_seeds: runs of a choice.
        grid_steps: what the whole grid takes.
        best_of_grid: the lowest mean loss of whole runs of the whole grid; None where these were
            not all run, so that nobody knows.
        of_baseline: likewise to `losses`, of the baseline's learning rates where it has several.
    """

    rungs: tuple[Rung, ...]
    losses: tuple[Mapping[Choice, float], ...]
    num_seeds: int
    grid_steps: int
    best_of_grid: tuple[Choice, float] | None
    of_baseline: tuple[Mapping[Choice, float], ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the last rung was run."""
        return len(self.losses) == len(self.rungs)

    @property
    def chosen(self) -> Choice | None:
        """The best of the last rung; None where none of it has a loss."""
        if not self.is_done:
            return None
        (best,) = better(self.losses[-1], 1)
        return best if math.isfinite(self.losses[-1][best]) else None

    @property
    def cost_share(self) -> float:
        """Its steps over the whole grid's, a baseline of one learning rate in neither."""
        return steps_of(self.rungs, self.num_seeds) / self.grid_steps

    @property
    def regret(self) -> float | None:
        """The loss of what was chosen over the grid's best, nats; None where one is not known."""
        if self.chosen is None or self.best_of_grid is None:
            return None
        return self.losses[-1][self.chosen] - self.best_of_grid[1]


def run_grid(trials: Trials, console: Console) -> Trained:
    """Train all of them.

    Of several learning rates a choice, all are run with the first seed, and the best of each choice
    with the others: what chooses a rate is not what says how good it is.

    Raises:
        UserError: as of `train_within`.
    """
    units = trials.choices
    if len({without_rate(unit) for unit in units}) == len(units):
        return trials.train(trials.cells(units, trials.num_steps), console)
    first, *others = trials.seeds
    choosing = trials.cells(units, trials.num_steps, (first,))
    trained = trials.train(choosing, console)
    if not others or not trained.finished or trained.left_out:
        return trained
    best = best_rates(_losses(trials, units, trials.num_steps, (first,)))
    confirming = trials.cells(best, trials.num_steps, others)
    console.print(
        f"With the other seeds: {', '.join(map(str, best))}", highlight=False, soft_wrap=True
    )
    then = trials.train(confirming, console, choosing)
    return replace(then, failed=trained.failed | then.failed)


def best_rates(losses: Mapping[Choice, float]) -> list[Choice]:
    """The best learning rate of each choice, choices in their order; none where all diverged."""
    by_choice: dict[Choice, list[Choice]] = {}
    for unit in losses:
        by_choice.setdefault(without_rate(unit), []).append(unit)
    best = [better({unit: losses[unit] for unit in units}, 1)[0] for units in by_choice.values()]
    return [unit for unit in best if math.isfinite(losses[unit])]


def run_halving(
    trials: Trials, candidates: Sequence[Choice], console: Console
) -> tuple[Trained, Halving]:
    """Train rung after rung, each with the better half of the one before; the baseline comes last.

    A baseline of several learning rates is halved beside them.

    Args:
        trials: of the whole grid.
        candidates: of its choices, those to choose from.
        console: where progress goes.

    Raises:
        UserError: as of `train_within`.
    """
    num_seeds = len(trials.seeds)
    baselines = trials.baselines
    tuned = baselines if len(baselines) > 1 else []
    rungs = rungs_of(len(candidates), trials.num_steps, len(tuned))
    left = [choice for choice in trials.choices if choice in candidates]
    grid_runs = runs_of_grid([*left, *tuned], num_seeds)
    losses: list[Mapping[Choice, float]] = []
    of_baseline: list[Mapping[Choice, float]] = []
    earlier: list[Cell] = []
    failed: dict[str, str] = {}
    for rung in rungs:
        whole = rung.steps == trials.num_steps
        cells = trials.cells([*left, *(baselines if whole else tuned)], rung.steps)
        console.print(
            f"{rung.steps:,} steps a run: " + ", ".join(str(c) for c in (*left, *tuned)),
            highlight=False,
        )
        trained = trials.train(cells, console, earlier)
        failed |= trained.failed
        if not trained.finished or trained.left_out:
            break
        earlier += cells
        losses.append(_losses(trials, left, rung.steps))
        left = list(better(losses[-1], -(-len(left) // 2)))
        if tuned:
            of_baseline.append(_losses(trials, tuned, rung.steps))
            baselines = tuned = list(better(of_baseline[-1], -(-len(tuned) // 2)))
    return replace(trained, failed=failed), Halving(
        rungs,
        tuple(losses),
        num_seeds,
        grid_runs * trials.num_steps,
        _best_of(trials, candidates),
        tuple(of_baseline),
    )


def runs_of_grid(units: Sequence[Choice], num_seeds: int) -> int:
    """Runs that `run_grid` makes: all with a seed, and with each further one the best rates."""
    return len(units) + (num_seeds - 1) * len({without_rate(unit) for unit in units})


def _losses(
    trials: Trials, choices: Sequence[Choice], num_steps: int, seeds: Sequence[int] | None = None
) -> dict[Choice, float]:
    """Mean final losses over some seeds or all; NaN where a run diverged or failed."""
    losses = {}
    for choice in choices:
        outcomes = [trials.outcome(choice, seed, num_steps) for seed in seeds or trials.seeds]
        losses[choice] = fmean(math.nan if one is None else one.loss for one in outcomes)
    return losses


def _best_of(trials: Trials, choices: Sequence[Choice]) -> tuple[Choice, float] | None:
    """The best of some choices, where all of their whole runs are in the folder."""
    by_choice: dict[Choice, list[float]] = {choice: [] for choice in choices}
    for outcome in trials.outcomes():
        if outcome.choice in by_choice:
            by_choice[outcome.choice].append(outcome.loss)
    if any(len(losses) < len(trials.seeds) for losses in by_choice.values()):
        return None
    means = {choice: fmean(losses) for choice, losses in by_choice.items()}
    (best,) = better(means, 1)
    return best, means[best]
