"""Which of several learning rates is the best, and which runs are left to say how good it is.

The one idea: of rates that are alike the one that was lucky ends lowest, so the runs that a rate
was chosen by say too little of its loss. It is chosen on some seeds and confirmed on others, and
which are which follows from what was run, before a loss is looked at.

Each seed at the rate that the other seeds choose (cross-fitting) would use every run for both. Its
intervals are too narrow: what a seed chooses moves with the others' losses. In made-up runs of
equal rates, nominal 95 % held the truth in 93 (two rates, two seeds) to 86 of 100 (five and five).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Seed = Any
"""A run's seed: whole numbers mostly; None where it is not told."""

# Of seeds that every rate has, where the chosen one has no further: a third chooses. Seeds move all
# rates much alike, so that few tell them apart, while an interval is wide with few.
_CHOOSES = 3


@dataclass(frozen=True)
class BestRate:
    """The rate that is chosen.

    Attributes:
        rate: of those tried.
        chosen_on: seeds by whose runs; those that every rate has, or a part of them. Where there is
            none, every rate went by runs of its own.
        confirmed_on: seeds of its other runs, which say how good it is; empty where none is left.
    """

    rate: float
    chosen_on: tuple[Seed, ...]
    confirmed_on: tuple[Seed, ...]


def shared_seeds(losses: Mapping[float, Mapping[Seed, float]]) -> tuple[Seed, ...]:
    """The seeds that every rate has, in their order."""
    return _in_order(set.intersection(*(set(of) for of in losses.values())))


def best_rate(
    losses: Mapping[float, Mapping[Seed, float]], elsewhere: Collection[Seed] = ()
) -> BestRate:
    """Choose.

    Where a rate has seeds that others have not, all seeds that every rate has choose, and the
    further ones confirm: who sweeps on one seed and goes on with others has it so. Where all rates
    have the same seeds, a third of them choose, at least one, and the others confirm.

    Args:
        losses: final ones by rate and seed; not a number for a run that diverged. At least one
            rate.
        elsewhere: seeds that the runs compared with have, which had better be left to confirm.
    """
    shared = shared_seeds(losses)
    has_further = any(len(of) > len(shared) for of in losses.values())
    chosen_on: Sequence[Seed] = shared
    if shared and not has_further:
        ranked = sorted(shared, key=lambda seed: seed in elsewhere)
        chosen_on = _in_order(ranked[: max(1, len(shared) // _CHOOSES)])

    def rank(rate: float) -> tuple[float, float]:
        of = losses[rate]
        mean = fmean(of[seed] for seed in chosen_on or of)
        return (mean if math.isfinite(mean) else math.inf), rate

    rate = min(losses, key=rank)
    rest = set(losses[rate]).difference(chosen_on) if chosen_on else set()
    return BestRate(rate, tuple(chosen_on), _in_order(rest))


def listed(values: Sequence[object]) -> str:
    """As ``1, 2 and 3``."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def on_seeds(seeds: Sequence[Seed]) -> str:
    """As ``seed 1`` or ``seeds 1 and 2``; one that is not told is ``an untold seed``."""
    if list(seeds) == [None]:
        return "an untold seed"
    return f"seed{'s' if len(seeds) > 1 else ''} {listed(seeds)}"


def _in_order(seeds: Collection[Seed]) -> tuple[Seed, ...]:
    def rank(seed: Seed) -> tuple[bool, float, str]:
        is_number = isinstance(seed, int | float)
        return not is_number, seed if is_number else 0, str(seed)

    return tuple(sorted(seeds, key=rank))
