"""How a saving moves with size and length: real runs at each side's own learning rate.

    python examples/scaling-study/study.py --out runs/scaling-study

Two runs go side by side, the cheapest first. Before a size's own runs come those that choose its
learning rate, on each side, with a seed that nothing else uses. It can be cut off at any point: the
same command goes on. A run whose compressed ledger lies in ``--ledgers`` is not trained again;
``--list`` says what there is to do, and trains nothing.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron import recipes
from tst_megatron.corpora import small_corpora
from tst_megatron.errors import user_errors_exit
from tst_megatron.experiments import study as experiments
from tst_megatron.experiments.cells import Cell
from tst_megatron.experiments.text import PreparedText
from tst_megatron.experiments.tuning import rates_to_try
from tst_megatron.experiments.words import of_length

VOCAB_SIZE = 384
SIDES = ("baseline", "bags")
BAG_SIZE, STEP_RATIO = 4, 0.3
SHORT, MIDDLE, LONG = 3_500, 14_000, 56_000
SEEDS = (1, 2, 3)
# Rates are chosen with a seed and a length that no figure is taken of.
RATE_SEED, RATE_STEPS = 4, 7_000
_WARMUP = 200
_CHECKPOINTS = 5
_EVAL_SEQUENCES = 2_048
_LOG_INTERVAL = 100
# The grid has the one that is missing.
_MAP = tuple(
    (bag, share)
    for bag in (2, 4, 8, 16)
    for share in (0.15, 0.3, 0.45)
    if (bag, share) != (BAG_SIZE, STEP_RATIO)
)


@dataclass(frozen=True)
class Size:
    """A model: heads of 32, three times as wide inside, and what else recipe ``tiny`` has.

    Attributes:
        name: its parameters.
        num_layers: of it.
        hidden_size: h.
        highest_rate: the highest of the four rates that are tried first, each half the one before.
    """

    name: str
    num_layers: int
    hidden_size: int
    highest_rate: float

    @property
    def parameters(self) -> float:
        """As its name has them."""
        units = {"k": 1e3, "M": 1e6}
        return float(self.name[:-1]) * units[self.name[-1]]

    @property
    def flags(self) -> tuple[str, ...]:
        """Megatron's."""
        return (
            f"--num-layers={self.num_layers}",
            f"--hidden-size={self.hidden_size}",
            f"--ffn-hidden-size={3 * self.hidden_size}",
            f"--num-attention-heads={self.hidden_size // 32}",
        )


