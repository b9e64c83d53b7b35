"""A ledger as a run: its lines as arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tst_megatron.runs.phases import phases_of
from tst_megatron.runs.planned import decay_start, planned_steps
from tst_megatron.statistics.interval import Array
from tst_megatron.runs.run import Curve, Run, StepSeries
from tst_megatron.runs.ledger import Ledger

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
    return Run(
        name=name,
        path=ledger.path,
        source="ledger",
        header=ledger.header,
        curve=_curve(ledger.validations),
        steps=steps,
        phases=phases_of(ledger),
        num_steps=planned_steps(ledger.header) or last_step,
        decay_start=decay_start(ledger.header, steps),
        notes=tuple(ledger.notes),
    )


def _curve(validations: Lines) -> Curve:
    return Curve(
        **_progress(validations),
        losses=_column(validations, "next_token_loss"),
        stderrs=_column(validations, "next_token_loss_stderr"),
    )


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
