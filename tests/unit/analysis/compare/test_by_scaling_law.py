"""A law of whole runs in place of one of the baseline's stable phase."""

from dataclasses import replace

import numpy as np
import pytest
from made_curves import TOKENS_A_STEP, evaluated_at, made_group, made_run

from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
from tst_megatron.analysis.compare.compare import compare_group
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.analysis.scaling.law_file import LawRecord, LawRun
from tst_megatron.errors import UserError
from tst_megatron.runs.run import LossUnit, RecordedRun

SIZE, STEPS, SPEED = 5e5, 14_000, 4.0
LAW = Law(1.0, 60.0, 0.33, 30.0, 0.25)
DRAWS = 200


def record() -> LawRecord:
    """The law with draws close by, of runs on either side of the baseline."""
    rng = np.random.default_rng(1)
    near = np.exp(0.004 * rng.standard_normal(50))
    laws = replace(
        LAW, E=near, A=60 * near, alpha=np.full(50, 0.33), B=30 * near, beta=np.full(50, 0.25)
    )
    runs = tuple(
        LawRun(f"{n:g}-{d:g}", "baseline", n, d, float(LAW.loss(n, d)), d)
        for n in (1e5, 2e6)
        for d in (2e6, 3e7)
    )
    return LawRecord(LAW, laws, runs, "total", {})


def whole_loss(steps: float) -> float:
    return float(LAW.loss(SIZE, steps * TOKENS_A_STEP))


def ended_at(loss: float, size: float | None = SIZE, switch: int = 0) -> RecordedRun:
    """A run whose stable phase flattens out, as measured ones do, and whose decay ends so."""
    steps, start = evaluated_at(STEPS, 40), int(0.9 * STEPS)
    stable = loss + 0.15 + 3 * steps**-0.4
    share = np.clip((steps - start) / (STEPS - start), 0, 1)
    losses = stable + share * (loss - stable)
    run = made_run(steps, losses, stderr=0.002, decay_start=start, num_steps=STEPS, switch=switch)
    return run if size is None else replace(run, header={"parameters": {"total": size}})


def test_whole_runs_say_what_a_longer_one_would_end_with() -> None:
    baseline = [made_group(ended_at(whole_loss(STEPS)))]
    candidate = made_group(ended_at(whole_loss(SPEED * STEPS), switch=4_000), name="bags")
    by_curve = compare_group(baseline, candidate, draws=DRAWS).equal_loss.step_ratio
    # The stable phase has a floor above where whole runs get, so its law never does.
    assert not by_curve.holds(SPEED)
    law = ScalingLaw("law.json", replace(record(), refused=("The runs have 2 sizes.",)))
    found = compare_group(baseline, candidate, draws=DRAWS, law=law)
    assert "The scaling law was forced: The runs have 2 sizes." in found.notes
    # What is said of laws of a run's own curve does not go for this one.
    assert not any("too high" in note or "lower the loss as much" in note for note in found.notes)
    ratio = found.equal_loss.step_ratio
    assert ratio.value == pytest.approx(SPEED, rel=0.03)
    assert ratio.holds(SPEED)
    assert found.equal_loss.extrapolated
    assert found.fit is not None
    assert "law.json" in found.fit.fitted_on


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (ended_at(whole_loss(STEPS), size=None), r"run does not tell its N"),
        (
            ended_at(whole_loss(STEPS), size=1e7),
            r"has N 1e\+07, and the runs of --scaling law.json",
        ),
        (ended_at(1.3 * whole_loss(STEPS)), r"the law is of another text or of other models"),
    ],
)
def test_a_law_of_other_runs_is_refused(run: RecordedRun, said: str) -> None:
    law = ScalingLaw("law.json", record())
    with pytest.raises(UserError, match=said):
        compare_group([made_group(run)], made_group(run), draws=DRAWS, law=law)


def test_a_law_in_another_unit_is_refused() -> None:
    law = ScalingLaw("law.json", replace(record(), unit=LossUnit.BITS))
    with pytest.raises(UserError, match=r"law.json is in bits a byte, and the runs are compared"):
        law.fit(ended_at(whole_loss(STEPS)), DRAWS)
