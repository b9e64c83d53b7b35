"""Where a run went from one stage to the next, on whatever it is laid over."""

from itertools import pairwise

import numpy as np

from tst_megatron.runs.run import Run


def switches(run: Run, amount: str) -> list[tuple[float, str]]:
    """(where, words) of every change of the stage that the run tells.

    Args:
        run: of any source.
        amount: an attribute of `StepSeries` and `Curve`, such as ``gpu_hours``.
    """
    steps = np.concatenate([[0.0], run.steps.steps, run.curve.steps])
    values = np.concatenate([[0.0], getattr(run.steps, amount), getattr(run.curve, amount)])
    known = np.isfinite(values)
    order = np.argsort(steps[known], kind="stable")
    steps, values = steps[known][order], values[known][order]
    return [
        (
            float(np.interp(before.last_step, steps, values)),
            f"{before.stage.name} → {after.stage.name}",
        )
        for before, after in pairwise(run.stages)
        if before.last_step <= steps[-1]
    ]
