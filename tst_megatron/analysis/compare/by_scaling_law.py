"""The baseline's law from a `law.json`, of whole runs, in place of one of its curve.

The one idea: along a run's stable phase the loss flattens out sooner than what whole runs end with,
so a law of that phase says too much of a saving; one that was fitted to whole runs does not.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np

from tst_megatron.analysis.compare.courses import Fit
from tst_megatron.analysis.scaling.law import Number
from tst_megatron.analysis.scaling.law_file import LawRecord
from tst_megatron.errors import UserError
from tst_megatron.runs.facts import Topic, differences_of
from tst_megatron.runs.run import LossUnit, RecordedRun
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.power_law import Laws

_ROOM = 1.25
"""Factors by which a size may lie outside the law's own."""
_ALIKE = 0.1
"""Of the loss: more than this off, a law is of another text or of other models."""
_OPERATIONS = 6


@dataclass(frozen=True)
class ScalingLaw:
    """A law of whole runs.

    Attributes:
        name: of its file.
        record: what is in it.
    """

    name: str
    record: LawRecord

    def fit(self, run: RecordedRun, rows: int) -> Fit:
        """As the comparison takes laws, over steps.

        Args:
            run: of the baseline.
            rows: copies; the first is the law itself, the others are its draws.

        Raises:
            UserError: the run does not tell its size or its positions, is of another size or of
                other text than the law's runs, or did not end near the law.
        """
        size, positions = self._size(run), _positions_a_step(run)
        self._check(run, size, positions)
        law, draws = self.record.law, self.record.laws
        taken = np.arange(rows - 1) % np.size(draws.E)

        def both(value: Number, drawn: Array) -> Array:
            return np.append(value, np.asarray(drawn)[taken])

        floors = both(
            law.E + law.A * size**-law.alpha, draws.E + draws.A * size ** -np.asarray(draws.alpha)
        )
        scales = both(law.B * positions**-law.beta, draws.B * positions ** -np.asarray(draws.beta))
        lengths = self.record.column("d") / positions
        laws = Laws(
            floors,
            scales,
            both(law.beta, np.asarray(draws.beta)),
            float(lengths.min()),
            float(lengths.max()),
        )
        forced = [f"The scaling law was forced: {why}" for why in self.record.refused]
        of_law = [f"Of the scaling law: {note}" for note in self.record.notes]
        what = f"whole runs of several sizes and lengths ({self.name})"
        return Fit(laws, what, notes=(*forced, *of_law))

    def _size(self, run: RecordedRun) -> float:
        told = run.header.get("parameters") or {}
        size = told.get("active" if self.record.count == "active" else "total")
        if self.record.count == "flops":
            size = run.curve.flops[-1] / (_OPERATIONS * run.curve.positions[-1])
        if size is None or not math.isfinite(size):
            raise UserError(
                f"{run.name} does not tell its N, as --scaling {self.name} counts it "
                f"({self.record.count}): compare without --scaling"
            )
        return float(size)

    def _check(self, run: RecordedRun, size: float, positions: float) -> None:
        if run.curve.unit is not self.record.unit:
            raise UserError(
                f"--scaling {self.name} is in {self.record.unit}, and the runs are compared in "
                f"{run.curve.unit}: fit a law in that, with scaling fit"
                + (" --bits-a-byte" if run.curve.unit is LossUnit.BITS else "")
            )
        for topic, told in self.record.text.items():
            for name, ours, theirs in differences_of(
                told, run.facts.topics.get(cast(Topic, topic), {})
            ):
                raise UserError(
                    f"--scaling {self.name} and {run.name} differ in the {topic} ({name}: {ours} "
                    f"and {theirs}): fit a law to runs of the same"
                )
        sizes = self.record.column("n")
        if not sizes.min() / _ROOM <= size <= sizes.max() * _ROOM:
            raise UserError(
                f"{run.name} has N {size:.4g}, and the runs of --scaling {self.name} have "
                f"{sizes.min():.4g} to {sizes.max():.4g}: fit a law with runs of such a size"
            )
        foretold = float(self.record.law.loss(size, positions * run.num_steps))
        ended = float(run.curve.losses[-1])
        is_whole = run.curve.steps[-1] >= run.num_steps
        if is_whole and not abs(math.log(ended / foretold)) <= _ALIKE:
            raise UserError(
                f"{run.name} ended with a loss of {ended:.3f} where --scaling {self.name} has "
                f"{foretold:.3f}: the law is of another text or of other models"
            )


def _positions_a_step(run: RecordedRun) -> float:
    curve = run.curve
    told = curve.positions[-1] / curve.steps[-1] if curve.steps.size else math.nan
    if not (math.isfinite(told) and told > 0):
        raise UserError(
            f"{run.name} does not tell how many positions a step has, which --scaling needs: "
            "compare without it"
        )
    return float(told)
