import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import FLOPS_A_STEP, write_ledger

from tst_megatron.comparison.align import (
    Crossing,
    Curve,
    EqualFlops,
    EqualLoss,
    clock_at,
    crossing,
    equal_flops,
    equal_loss,
    interpolate,
    summarise,
)
from tst_megatron.comparison.phases import Phase
from tst_megatron.training.ledger import Ledger


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
    assert equal_flops(baseline, tst).loss_difference is None


def test_equal_flops_at_the_end_of_both():
    assert equal_flops(curve(5.0, 3.0), curve(5.0, 2.5)) == EqualFlops(-0.5, 2e10, at_end=True)


def test_equal_flops_of_a_run_cut_short_is_taken_where_it_ended():
    found = equal_flops(curve(5.0, 4.0, 3.0), curve(4.0, every=25))
    assert found == EqualFlops(pytest.approx(0.5), 2.5e10, at_end=False)


def test_equal_flops_is_never_extrapolated():
    assert equal_flops(curve(5.0, 4.0), curve(4.0, every=5)) == EqualFlops(None, 5e9, at_end=False)


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
    assert summary.phases == (Phase(0, 4, 1, 25), Phase(1, 1, 26, 47))


def test_a_run_without_progress_is_all_zeros():
    summary = summarise(Ledger({}))
    assert (summary.steps, summary.data_tokens, summary.flops) == (0, 0, 0.0)
    assert summary.final_validation_loss is None
    assert summary.phases == ()


def test_the_clock_at_a_step_between_two_lines(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l.jsonl", {20: 5.0})
    assert clock_at(ledger, 13) == pytest.approx(26.0)
    assert clock_at(ledger, 3) == pytest.approx(6.0)
    assert clock_at(ledger, 21) is None
