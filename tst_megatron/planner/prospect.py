"""What a planned run would end with, by a law of runs that have been run, and what would end so for
less.
"""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tst_megatron.analysis.scaling.answers import (
    CONFIDENCE,
    Best,
    Prediction,
    as_json,
    best,
    predict,
    print_forced,
    print_notes,
    table_of_best,
    table_of_predictions,
)
from tst_megatron.analysis.scaling.law import Law, Optimum
from tst_megatron.analysis.scaling.law_file import LawRecord
from tst_megatron.analysis.scaling.point import BASELINE
from tst_megatron.errors import UserError
from tst_megatron.planner.plan import RunPlan
from tst_megatron.report.table import print_table
from tst_megatron.strict_json import finite


@dataclass(frozen=True)
class Prospect:
    """What a law says of a plan.

    Attributes:
        predictions: of the planned run, and of it without its methods.
        cheapest: the runs of least FLOPs for the planned run's loss, a setting each.
        record: the law.
    """

    predictions: tuple[Prediction, ...]
    cheapest: tuple[Best, ...]
    record: LawRecord

    def as_json(self) -> dict[str, Any]:
        """As JSON's types."""
        told: dict[str, Any] = finite(
            {
                "predictions": as_json(self.predictions),
                "cheapest": as_json(self.cheapest),
                "refused": list(self.record.refused),
            }
        )
        return told

    def print(self, console: Console) -> None:
        """As two tables."""
        print_forced(console, self.record)
        print_table(console, table_of_predictions(self.predictions, CONFIDENCE))
        loss = self.predictions[0].loss.value
        title = f"The cheapest runs that end at {loss:.3f}, by the law (intervals: 95 %)"
        print_table(console, table_of_best(self.cheapest, title))
        print_notes(console, self.record)
        if loss_of := self.record.settings.get("loss"):
            console.print(f"The law's loss is {loss_of}.", markup=False)


def prospect_of(plan: RunPlan, record: LawRecord) -> Prospect:
    """Ask a law about a plan.

    Raises:
        UserError: the law counts N otherwise than a plan does, has no runs with the plan's
            methods, or is of runs too small for it.
    """
    setting = plan.setting or BASELINE
    if setting not in record.names:
        names = ", ".join(f'"{name}"' for name in record.names)
        raise UserError(
            f'--scaling has no runs of "{setting}", which the plan is of: it has {names}; add such '
            "runs to its fit"
        )
    n, d = _size(plan, record), float(plan.positions)
    record.check_within(n, d, force=False)
    settings = dict.fromkeys([setting, BASELINE])
    predictions = tuple(predict(record, name, n, d) for name in settings)
    loss = predictions[0].loss.value
    assert loss is not None

    def cheapest(law: Law, name: str | None, loss: float) -> Optimum:
        return law.cheapest(loss, name)

    def choose(law: Law, name: str | None) -> Optimum:
        return law.cheapest(loss, name)

    ways = tuple(best(record, name, choose, cheapest) for name in settings)
    return Prospect(predictions, ways, record)


def _size(plan: RunPlan, record: LawRecord) -> float:
    if record.count == "flops":
        return plan.work.total / (6 * plan.positions)
    return float(plan.parameters.total if record.count == "total" else plan.parameters.active)
