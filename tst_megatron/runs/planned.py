"""What a run was planned as: its steps, and where its learning rate starts to decay.

The one idea: the flags say so exactly, in Megatron's own arithmetic; where there are none, the
logged learning rate says it to within a log interval.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tst_megatron.runs.run import StepSeries

_DECAYING_FROM_WARMUP = ("cosine", "linear", "inverse-square-root")
# Logged learning rates went through single precision on the way.
_TOLERANCE = 1e-6


def planned_steps(header: Mapping[str, Any]) -> int | None:
    """Steps that a run was planned for; None if its flags do not say."""
    flags = header.get("flags") or {}
    return _steps(flags, "train_iters", "train_samples")


def batch_size_changes(flags: Mapping[str, Any]) -> bool:
    """Whether a run's batch grows on the way; older Megatrons ramped it up, newer ones step it."""
    return bool(flags.get("rampup_batch_size") or flags.get("step_batch_size_schedule"))


def decay_start(header: Mapping[str, Any], steps: StepSeries) -> int | None:
    """The step after which the learning rate decays at the end.

    With warmup-stable-decay, where the decay starts; with cosine and the like the end of the
    warm-up, as all the rest is decay; with a constant rate the end of the run.

    Args:
        header: of the run.
        steps: logged; the learning rate is looked at where the flags do not say.

    Returns:
        None where neither says.
    """
    planned = _planned_decay_start(header.get("flags") or {})
    return _logged_decay_start(steps) if planned is None else planned


def _planned_decay_start(flags: Mapping[str, Any]) -> int | None:
    style = flags.get("lr_decay_style")
    train = _steps(flags, "train_iters", "train_samples")
    end = _steps(flags, "lr_decay_iters", "lr_decay_samples") or train
    if end is None:
        return None
    if style == "constant":
        return train
    if style == "WSD":
        length = _steps(flags, "lr_wsd_decay_iters", "lr_wsd_decay_samples")
        return None if length is None else max(0, end - length)
    if style in _DECAYING_FROM_WARMUP:
        fraction = _number(flags.get("lr_warmup_fraction"))
        if fraction is not None:
            return round(fraction * end)
        return _steps(flags, "lr_warmup_iters", "lr_warmup_samples") or 0
    return None


def _steps(flags: Mapping[str, Any], iters: str, samples: str) -> int | None:
    """A length that Megatron takes in steps or in samples, in steps; None without either."""
    steps = _number(flags.get(iters))
    if steps:
        return int(steps)
    total, batch_size = _number(flags.get(samples)), _number(flags.get("global_batch_size"))
    # A batch size that ramps up makes more steps of the samples: not worth a guess.
    if total and batch_size and not batch_size_changes(flags):
        return int(total // batch_size)
    return None


def _number(value: Any) -> float | None:
    """A flag's value; None where a ledger made by hand has something else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _logged_decay_start(steps: StepSeries) -> int | None:
    """The last logged step at the highest rate."""
    known = np.isfinite(steps.learning_rates)
    rates = steps.learning_rates[known]
    if rates.size < 2:
        return None
    at_top = np.flatnonzero(rates >= rates.max() * (1 - _TOLERANCE))
    return int(steps.steps[known][at_top[-1]])
