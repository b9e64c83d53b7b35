"""What learning rates that were tried came to, as studies report it: a table, charts, figures.

The one idea: beside the rate that was chosen stands how flat the loss is around it, so that a
reader sees what another rate would have changed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tst_megatron.report import formats
from tst_megatron.report.chart import Chart, Line, around
from tst_megatron.report.table import Table
from tst_megatron.statistics.log_parabola import LogParabola, lowest

# A rate that all but diverged would press the others of its chart flat.
_SHOWN = 0.6


@dataclass(frozen=True)
class TriedRates:
    """What one side of a comparison came to at each learning rate.

    Attributes:
        group: whose chart it is drawn in, such as a size.
        side: which of that group.
        losses: by rate; infinite where a run diverged.
        parabola: through them; None for fewer than three.
        chosen: the rate that runs have; None while it is not chosen.
    """

    group: str
    side: str
    losses: Mapping[float, float]
    parabola: LogParabola | None
    chosen: float | None

    @classmethod
    def of(
        cls, group: str, side: str, losses: Mapping[float, float], chosen: float | None
    ) -> "TriedRates":
        """With the parabola through the losses."""
        return cls(group, side, losses, lowest(list(losses), list(losses.values())), chosen)

    def told(self) -> dict[str, Any]:
        """Its figures for JSON, without the group."""
        found = self.parabola
        return {
            "side": self.side,
            "losses": {f"{rate:g}": loss for rate, loss in self.losses.items()},
            "chosen": self.chosen,
            "optimum": None if found is None else found.optimum,
            "added_at_half": None if found is None else found.added_at_half,
            "added_at_double": None if found is None else found.added_at_double,
        }


def table_of_rates(found: Sequence[TriedRates], after: str) -> Table:
    """A row a side, a column a rate.

    Args:
        found: of every side.
        after: how long the runs were, such as ``7,000 steps``.
    """
    every = sorted({rate for one in found for rate in one.losses})
    rows = []
    for one in found:
        flat = one.parabola
        added = () if flat is None else (flat.added_at_half, flat.added_at_double)
        rows.append(
            (
                f"{one.group}, {one.side}",
                *(_loss(one.losses.get(rate)) for rate in every),
                formats.UNKNOWN if one.chosen is None else f"{one.chosen:g}",
                *(formats.UNKNOWN if x is None else f"{x:.3f}" for x in added or (None, None)),
            )
        )
    heads = ("", *(f"{rate:g}" for rate in every), "chosen", "half adds", "double adds")
    title = f"Held-out loss after {after}, by learning rate (one seed)"
    return Table(title, heads, tuple(rows))


def charts_of_rates(
    found: Sequence[TriedRates], after: str, colours: Mapping[str, str]
) -> Iterator[Chart]:
    """Loss over the rate, a chart a group that has a loss.

    Args:
        found: of every side.
        after: how long the runs were, such as ``7,000 steps``.
        colours: by side.
    """
    for group in dict.fromkeys(one.group for one in found):
        lines: list[Line] = []
        for one in found:
            if one.group == group:
                lines += _lines(one, colours[one.side])
        if not lines:
            continue
        measured = np.concatenate([line.ys for line in lines if line.marked])
        yield Chart(
            name=f"rates-{group.replace('.', '-')}",
            title=f"Loss over the learning rate, {group}",
            alt=f"Held-out loss after {after} over the learning rate, {group}.",
            caption="One seed, which no other figure is of. Dotted: a parabola in the rate's "
            "logarithm.",
            x_label="learning rate",
            y_label="held-out loss, nats a token",
            lines=tuple(lines),
            x_log=True,
            y_range=around(measured[measured < measured.min() + _SHOWN], (), 0.0),
        )


def _lines(one: TriedRates, colour: str) -> list[Line]:
    """Its losses, and its parabola where there is one; nothing where every run diverged."""
    rates = np.array(sorted(one.losses))
    losses = np.array([one.losses[rate] for rate in rates])
    told = np.isfinite(losses)
    if not told.any():
        return []
    lines = [Line(one.side, rates[told], losses[told], colour, marked=True)]
    if one.parabola is not None and one.parabola.coefficients is not None:
        xs = np.geomspace(rates[0], rates[-1], 60)
        name = f"{one.side}: lowest at {one.parabola.optimum:.2g}"
        lines.append(Line(name, xs, one.parabola.losses(xs), colour, 1.2, "dot"))
    return lines


def _loss(loss: float | None) -> str:
    if loss is None:
        return ""
    return formats.loss(loss) if math.isfinite(loss) else "diverged"
