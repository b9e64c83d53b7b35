"""A ledger as a run: its lines as arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tst_megatron.comparison.phases import phases_of
from tst_megatron.comparison.planned import decay_start, planned_steps
from tst_megatron.comparison.run import Array, Curve, Run, StepSeries
from tst_megatron.comparison.scalars import notes_on_losses
from tst_megatron.training.ledger import Ledger

Lines = Sequence[Mapping[str, Any]]


def run_of_ledger(ledger: Ledger, name: str) -> Run:
    """A run as its ledger tells it.

    Args:
        ledger: as read from a file.
        name: of the run.
    """
    assert ledger.path is not None
    steps = _steps(ledger.steps)
    last_step = 0 if ledger.last is None else ledger.last["step"]
    curve, without_loss = _curve(ledger.validations)
    return Run(
        name=name,
        path=ledger.path,
        source="ledger",
        header=ledger.header,
        curve=curve,
        steps=steps,
        phases=phases_of(ledger),
        num_steps=planned_steps(ledger.header) or last_step,
        decay_start=decay_start(ledger.header, steps),
        notes=(*ledger.notes, *notes_on_losses(without_loss)),
    )


def _curve(validations: Lines) -> tuple[Curve, list[int]]:
    """The validations with a loss, and the steps of those without."""
    lines = [line for line in validations if line.get("next_token_loss") is not None]
    without_loss = [line["step"] for line in validations if line.get("next_token_loss") is None]
    curve = Curve(
        **_progress(lines),
        losses=_column(lines, "next_token_loss"),
        stderrs=_column(lines, "next_token_loss_stderr"),
    )
    return curve, without_loss


def _steps(lines: Lines) -> StepSeries:
    names = dict.fromkeys(name for line in lines for name in line.get("extras") or {})
    return StepSeries(
        **_progress(lines),
        losses=_column(lines, "loss"),
        loss_names=tuple(line.get("loss_name") for line in lines),
        bag_sizes=_column(lines, "bag_size"),
        learning_rates=_column(lines, "learning_rate"),
        grad_norms=_column(lines, "grad_norm"),
        compute_s=_column(lines, "compute_s"),
        other_s=_column(lines, "other_s"),
        extras={
            name: _column([line.get("extras") or {} for line in lines], name) for name in names
        },
    )


def _progress(lines: Lines) -> dict[str, Array]:
    columns = ("positions", "data_tokens", "flops", "wall_clock_s", "gpu_hours")
    return {"steps": _column(lines, "step"), **{name: _column(lines, name) for name in columns}}


def _column(lines: Lines, name: str) -> Array:
    return np.array(
        [np.nan if line.get(name) is None else line[name] for line in lines], dtype=np.float64
    )
