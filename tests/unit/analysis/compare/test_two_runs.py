import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import FLOPS_A_STEP, write_ledger

from tst_megatron.analysis.compare.two_runs import (
    Crossing,
    Curve,
    EqualLoss,
    crossing,
    equal_flops,
    equal_loss,
    figures,
    interpolate,
    summarise,
)
from tst_megatron.runs.ledger import Ledger


def curve(*losses: float, every: int = 10, seconds_a_step: float = 2.0) -> Curve:
    steps = tuple(every * (index + 1) for index in range(len(losses)))
    return Curve(
        steps,
        tuple(step * seconds_a_step for step in steps),
        tuple(step * FLOPS_A_STEP for step in steps),
        losses,
    )


def test_a_crossing_lies_on_the_line_between_two_validations():
    assert crossing(curve(5.0, 4.0, 3.0), 3.25) == Crossing(27.5, 55.0)


def test_a_loss_met_exactly_is_reached_there():
    assert crossing(curve(5.0, 4.0, 3.0), 4.0) == Crossing(20.0, 40.0)


def test_a_dip_that_does_not_last_does_not_count():
    assert crossing(curve(5.0, 3.0, 4.0, 2.0), 3.0) == Crossing(35.0, 70.0)


def test_a_loss_is_not_reached_by_a_run_that_ends_above_it():
    assert crossing(curve(5.0, 2.0, 4.0), 3.0) is None


def test_a_run_already_there_at_its_first_validation():
    assert crossing(curve(2.0, 1.0), 3.0) == Crossing(10.0, 20.0)


@pytest.mark.parametrize(("points", "loss"), [(curve(), 3.0), (curve(3.0), None)])
def test_nothing_to_cross(points: Curve, loss: float | None):
    assert crossing(points, loss) is None


def test_a_loss_that_is_not_a_number_is_above_every_loss():
    assert crossing(curve(2.0, math.inf, 2.0), 3.0) == Crossing(30.0, 60.0)
    assert crossing(curve(2.0, math.inf), 3.0) is None


@given(
    st.lists(st.floats(0.5, 12.0), min_size=1, max_size=12).map(lambda losses: curve(*losses)),
    st.floats(0.5, 12.0),
)
def test_after_a_crossing_the_loss_never_comes_back(points: Curve, loss: float):
    found = crossing(points, loss)
    assert (found is None) == (points.losses[-1] > loss)
    if found is not None:
        later = [
            y for x, y in zip(points.steps, points.losses, strict=True) if x > found.step + 1e-6
        ]
        assert all(value <= loss for value in later)
        assert points.steps[0] <= found.step <= points.steps[-1]


def test_equal_loss_where_the_tst_run_ended_lower():
    baseline, tst = curve(5.0, 4.0, 3.0, 2.0), curve(6.0, 3.0, 1.0, 1.0, seconds_a_step=4.0)
    # The TST run passes 2.0 halfway between steps 20 and 30, at 4 s a step.
    assert equal_loss(baseline, tst) == EqualLoss(2.0, 40 / 25, 80 / 100, reached=False)


def test_equal_loss_where_the_baseline_gets_to_the_tst_runs_loss():
    baseline, tst = curve(5.0, 4.0, 3.0, 2.0), curve(6.0, 5.0, 4.0, 3.5)
    assert equal_loss(baseline, tst) == EqualLoss(3.5, 25 / 40, 25 / 40, reached=True)


def test_equal_loss_of_equal_runs_is_one():
    assert equal_loss(curve(5.0, 3.0), curve(5.0, 3.0)) == EqualLoss(3.0, 1.0, 1.0, reached=True)


@pytest.mark.parametrize(
    ("baseline", "tst"),
    [
        (curve(), curve(3.0)),
        (curve(3.0), curve()),
        (curve(), curve()),
        (curve(math.inf), curve(3.0)),
    ],
)
def test_without_a_final_loss_of_both_runs_nothing_is_compared(baseline: Curve, tst: Curve):
    assert equal_loss(baseline, tst) == EqualLoss()
    assert equal_flops(baseline, tst) is None


def test_equal_flops_at_the_end_of_both():
    assert equal_flops(curve(5.0, 3.0), curve(5.0, 2.5)) == -0.5


def test_equal_flops_of_a_run_cut_short_is_taken_where_it_ended():
    assert equal_flops(curve(5.0, 4.0, 3.0), curve(4.0, every=25)) == pytest.approx(0.5)


def test_equal_flops_is_never_extrapolated():
    assert equal_flops(curve(5.0, 4.0), curve(4.0, every=5)) is None


def test_interpolation():
    assert interpolate((0, 10), (0.0, 5.0), 4) == pytest.approx(2.0)
    assert interpolate((0, 10), (0.0, 5.0), 11) is None
    assert interpolate((1, 10), (0.0, 5.0), 0) is None
    assert interpolate((), (), 0) is None


def test_a_run_is_summed_up_at_its_last_line(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l.jsonl", {20: 5.0, 40: 4.0}, stages=[(4, 100)], last_step=47)
    summary = summarise(ledger)
    assert (summary.steps, summary.positions, summary.flops) == (47, 47 * 512, 47e9)
    assert (summary.wall_clock_s, summary.final_validation_loss) == (94.0, 4.0)
    assert [list(phase.values()) for phase in summary.phases] == [[0, 4, 1, 25], [1, 1, 26, 47]]


def test_a_run_without_progress_is_all_zeros():
    summary = summarise(Ledger({}))
    assert (summary.steps, summary.data_tokens, summary.flops) == (0, 0, 0.0)
    assert summary.final_validation_loss is None
    assert summary.phases == ()


def test_the_figures_of_two_whole_runs(tmp_path: Path):
    baseline = write_ledger(tmp_path / "b", {20: 5.0, 40: 4.5, 60: 4.0, 80: 3.5, 100: 3.0})
    losses = {20: 6.0, 40: 5.5, 60: 3.5, 80: 3.25, 100: 2.75}
    tst = write_ledger(tmp_path / "t", losses, stages=[(4, 120)], seconds_a_step=3.0)
    found = figures(baseline, tst)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert found.keys() == {"baseline", "tst", "equal_flops", "equal_loss", "partial"}
    assert found["equal_flops"] == {"loss_difference": -0.25}
    # The TST run passes 3.0 halfway between steps 80 and 100, at 3 s a step.
    assert found["equal_loss"] == {
        "loss": 3.0,
        "step_ratio": 100 / 90,
        "wall_clock_ratio": 200 / 270,
        "reached": False,
    }
    assert found["tst"]["phases"][0] == {
        "stage": 0,
        "bag_size": 4,
        "first_step": 1,
        "last_step": 30,
    }
    assert found["partial"] is False


def test_figures_of_what_there_is(tmp_path: Path):
    whole = write_ledger(tmp_path / "b", {50: 4.0, 100: 3.0})
    cut = write_ledger(tmp_path / "c", {20: 6.0, 50: 4.0}, stages=[(4, 120)], last_step=57)
    found = figures(whole, cut)
    assert found["partial"] is True
    assert found["tst"]["steps"] == 57
    assert found["equal_flops"]["loss_difference"] == pytest.approx(0.0)
    alone = figures(whole, None)
    assert (alone["partial"], alone["tst"]) == (True, None)
    assert alone["equal_flops"] == {"loss_difference": None}
    assert alone["equal_loss"]["reached"] is False
    broken = figures(whole, write_ledger(tmp_path / "n", {50: 4.0, 100: None}))
    assert broken["tst"]["final_validation_loss"] is None
    assert broken["partial"] is True
