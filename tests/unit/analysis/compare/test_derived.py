from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ledgers import BATCH_SIZE, FLOPS_A_STEP, SEQ_LENGTH
from made_runs import made_run

from tst_megatron.analysis.compare.compare import compare_group
from tst_megatron.analysis.compare.derived import complete
from tst_megatron.analysis.compare.groups import group
from tst_megatron.runs.run import RecordedRun


def without(run: RecordedRun, *columns: str) -> RecordedRun:
    """As another source would tell it."""
    curve, steps = (
        replace(series, **{name: np.full(series.steps.size, np.nan) for name in columns})
        for series in (run.curve, run.steps)
    )
    return replace(run, curve=curve, steps=steps)


ALL = ("positions", "data_tokens", "flops")


def test_the_other_sides_rates_are_taken_over(tmp_path: Path):
    whole = made_run(tmp_path, "base")
    other = made_run(tmp_path, "tst", losses={30: 4.0, 90: 3.0}, stages=[(4, 100)])
    (found,) = complete([without(whole, *ALL)], [other])
    for name in ALL:
        for got, want in ((found.curve, whole.curve), (found.steps, whole.steps)):
            np.testing.assert_allclose(getattr(got, name), getattr(want, name))
    assert found.notes == (
        f"Its source does not tell, so it has the other side's {BATCH_SIZE * SEQ_LENGTH:,} "
        "positions a step.",
        "Its source does not tell, so it has the other side's "
        f"{FLOPS_A_STEP / BATCH_SIZE / SEQ_LENGTH:.4g} FLOPs a position.",
    )


def test_data_tokens_of_bags_stay_unknown(tmp_path: Path):
    bags = made_run(tmp_path, "tst", stages=[(4, 100)])
    (found,) = complete([without(bags, *ALL)], [made_run(tmp_path, "base")])
    assert np.isnan(found.curve.data_tokens).all()
    assert np.isfinite(found.curve.flops).all()


def test_what_is_told_stays(tmp_path: Path):
    run = made_run(tmp_path, "base")
    assert complete([run], [made_run(tmp_path, "tst")]) == [run]


@pytest.mark.parametrize("flag", ["global_batch_size", "seq_length", "num_layers"])
def test_nothing_is_taken_over_where_the_runs_are_known_to_differ(tmp_path: Path, flag: str):
    run = without(made_run(tmp_path, "base", flags={flag: 2}), "flops")
    other = made_run(tmp_path, "tst", flags={flag: 3})
    assert complete([run], [other]) == [run]


def test_rates_that_disagree_tell_nothing(tmp_path: Path):
    run = without(made_run(tmp_path, "base"), "flops")
    others = [made_run(tmp_path, name) for name in "ab"]
    others[1] = replace(others[1], curve=replace(others[1].curve, flops=2 * others[1].curve.flops))
    assert complete([run], others) == [run]


def test_what_a_run_started_from_is_in_every_ratio(tmp_path: Path):
    """A model that was grown from another is not free."""
    losses = {step: 2 + 3 * step**-0.3 for step in range(5, 101, 5)}
    parent = {"ledger": None, "step": 9, "flops": 100 * FLOPS_A_STEP, "gpu_hours": 1.0}
    spent = {"parents": [parent | {"data_tokens": 100 * BATCH_SIZE * SEQ_LENGTH}]}
    (baseline,) = group([made_run(tmp_path, "base", losses=losses)], "baseline")
    (candidate,) = group([made_run(tmp_path, "grown", spent, losses=losses)], "candidate")
    equal = compare_group([baseline], candidate, draws=20).equal_loss
    assert equal.step_ratio.value == pytest.approx(1.0)
    assert equal.flops_ratio.value == pytest.approx(0.5)


def test_no_rate_is_taken_of_a_run_that_started_from_another(tmp_path: Path):
    run = without(made_run(tmp_path, "base"), "flops")
    parent = {"ledger": None, "step": 9, "flops": 1e9, "gpu_hours": 1.0, "data_tokens": 1}
    assert complete([run], [made_run(tmp_path, "grown", {"parents": [parent]})]) == [run]
