"""Both sides read, each completed with what only the other tells: positions and FLOPs.

The one idea: at one model, batch and sequence length a step is a step. So a run from TensorBoard or
W&B has the positions a step and the FLOPs a position of a run beside it; nothing that is known to
differ is taken over, and every run that was completed so says it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tst_megatron.analysis.compare.stories import vocabulary
from tst_megatron.errors import UserError
from tst_megatron.runs.facts import Topic, differences
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import Curve, RecordedRun, StepSeries
from tst_megatron.statistics.array import Array

# Of one model all runs have it to the digits that a sum in floating point keeps.
_TOLERANCE = 1e-3
_OF_A_POSITION: tuple[Topic, ...] = ("batch", "model", "tokenizer")
"""What the FLOPs of a position go by: a vocabulary has a head of its size."""


def read_sides(
    baseline: Sequence[Path], candidate: Sequence[Path], loss_columns: Sequence[str] = ()
) -> tuple[list[RecordedRun], list[RecordedRun]]:
    """Read both sides, each completed with what only the other tells.

    Args:
        baseline: as of `read_runs`.
        candidate: likewise.
        loss_columns: likewise.

    Raises:
        UserError: as `read_runs`; or there is nothing that the columns could be of.
    """
    theirs, ours = (read_runs(side, vocabulary(), loss_columns) for side in (baseline, candidate))
    if loss_columns and all(run.source == "ledger" for run in (*theirs, *ours)):
        raise UserError(
            f"--loss-column {loss_columns[0]} is for W&B exports and TensorBoard folders, and all "
            "runs are ledgers, which have one held-out loss: leave it out"
        )
    return complete(theirs, ours), complete(ours, theirs)


def complete(runs: Sequence[RecordedRun], others: Sequence[RecordedRun]) -> list[RecordedRun]:
    """Runs with positions, data tokens and FLOPs as the other side has them, where unknown.

    Args:
        runs: of one side.
        others: of the other side.

    Returns:
        The same runs; those that were completed with a note that says so.
    """
    return [_complete(run, others) for run in runs]


def _complete(run: RecordedRun, others: Sequence[RecordedRun]) -> RecordedRun:
    if _is_unknown(run, lambda curve: curve.positions):
        run = _with_positions(
            run, [other for other in others if not differences("batch", run.facts, other.facts)]
        )
    if _is_unknown(run, lambda curve: curve.flops):
        alike = [
            other
            for other in others
            if not any(differences(topic, run.facts, other.facts) for topic in _OF_A_POSITION)
            # What parents spent is in a run's FLOPs and not in its positions.
            and not (run.facts.parents or other.facts.parents)
        ]
        run = _with_flops(run, alike)
    return run


def _with_positions(run: RecordedRun, others: Sequence[RecordedRun]) -> RecordedRun:
    rate = _rate(others, lambda curve: curve.positions, lambda curve: curve.steps)
    if rate is None:
        return run
    return _noted(
        run,
        _at_rate(run.curve, rate, _may_read_more(run)),
        _at_rate(run.steps, rate, _may_read_more(run)),
        f"{rate:,.0f} positions a step",
    )


def _at_rate[T: (Curve, StepSeries)](series: T, rate: float, may_read_more: bool) -> T:
    positions = series.steps * rate
    tokens = series.data_tokens
    if not may_read_more:
        tokens = np.where(np.isnan(tokens), positions, tokens)
    return replace(series, positions=positions, data_tokens=tokens)


def _with_flops(run: RecordedRun, others: Sequence[RecordedRun]) -> RecordedRun:
    rate = _rate(others, lambda curve: curve.flops, lambda curve: curve.positions)
    if rate is None:
        return run
    return _noted(
        run,
        replace(run.curve, flops=run.curve.positions * rate),
        replace(run.steps, flops=run.steps.positions * rate),
        f"{rate:.4g} FLOPs a position",
    )


def _noted(run: RecordedRun, curve: Curve, steps: StepSeries, what: str) -> RecordedRun:
    note = f"Its source does not tell, so it has the other side's {what}."
    return replace(run, curve=curve, steps=steps, notes=(*run.notes, note))


def _may_read_more(run: RecordedRun) -> bool:
    """Whether a position of some stage is not one token, or that is not known."""
    return not run.tells_methods or any(span.stage.tokens_a_position != 1 for span in run.stages)


def _is_unknown(run: RecordedRun, column: Callable[[Curve], Array]) -> bool:
    values = column(run.curve)
    return bool(values.size) and bool(np.isnan(values).all())


def _rate(
    runs: Sequence[RecordedRun],
    numerator: Callable[[Curve], Array],
    denominator: Callable[[Curve], Array],
) -> float | None:
    """What the runs have of one for one of the other; None where none tells or they disagree."""
    # An evaluation before the first step tells nothing.
    rates = np.array(
        [
            above / below
            for run in runs
            for above, below in zip(numerator(run.curve), denominator(run.curve), strict=True)
            if below > 0 and np.isfinite(above)
        ]
    )
    if not rates.size or np.ptp(rates) > _TOLERANCE * np.abs(rates).max():
        return None
    return float(np.median(rates))
