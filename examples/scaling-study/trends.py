"""How the difference between the sides moves with size and length, without a law.

The one idea: the witnesses are the seeds. Within each a plane is laid through its differences over
the logarithms of size and length, and what the seeds' planes agree on is told with Student's t of
so few of them. Only sizes and lengths that all seeds have count.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tst_megatron.report import formats
from tst_megatron.report.table import Table
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.student import mean_of

CONFIDENCE = 0.95

Place = tuple[float, float]
"""(parameters, steps) of a run."""


@dataclass(frozen=True)
class Trend:
    """A coefficient of the planes.

    Attributes:
        name: what it is, in words.
        of_seeds: by seed, in their order.
        mean: with its interval; without one of a single seed.
    """

    name: str
    of_seeds: Mapping[int, float]
    mean: Interval


def trends(differences: Mapping[int, Mapping[Place, float]]) -> tuple[list[Trend], list[Place]]:
    """The mean difference, and what a doubling of size and of length adds to it.

    Args:
        differences: bags less baseline, by seed and place.

    Returns:
        They, and the places that count; none where these do not tell size from length.
    """
    places = sorted(set.intersection(*(set(of) for of in differences.values())))
    if not places:
        return [], []
    logs = np.log2(np.array(places, float))
    columns = np.column_stack([np.ones(len(places)), logs - logs.mean(axis=0)])
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        return [], []
    planes = {
        seed: np.linalg.lstsq(columns, np.array([of[place] for place in places]), rcond=None)[0]
        for seed, of in differences.items()
    }
    names = ("mean of these", "per doubling of size", "per doubling of length")
    return [
        Trend(name, {seed: float(plane[row]) for seed, plane in planes.items()}, _mean(planes, row))
        for row, name in enumerate(names)
    ], places


def table_of_trends(found: list[Trend], places: list[Place]) -> Table:
    """A row a coefficient, a column a seed."""
    seeds = list(found[0].of_seeds)
    rows = [
        (
            one.name,
            *(formats.signed(one.of_seeds[seed]) for seed in seeds),
            formats.signed(one.mean.value),
            formats.difference_range(one.mean),
        )
        for one in found
    ]
    heads = ("", *(f"seed {seed}" for seed in seeds), "mean", "95 %")
    return Table(
        f"Bags less baseline in nats, over {len(places)} sizes and lengths that all seeds have",
        heads,
        tuple(rows),
        note="Negative: bags are ahead, or gain. A plane over log2 of parameters and steps, a seed "
        "each; Student's t of the seeds.",
    )


def _mean(planes: Mapping[int, Array], row: int) -> Interval:
    return mean_of([float(plane[row]) for plane in planes.values()], CONFIDENCE)
