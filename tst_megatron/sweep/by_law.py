"""What a sweep's gain is worth in steps, by a law of whole runs.

The one idea: a gain in nats says nothing of what it saves; a baseline of a known law needs so many
more steps for it. The gain stays the sweep's own, and how fast the baseline falls is the law's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import is_done, ledger_of
from tst_megatron.experiments.search import Trials
from tst_megatron.report import formats
from tst_megatron.runs.inputs import read_runs
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import interval

_DRAWS = 4000


@dataclass(frozen=True)
class Worth:
    """A gain in steps.

    Attributes:
        step_ratio: how many times the steps of a cell the baseline needs for a loss lower by the
            gain; without a bound where the law has none.
        sentences: that in words, and what is to be known of the law; why there is none otherwise.
    """

    step_ratio: Interval
    sentences: tuple[str, ...]


def finished_baseline(trials: Trials) -> Path | None:
    """The ledger of a whole run of the baseline; None while there is none."""
    for choice in trials.baselines:
        for seed in trials.seeds:
            cell = trials.cell_of(choice, seed, trials.num_steps)
            if is_done(trials.root, cell):
                return ledger_of(trials.root, cell)
    return None


def worth_of(gain: Interval, law: ScalingLaw, baseline: Path) -> Worth:
    """Ask a law what a gain is worth.

    Args:
        gain: of a cell over the baseline, nats a token.
        law: of whole runs.
        baseline: the ledger of a whole run without the method, by which the law knows its size.
    """
    if gain.value is None:
        return Worth(Interval(), ())
    run = read_runs([baseline])[0]
    try:
        fit = law.fit(run, _DRAWS + 1)
    except UserError as error:
        return Worth(Interval(), (f"--scaling tells nothing of this sweep: {error}.",))
    laws, steps = fit.laws, float(run.num_steps)
    here = laws.at(np.array([steps]))[:, 0]

    def ratio(nats: float) -> Array:
        left = here - nats - laws.floors
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = (laws.scales / left) ** (1 / laws.exponents)
        return np.where(left > 0, needed, np.inf) / steps

    at = [gain.value if end is None else end for end in (gain.low, gain.high)]
    low, high = (interval(ratio(nats), 0.95) for nats in at)
    found = Interval(float(ratio(gain.value)[0]), low.low, high.high)
    both = "the law's interval alone, as the gain has none"
    if gain.low is not None and gain.high is not None:
        both = "the gain's interval and the law's together, each at its outer end"
    said = (
        f"By the law in {law.name} the baseline needs {formats.ratio(found.value)} these steps to "
        f"end so ({formats.ratio_range(found)}: {both})."
        if np.isfinite(found.value or np.inf)
        else f"By the law in {law.name} no baseline of this size ever ends so."
    )
    return Worth(found, (said, *(fit.notes or ())))
