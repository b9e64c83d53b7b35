"""The runs of a sweep: bag sizes s by shares r of the steps by seeds, and one baseline a seed.

The one idea: the order is part of the grid. A sweep may be stopped by its budget, so what tells
most comes first: the baseline, the middle of where the method is known to work, and then always the
cell farthest from those before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tst_megatron.errors import UserError


@dataclass(frozen=True, order=True)
class Config:
    """A bag size and the share of the steps in bags; the baseline is 1 and 0.

    Attributes:
        bag_size: s.
        step_ratio: r, above 0 and below 1 but for the baseline.
    """

    bag_size: int
    step_ratio: float

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is superposed."""
        return self.bag_size == 1

    @property
    def name(self) -> str:
        """As in names of folders."""
        return "baseline" if self.is_baseline else f"s{self.bag_size}-r{self.step_ratio:g}"

    def __str__(self) -> str:
        if self.is_baseline:
            return "the baseline"
        return f"s = {self.bag_size}, r = {self.step_ratio:g}"


BASELINE = Config(1, 0.0)
# The paper's own choice for its dense models (arXiv 2605.06546, Table 1).
_USUAL = Config(6, 0.3)


@dataclass(frozen=True)
class Grid:
    """What is asked for.

    Attributes:
        bag_sizes: ascending, each above 1.
        step_ratios: ascending, each between 0 and 1.
        seeds: in the order in which they are run.
    """

    bag_sizes: tuple[int, ...]
    step_ratios: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def configs(self) -> tuple[Config, ...]:
        """Every pair, without the baseline."""
        return tuple(Config(s, r) for s in self.bag_sizes for r in self.step_ratios)

    def ordered_configs(self) -> tuple[Config, ...]:
        """The baseline, then the pairs: what tells most about the whole grid first."""
        left = list(self.configs)
        places = _places(left)
        ordered = [min(left, key=_distance_to_usual)]
        left.remove(ordered[0])
        while left:
            farthest = max(
                left, key=lambda c: min(math.dist(places[c], places[other]) for other in ordered)
            )
            ordered.append(farthest)
            left.remove(farthest)
        return (BASELINE, *ordered)


def grid_from_words(bag_sizes: Sequence[str], step_ratios: Sequence[str]) -> Grid:
    """A grid without its seeds, as the flags give it.

    Args:
        bag_sizes: words of ``--bag-sizes``, each perhaps several with commas between.
        step_ratios: likewise.

    Raises:
        UserError: a list is empty, or a value is no number or out of range.
    """
    sizes = sorted({_bag_size(word) for word in _split("--bag-sizes", bag_sizes)})
    ratios = sorted({_step_ratio(word) for word in _split("--step-ratios", step_ratios)})
    sizes = [size for size in sizes if size > 1]  # A bag of 1 is the baseline, which is there.
    if not sizes:
        raise UserError(
            "--bag-sizes has only 1, which is the baseline: add a size above it, such as 4"
        )
    return Grid(tuple(sizes), tuple(ratios), ())


def seeds_from_words(words: Sequence[str]) -> tuple[int, ...]:
    """The seeds of ``--seeds``, in their order.

    Raises:
        UserError: the list is empty, or a seed is no number or stands twice.
    """
    seeds = [_whole("--seeds", word) for word in _split("--seeds", words)]
    for seed in seeds:
        if seed < 1:
            raise UserError(f"--seeds {seed} is below 1: Megatron's seeds are 1 or more")
        if seeds.count(seed) > 1:
            raise UserError(f"--seeds names {seed} twice: a run of the same seed says nothing new")
    return tuple(seeds)


def check_stages(grid: Grid, num_steps: int) -> None:
    """Check that both phases of every cell have a step.

    Raises:
        UserError: one has none.
    """
    for ratio in grid.step_ratios:
        superposed = round(ratio * num_steps)
        if not 0 < superposed < num_steps:
            phase = "superposition" if superposed == 0 else "recovery"
            raise UserError(
                f"--step-ratios {ratio:g} leaves no step of {num_steps:,} to the {phase} phase: "
                "take more steps or another ratio"
            )


def _split(flag: str, words: Sequence[str]) -> list[str]:
    split = [part for word in words for part in word.replace(",", " ").split()]
    if not split:
        raise UserError(f"{flag} is empty: give at least one value")
    return split


def _bag_size(word: str) -> int:
    size = _whole("--bag-sizes", word)
    if size < 1:
        raise UserError(f"--bag-sizes {size} is below 1: use whole numbers of 2 or more")
    return size


def _whole(flag: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{flag} {word} is no whole number: write for example 2 4 8") from None


def _step_ratio(word: str) -> float:
    try:
        ratio = float(word)
    except ValueError:
        raise UserError(f"--step-ratios {word} is no number: write for example 0.2 0.4") from None
    # Written so that NaN fails too.
    if not 0.0 < ratio < 1.0:
        raise UserError(
            f"--step-ratios {word} is not between 0 and 1: it is the share of the steps in bags, "
            "and the rest are the recovery"
        )
    return ratio


def _places(configs: Sequence[Config]) -> dict[Config, tuple[float, float]]:
    """Where pairs lie in a square: log s and r, each from 0 to 1."""
    logs = [math.log(c.bag_size) for c in configs]
    ratios = [c.step_ratio for c in configs]
    return {
        c: (_share(log, logs), _share(c.step_ratio, ratios))
        for c, log in zip(configs, logs, strict=True)
    }


def _share(value: float, of: Sequence[float]) -> float:
    span = max(of) - min(of)
    return (value - min(of)) / span if span else 0.0


def _distance_to_usual(config: Config) -> float:
    logs = math.log(config.bag_size / _USUAL.bag_size)
    return abs(logs) + abs(config.step_ratio - _USUAL.step_ratio)
