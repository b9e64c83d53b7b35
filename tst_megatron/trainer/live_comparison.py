"""While a run trains: what another run needed for the loss that this one has now.

The one idea: the other run is read once, and asked at every validation, so that a user sees the
saving as it comes; `tst-megatron compare` has its interval.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.errors import UserError
from tst_megatron.methods.events import Evaluated, Listener
from tst_megatron.methods.registry import known_differences
from tst_megatron.runs.facts import facts_of
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS
from tst_megatron.statistics.crossing import crossing_steps, values_at


@dataclass(frozen=True)
class OtherNeeded:
    """What the other run needed to get to a loss for good.

    Attributes:
        steps: optimizer steps.
        gpu_hours: of all its ranks; None where it does not tell.
    """

    steps: float
    gpu_hours: float | None


class OtherRun:
    """The run of ``--compare-with``.

    Args:
        path: its ledger, or its folder.

    Raises:
        UserError: it cannot be read, is several runs, or has no held-out loss.
    """

    def __init__(self, path: Path) -> None:
        try:
            runs = read_runs([path])
        except UserError as error:
            raise UserError(f"--compare-with: {error}") from None
        if len(runs) != 1:
            listed = ", ".join(run.name for run in runs)
            raise UserError(
                f"--compare-with {path} holds {len(runs)} runs ({listed}): name the path of one of "
                "them, or, of an export, FILE.csv:RUN"
            )
        self._run = runs[0]
        curve = self._run.curve
        measured = np.isfinite(curve.losses)
        if not measured.any():
            raise UserError(
                f"--compare-with {path} has no held-out loss: give a run that was validated"
            )
        self._curve = curve.at(measured)

    def check_like(self, header: dict[str, Any]) -> None:
        """Check that losses of a run mean the same as the other's, as `tst-megatron compare` does.

        Args:
            header: of the run's own ledger.

        Raises:
            UserError: model, tokenizer, held-out text or batch are known to differ.
        """
        facts = facts_of(header)
        both = [*(facts.methods or ()), *(self._run.facts.methods or ())]
        names = [method.name for method in both]
        for topic, found in known_differences(names, facts, self._run.facts).items():
            name, ours, theirs = found
            raise UserError(
                f"--compare-with {self._run.path}: its {topic} is another, with {name} {theirs} "
                f"where this run has {ours}: name a run that can be compared, or leave it out"
            )

    def needed_for(self, loss: float) -> OtherNeeded | None:
        """What it needed for a loss, nats a token; None if it never got there for good."""
        curve = self._curve
        step = crossing_steps(curve.steps, curve.losses[None], np.array([loss]))[0]
        if not math.isfinite(step):
            return None
        hours = float(values_at(curve.steps, curve.gpu_hours[None], np.array([step]))[0])
        return OtherNeeded(float(step), hours if math.isfinite(hours) else None)

    def sentence(self, loss: float, step: int) -> str:
        """For the log, at a validation of this run.

        Args:
            loss: held-out next-token loss, nats a token.
            step: that this run is at.
        """
        needed = self.needed_for(loss)
        if needed is None:
            final = float(self._curve.losses[-1])
            return f"the other run never had this loss for good: it ended at {final:.4f}"
        hours = "" if needed.gpu_hours is None else f" and {needed.gpu_hours:.4g} GPU hours"
        return (
            f"for this loss the other run needed {needed.steps:,.0f} steps{hours} "
            f"(this one {step:,} steps)"
        )


class LiveComparison(Listener):
    """Says at every validation what another run needed for the loss of now.

    Args:
        path: of the other run's ledger, as the flag has it.

    Raises:
        UserError: it cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._other = OtherRun(Path(path))

    def evaluated(self, evaluated: Evaluated) -> None:
        """In the log and in TensorBoard, on the rank that has the loss."""
        if NEXT_TOKEN_LOSS not in evaluated.losses:
            return
        loss, step = float(evaluated.losses[NEXT_TOKEN_LOSS]), evaluated.progress.step
        needed = self._other.needed_for(loss)
        if needed is not None:
            evaluated.scalar("other-run-steps", needed.steps)
            if step:
                evaluated.scalar("other-run-step-ratio", needed.steps / step)
            if needed.gpu_hours is not None:
                evaluated.scalar("other-run-gpu-hours", needed.gpu_hours)
        evaluated.say(f" compared with {self._path}: {self._other.sentence(loss, step)}")
