"""Figures of curves without noise, or with little: what is measured, what is extrapolated."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_curves import BAG_SIZE, evaluated_at, law, made_group, made_run, true_curve

from tst_megatron.analysis.compare.compare import compare
from tst_megatron.analysis.compare.equal_loss import ALONG, BY_LAW, DECAY, WHOLE_RUNS
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.sentences import headline
from tst_megatron.statistics.interval import Interval

LONG, SHORT = evaluated_at(10_000, 50), evaluated_at(4_000, 20)
DRAWS = 200
TOLERANCE = 0.01


def whole_run(end: int, speed: float = 1.0, switch: int = 0, **facts):
    """A run with a decay over the last tenth of its steps."""
    steps, start = evaluated_at(end, 50), int(0.9 * end)
    losses = true_curve(steps, speed, decay_start=start, switch=switch)
    return made_run(steps, losses, decay_start=start, switch=switch, **facts)


def assert_is(found: Interval, truth: float, rel: float = TOLERANCE):
    assert found.value == pytest.approx(truth, rel=rel)
    # An interval that is not there holds everything.
    assert found.low is not None
    assert found.holds(truth)


@pytest.mark.parametrize("speed", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("stderr", [np.nan, 0.002])
def test_a_loss_that_the_baseline_reached(speed: float, stderr: float):
    baseline = made_group(made_run(LONG, law(LONG), stderr=stderr))
    tst = made_run(SHORT, law(speed * SHORT), stderr=stderr, seconds_a_step=1.25)
    equal = compare([baseline], made_group(tst), draws=DRAWS).equal_loss
    assert (equal.reached, equal.extrapolated, equal.where) == (True, False, ALONG)
    assert_is(equal.step_ratio, speed)
    assert_is(equal.flops_ratio, speed)
    assert_is(equal.wall_clock_ratio, speed / 1.25)
    assert_is(equal.gpu_hours_ratio, speed / 1.25)
    assert_is(equal.baseline.steps, speed * 4000)
    assert equal.tst.steps == Interval(4000, 4000, 4000)
    assert equal.tst.wall_clock_s.value == pytest.approx(5000)


@pytest.mark.parametrize("speed", [1.3, 2.0, 3.5])
def test_a_loss_that_it_did_not_reach_is_extrapolated(speed: float):
    baseline = made_group(made_run(LONG, law(LONG), stderr=0.002))
    tst = made_group(made_run(LONG, law(speed * LONG), stderr=0.002, seconds_a_step=0.5))
    found = compare([baseline], tst, draws=DRAWS)
    assert (found.equal_loss.reached, found.equal_loss.extrapolated) == (False, True)
    assert_is(found.equal_loss.step_ratio, speed)
    assert_is(found.equal_loss.wall_clock_ratio, 2 * speed)
    assert found.fit is not None
    assert found.fit.exponent == pytest.approx(0.4, rel=0.02)
    assert any("extrapolated" in note for note in found.notes)
    assert not any("Hours show" in note for note in found.notes)
    assert found.equal_loss_along is None
    assert found.equal_loss_at_baseline is not None
    assert_is(found.equal_loss_at_baseline.step_ratio, speed)


def test_a_run_against_itself_is_no_difference():
    group = made_group(made_run(LONG, law(LONG), stderr=0.01))
    found = compare([group], group, draws=DRAWS)
    assert found.equal_loss.step_ratio.value == 1
    assert found.equal_loss.step_ratio.holds(1)
    assert found.equal_flops.loss_difference.value == 0
    assert found.equal_flops.at_end


def test_unequal_grids_and_a_superposed_stage():
    baseline = made_run(evaluated_at(10_000, 37), law(evaluated_at(10_000, 37)), stderr=0.003)
    steps = evaluated_at(5_000, 41)
    tst = made_run(steps, true_curve(steps, 1.7, switch=1250), stderr=0.003, switch=1250)
    found = compare([made_group(baseline)], made_group(tst), draws=DRAWS)
    assert_is(found.equal_loss.step_ratio, 1.7)
    assert_is(found.equal_flops.loss_difference, law(1.7 * 5000) - law(5000), rel=0.02)
    # Bags read more text: as much as the baseline's whole run lies inside TST's.
    read = 5000 + (BAG_SIZE - 1) * 1250
    assert found.equal_data.data_tokens == pytest.approx(read * 512)
    assert_is(found.equal_data.loss_difference, law(1.7 * 5000) - law(read), rel=0.03)


def test_whole_runs_of_two_lengths_are_the_headline():
    baseline = [made_group(whole_run(8000)), made_group(whole_run(16_000, seconds_a_step=2))]
    tst = made_group(whole_run(8000, speed=1.5, switch=2000))
    found = compare(baseline, tst, draws=DRAWS)
    equal = found.equal_loss
    assert (equal.whole_runs, equal.reached, equal.where) == (True, True, WHOLE_RUNS)
    assert_is(equal.step_ratio, 1.5)
    # Its steps cost what those of the longer run did.
    assert_is(equal.wall_clock_ratio, 3)
    assert found.equal_loss_along is not None
    assert found.equal_loss_along.where == DECAY
    assert found.baseline[0].num_steps == 8000


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_longer_run_that_ended_worse_does_not_undo_a_shorter_one(speed: float):
    """A TST run that was worse came out as a saving of 2.25."""
    good, poor = whole_run(8000, stderr=0.002), whole_run(16_000, speed=0.4, stderr=0.002)
    assert poor.curve.losses[-1] > good.curve.losses[-1]
    tst = made_group(whole_run(8000, speed, switch=2000, stderr=0.002))
    for runs in ((good, poor), (poor, good)):
        found = compare([made_group(run) for run in runs], tst, draws=DRAWS)
        ahead = speed > 1
        assert (found.equal_loss.reached, found.equal_loss.extrapolated) == (not ahead, ahead)
        assert_is(found.equal_loss.step_ratio, speed, rel=0.03)
        assert any("16,000 steps ended no lower" in note for note in found.notes)
        assert any("did not get" in note for note in found.notes) == ahead


def test_a_longer_run_under_way_is_no_whole_run():
    short, tst = made_group(whole_run(8000)), made_group(whole_run(8000, speed=1.3, switch=2000))
    steps = evaluated_at(12_000, 60)
    under_way = made_group(made_run(steps, law(steps), decay_start=28_800, num_steps=32_000))
    alone = compare([short], tst, draws=DRAWS)
    found = compare([short, under_way], tst, draws=DRAWS)
    # Its loss without a decay would have the saving come out far too large.
    one, other = found.equal_loss, alone.equal_loss
    assert one.step_ratio.value == pytest.approx(other.step_ratio.value)
    assert (one.where, one.extrapolated) == (other.where, other.extrapolated)
    assert any("not taken for a whole run" in note for note in found.notes)


@pytest.mark.parametrize("speed", [0.7, 1.5])
def test_one_length_with_a_decay_stands_for_whole_runs_of_others(speed: float):
    tst = made_group(whole_run(8000, speed, switch=2000))
    found = compare([made_group(whole_run(8000))], tst, draws=DRAWS)
    equal = found.equal_loss
    assert_is(equal.step_ratio, speed, rel=0.02)
    assert (equal.where, equal.whole_runs) == (BY_LAW, False)
    assert (equal.reached, equal.extrapolated) == (speed < 1, speed > 1)
    assert any("Measure a longer baseline" in note for note in found.notes) == (speed > 1)


def test_what_the_clock_alone_shows_is_named():
    baseline = made_group(made_run(LONG, law(LONG), stderr=0.01, seconds_a_step=1.5))
    found = compare([baseline], made_group(made_run(LONG, law(LONG), stderr=0.01)), draws=DRAWS)
    assert found.equal_loss.by_clock_alone
    assert any("Hours show a difference that operations do not" in note for note in found.notes)
    assert headline(found).startswith("No difference shown in FLOPs")


def test_three_lengths_are_extrapolated_by_their_own_law():
    ends = (4000, 8000, 16_000)
    baseline = [made_group(whole_run(end, stderr=1e-4)) for end in ends]
    found = compare(baseline, made_group(whole_run(16_000, 2.0, stderr=1e-4)), draws=DRAWS)
    assert (found.equal_loss.extrapolated, found.equal_loss.whole_runs) == (True, True)
    assert_is(found.equal_loss.step_ratio, 2, rel=0.02)
    assert found.fit is not None
    assert found.fit.fitted_on == "the final losses of whole runs of 3 lengths"


def test_a_law_of_whole_runs_goes_on_below_the_shortest():
    """Copies in which less than the shortest was needed counted as all of it: a saving, or 1."""
    ends = (8000, 16_000, 32_000)
    baseline = [made_group(whole_run(end, stderr=0.01)) for end in ends]
    for speed in (0.9, 1.02):
        tst = made_group(whole_run(8000, speed, switch=2000, stderr=0.01))
        equal = compare(baseline, tst, draws=DRAWS).equal_loss
        assert_is(equal.step_ratio, speed, rel=0.1)
        low = equal.step_ratio.low
        assert low is not None
        assert low < 0.98
        assert equal.where == (BY_LAW if speed < 1 else WHOLE_RUNS)


def test_one_run_has_a_clock_as_uncertain_as_the_others():
    """Its hours were exact beside hours that varied by a half."""

    def run(seed: int, speed: float, seconds_a_step: float, switch: int = 0):
        return whole_run(8000, speed, switch, seed=seed, seconds_a_step=seconds_a_step, stderr=0.01)

    seeds = zip((1, 2, 3), (0.95, 1.0, 1.05), (1.0, 1.25, 1.5), strict=True)
    baseline = made_group(*(run(*one) for one in seeds))
    tst = made_group(run(1, 1.5, 1.25, switch=2000))
    equal = compare([baseline], tst, draws=DRAWS).equal_loss
    hours = equal.tst.gpu_hours
    assert hours.value == pytest.approx(8000 * 1.25 * 8 / 3600)
    assert hours.low is not None
    assert hours.high is not None
    assert hours.high / hours.low > 1.2
    assert equal.tst.flops.low == pytest.approx(equal.tst.flops.high)


def test_a_loss_below_the_floor_is_taken_at_the_baselines_final_loss():
    baseline = made_group(made_run(LONG, law(LONG), stderr=0.002))
    found = compare([baseline], made_group(made_run(LONG, law(LONG) - 0.6, stderr=0.002)))
    equal = found.equal_loss
    assert (equal.reached, equal.extrapolated, equal.level) == (True, False, "baseline_final")
    assert equal.loss.value == pytest.approx(law(np.array([10_000.0]))[0], abs=0.003)
    assert equal == found.equal_loss_at_baseline


def of_lengths_that_flatten_out(stderr: float) -> tuple[list[Group], float]:
    """A baseline whose runs of 16,000 and 32,000 steps end at one loss, and that loss."""
    floor = float(law(np.array([15_000.0]))[0])
    runs = [whole_run(end, stderr=stderr) for end in (8000, 16_000, 32_000)]
    return [
        made_group(
            replace(run, curve=replace(run.curve, losses=np.maximum(run.curve.losses, floor)))
        )
        for run in runs
    ], floor


def that_ends_at(loss: float, stderr: float) -> Group:
    whole = whole_run(8000, stderr=stderr)
    moved = whole.curve.losses + (loss - whole.curve.losses[-1])
    return made_group(replace(whole, curve=replace(whole.curve, losses=moved)))


def test_what_the_longest_run_did_not_get_to_would_have_taken_longer():
    baseline, floor = of_lengths_that_flatten_out(stderr=0.002)
    found = compare(baseline, that_ends_at(floor - 0.4, stderr=0.002), draws=DRAWS)
    equal = found.equal_loss
    assert (equal.at_least, equal.reached, equal.extrapolated) == (True, False, False)
    for ratio in (equal.step_ratio, equal.flops_ratio, equal.gpu_hours_ratio):
        assert (ratio.value, ratio.low) == (pytest.approx(4), pytest.approx(4))
        assert ratio.high is None
    assert equal.baseline.steps == Interval(32_000.0, 32_000.0, None)
    assert equal.tst.steps == Interval(8000.0, 8000.0, 8000.0)
    said = headline(found)
    assert "at least 4.00× fewer GPU hours than the baseline, whose longest run did not" in said


def test_a_longest_run_that_may_have_got_there_is_no_bound():
    """TST is ahead by less than the noise."""
    baseline, floor = of_lengths_that_flatten_out(stderr=0.05)
    equal = compare(baseline, that_ends_at(floor - 0.01, stderr=0.05), draws=DRAWS).equal_loss
    low = equal.step_ratio.low
    assert low is None or low < 2.5


def test_the_saving_by_loss_is_the_speed_at_every_loss():
    baseline = made_group(made_run(LONG, law(LONG), stderr=0.001))
    tst = made_group(made_run(LONG, law(2 * LONG), stderr=0.001))
    saving = compare([baseline], tst, draws=DRAWS).saving
    assert (np.diff(saving.losses) < 0).all()
    # The highest losses lie between the first evaluations, which are far apart in log steps.
    np.testing.assert_allclose(saving.step_ratios[12:], 2, rtol=0.02)
    assert (saving.lows <= saving.step_ratios).all()
    # A step costs both sides the same.
    np.testing.assert_allclose(saving.gpu_hours_ratios, saving.step_ratios, rtol=1e-6)


def test_what_is_not_known_is_none():
    bare = made_run(LONG, law(LONG), stderr=0.002, flops_a_step=np.nan, seconds_a_step=np.nan)
    found = compare([made_group(bare)], made_group(made_run(SHORT, law(2 * SHORT), stderr=0.002)))
    assert found.equal_loss.flops_ratio == found.equal_loss.wall_clock_ratio == Interval()
    assert found.equal_loss.baseline.flops == Interval()
    assert found.equal_flops.loss_difference == Interval()
    assert found.equal_flops.flops is None
    assert_is(found.equal_loss.step_ratio, 2)


def test_the_same_arguments_give_the_same_figures():
    rng = np.random.default_rng(3)
    noisy = [made_run(LONG, law(LONG) + 0.01 * rng.standard_normal(50)) for _ in range(2)]
    first, second = (
        compare([made_group(noisy[0])], made_group(noisy[1]), draws=DRAWS) for _ in range(2)
    )
    assert first.equal_loss == second.equal_loss
    np.testing.assert_array_equal(first.saving.highs, second.saving.highs)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.2, 50), st.integers(0, 1000))
def test_time_on_another_scale_scales_the_clock_and_nothing_else(factor: float, seed: int):
    rng = np.random.default_rng(seed)
    baseline = made_group(made_run(LONG, law(LONG) + 0.005 * rng.standard_normal(50)))
    run = made_run(SHORT, law(2 * SHORT) + 0.005 * rng.standard_normal(20))
    clock = replace(run.curve, wall_clock_s=run.curve.wall_clock_s * factor)
    before, after = (
        compare([baseline], made_group(one), draws=50).equal_loss
        for one in (run, replace(run, curve=clock))
    )
    assert after.step_ratio == before.step_ratio
    for end in ("value", "low", "high"):
        theirs, ours = getattr(before.wall_clock_ratio, end), getattr(after.wall_clock_ratio, end)
        assert ours == pytest.approx(theirs / factor)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(1.2, 2.4))
def test_swapped_sides_invert_the_saving_and_the_sign(seed: int, speed: float):
    rng = np.random.default_rng(seed)
    one = made_group(made_run(LONG, law(LONG) + 0.005 * rng.standard_normal(50), stderr=0.005))
    other = made_group(made_run(LONG, law(speed * LONG), stderr=0.005))
    there, back = compare([one], other, draws=50), compare([other], one, draws=50)
    np.testing.assert_allclose(there.saving.step_ratios * back.saving.step_ratios, 1)
    assert there.equal_flops.loss_difference.value == pytest.approx(
        -back.equal_flops.loss_difference.value
    )