SIZES = (
    Size("51k", 2, 32, 8e-3),
    Size("156k", 2, 64, 4e-3),
    Size("525k", 2, 128, 2e-3),
    Size("2.07M", 4, 192, 2e-3),
    Size("3.6M", 4, 256, 1e-3),
)
SMALL, LARGE, LARGEST = SIZES[:3], SIZES[3], SIZES[4]


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        part: ``rate``, ``grid`` or ``map``.
        size: of its model.
        side: of `SIDES`.
        rate: its highest learning rate.
        steps: of it.
        seed: of it.
        bags: bag size and share of the steps, of the side that has them.
    """

    part: str
    size: Size
    side: str
    rate: float
    steps: int
    seed: int
    bags: tuple[int, float] = (BAG_SIZE, STEP_RATIO)

    @property
    def name(self) -> str:
        """Of its folder and of its ledger."""
        words = [self.part, self.size.name, self.side]
        if self.part == "rate":
            words.append(f"lr{self.rate:.3g}")
        if self.part == "map":
            words.append(f"s{self.bags[0]}-r{self.bags[1]}")
        return "-".join([*words, str(self.steps), f"seed{self.seed}"])

    def cell(self, root: Path) -> Cell:
        """As it is trained."""
        own = (f"--tst-bag-size={self.bags[0]}", f"--tst-step-ratio={self.bags[1]}")
        flags = (
            *recipes.flags(recipes.load("tiny")),
            *self.size.flags,
            *PreparedText(root / "data").flags,
            # No evaluation on the way: one of so many sequences takes the time of 170 steps.
            *of_length(self.steps, _WARMUP, 2 * self.steps, _CHECKPOINTS),
            f"--eval-iters={_EVAL_SEQUENCES // 32}",
            f"--log-interval={_LOG_INTERVAL}",
            f"--tensorboard-log-interval={_LOG_INTERVAL}",
            f"--lr={self.rate!r}",
            f"--seed={self.seed}",
            *(own if self.side == "bags" else ()),
        )
        return Cell(self.name, flags, self.steps)


class Study(experiments.Study[Run]):
    """Sizes and lengths, each side at a rate of its own."""

    def rate_runs(self, size: Size, side: str) -> list[Run]:
        """Those that choose a rate: four, and more where the best is at an edge."""

        def at(rate: float) -> Run:
            return Run("rate", size, side, rate, RATE_STEPS, RATE_SEED)

        rates = rates_to_try(size.highest_rate, lambda rate: self.loss(at(rate)))
        return [at(rate) for rate in rates]

    def rate(self, size: Size, side: str) -> float | None:
        """The chosen one, of two digits; None while the runs that choose it are not done."""

        def tried() -> dict[float, float | None]:
            return {run.rate: self.loss(run) for run in self.rate_runs(size, side)}

        return self.rates.rate(f"{size.name} {side}", tried)

    def runs(self) -> list[Run]:
        """All that can be told of now, in their order: what needs a rate comes once that is there.

        Cheap ones first, so that each question has an answer early, and then a better one.
        """
        return [*self._choosing(SMALL), *self._small(), *self._large(), *self._rest()]

    def _small(self) -> Iterator[Run]:
        for seed in SEEDS:
            # Corners before the middle.
            for size in (SMALL[0], SMALL[2], SMALL[1]):
                for steps in (SHORT, MIDDLE):
                    yield from self._grid(size, steps, seed)
        # Without a longer baseline no equal loss of a middle run is measured: all end above it.
        for side, sizes in zip(SIDES, (reversed(SMALL), SMALL), strict=True):
            for size in sizes:
                yield from self._grid(size, LONG, SEEDS[0], (side,))

    def _large(self) -> Iterator[Run]:
        yield from self._choosing([LARGE])
        for steps in (SHORT, MIDDLE):
            yield from self._grid(LARGE, steps, SEEDS[0])
        yield from self._map()
        yield from self._choosing([LARGEST])
        for steps in (SHORT, MIDDLE):
            yield from self._grid(LARGEST, steps, SEEDS[0])

    def _rest(self) -> Iterator[Run]:
        for seed in SEEDS[1:]:
            for size in SMALL:
                yield from self._grid(size, LONG, seed)
        for seed in SEEDS[1:]:
            for steps in (SHORT, MIDDLE):
                yield from self._grid(LARGE, steps, seed)
        for steps in (SHORT, MIDDLE):
            yield from self._grid(LARGEST, steps, SEEDS[1])

    def _choosing(self, sizes: Sequence[Size]) -> Iterator[Run]:
        for size in sizes:
            runs = [run for side in SIDES for run in self.rate_runs(size, side)]
            yield from sorted(runs, key=lambda run: run.rate)

    def _grid(
        self, size: Size, steps: int, seed: int, sides: Sequence[str] = SIDES
    ) -> Iterator[Run]:
        for side in sides:
            if (rate := self.rate(size, side)) is not None:
                yield Run("grid", size, side, rate, steps, seed)

    def _map(self) -> Iterator[Run]:
        if (rate := self.rate(SMALL[1], "bags")) is not None:
            for bags in _MAP:
                yield Run("map", SMALL[1], "bags", rate, MIDDLE, SEEDS[0], bags)


def prepare(root: Path, console: Console) -> None:
    """Make the text ready, where it is not."""
    PreparedText(root / "data").make(small_corpora.environment_files(), VOCAB_SIZE, console)


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(experiments.run_study(__doc__, Path("runs/scaling-study"), Study, prepare))
