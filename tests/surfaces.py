"""Sweeps whose truth is known: a U in log s and r, with noise, and the paper's table."""

from dataclasses import astuple
from math import exp, log
from pathlib import Path

import numpy as np

from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.methods.superposition.search import BagSearch
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.sweep.grid import Grid
from tst_megatron.sweep.outcomes_csv import read_csv

TABLE = Path(__file__).parents[1] / "examples" / "sweep" / "paper-270m.csv"
SEARCH = BagSearch()


def paper() -> list[Outcome]:
    """The 270M model at 20,000 steps."""
    return read_csv(TABLE, [SEARCH])[1]


def grid(sizes: tuple[int, ...], ratios: tuple[float, ...]) -> Grid:
    """Every bag size with every share."""
    return Grid(SEARCH, (sizes, ratios))


def made(
    best: tuple[float, float] = (6.0, 0.27),
    sizes: tuple[int, ...] = (2, 4, 8, 16),
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5),
    seeds: int = 1,
    noise: float = 0.0,
    depth: float = 0.06,
    rng: np.random.Generator | None = None,
) -> list[Outcome]:
    """Runs of a U with its bottom at ``best``, ``depth`` below the baseline; seeds have shifts."""
    rng = rng or np.random.default_rng(0)
    results = []
    for seed in range(1, seeds + 1):
        shift = rng.normal(0, 4 * noise)
        for pair in (BASELINE, *(Pair(s, r) for s in sizes for r in ratios)):
            loss = 3.2 if pair == BASELINE else 3.2 - depth + above(astuple(pair), best)
            results.append(Outcome(pair, seed, float(loss + shift + rng.normal(0, noise))))
    return results


def lowest(
    best: tuple[float, float] = (6.0, 0.27),
    sizes: tuple[int, ...] = (2, 4, 8, 16),
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5),
) -> tuple[float, float, float]:
    """Where the U is lowest between these cells, and how far above its bottom that is."""
    size = min(max(best[0], sizes[0]), sizes[-1])
    x = log(size / best[0])
    ratio = min(max(best[1] - x / 30, ratios[0]), ratios[-1])
    # The valley of s at that share; with one of both at an end the other one is right already.
    if size == best[0] and ratio != best[1]:
        size = min(max(best[0] * exp((best[1] - ratio) / 2), sizes[0]), sizes[-1])
    return size, ratio, above((size, ratio), best)


def above(place: tuple[float, float], best: tuple[float, float] = (6.0, 0.27)) -> float:
    """How far a bag size and share lie above the bottom of the U."""
    x, r = log(place[0] / best[0]), place[1] - best[1]
    return 0.02 * x * x + 0.3 * r * r + 0.02 * x * r
