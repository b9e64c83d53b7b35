"""The rule: when it switches on curves that are known, and what it does not depend on."""

from dataclasses import replace
from math import log, nan, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.methods.superposition.switch_rule import (
    LEAD_STEPS,
    MIN_POINTS,
    Point,
    Rule,
    decide,
)

RULE = Rule(
    bag_size=4, train_iters=20_000, warmup_steps=500, first_switch=1_000, last_switch=15_000
)


def curve(loss_of, rule=RULE, every=50):
    return [Point(step, loss_of(step)) for step in range(every, rule.train_iters, every)]


def straight(step):
    return 6.0 - 0.2 * log(step)


@pytest.mark.parametrize("bag_size", [2, 4, 6, 8, 16])
def test_a_straight_curve_switches_where_the_paper_found_the_best_share(bag_size):
    decision = decide(curve(straight), replace(RULE, bag_size=bag_size))
    share = 1 / (1 + sqrt(bag_size))
    assert decision.switch_step == pytest.approx(20_000 * share, abs=51)
    assert decision.switch_step == decision.measured_at + LEAD_STEPS


def test_a_curve_that_flattens_out_switches_before_one_that_does_not():
    flat_from = 3_000
    decision = decide(curve(lambda step: straight(min(step, flat_from))), RULE)
    assert flat_from < decision.switch_step < decide(curve(straight), RULE).switch_step


def test_a_curve_that_steepens_switches_after_one_that_does_not():
    steeper = decide(curve(lambda step: straight(step) - 0.02 * log(step) ** 2), RULE)
    assert steeper.switch_step > decide(curve(straight), RULE).switch_step


def test_a_loss_that_rises_ends_the_stage_as_soon_as_may_be():
    decision = decide(curve(lambda step: 4.0 + step / 1e4), RULE)
    assert RULE.first_switch <= decision.switch_step < RULE.first_switch + 50
    assert decision.gain_now < 0


def test_the_bounds_hold():
    early = replace(RULE, last_switch=2_000)
    assert decide(curve(straight), early) is None
    late = replace(RULE, first_switch=12_000)
    assert 12_000 <= decide(curve(straight), late).switch_step < 12_050


def test_the_gains_are_those_of_a_straight_curve():
    decision = decide(curve(straight), RULE)
    switch = decision.switch_step
    assert decision.gain_now == pytest.approx(0.2 / switch)
    assert decision.gain_expected == pytest.approx(sqrt(4) * 0.2 / (20_000 - switch))


def test_few_points_decide_nothing():
    points = [Point(7_000 + i, straight(7_000 + i)) for i in range(MIN_POINTS)]
    assert decide(points[:-1], RULE) is None
    assert decide(points, RULE) is not None
    # In the last doubling of the steps there must be as many.
    assert decide([*points[:-1], Point(14_500, straight(14_500))], RULE) is None


def test_what_is_measured_in_the_warm_up_or_is_no_number_is_left_out():
    wild = [Point(step, 9.0 + step % 3) for step in range(50, 501, 50)]
    measured = [p for p in curve(straight) if p.step > 500]
    assert decide([*wild, *measured], RULE) == decide(measured, RULE)
    holed = [p for i, p in enumerate(measured) if i % 7]
    with_nans = [Point(p.step, p.bag_loss if i % 7 else nan) for i, p in enumerate(measured)]
    assert decide(with_nans, RULE) == decide(holed, RULE)


losses = st.lists(st.floats(1.0, 6.0), min_size=5, max_size=60)


@given(losses, st.integers(0, 60))
def test_a_decision_once_made_is_not_changed_by_what_comes_after(values, cut):
    points = [Point(250 * (i + 1), value) for i, value in enumerate(values)]
    early, whole = decide(points[:cut], RULE), decide(points, RULE)
    if early is not None:
        assert early == whole
    if whole is not None:
        assert RULE.first_switch <= whole.switch_step < RULE.last_switch
        assert decide([p for p in points if p.step <= whole.measured_at], RULE) == whole


@given(losses, st.sampled_from([0.25, 2.0, 8.0]))
def test_the_unit_of_the_loss_does_not_matter(values, unit):
    def switch_of(losses):
        points = [Point(250 * (i + 1), loss) for i, loss in enumerate(losses)]
        decision = decide(points, RULE)
        return decision and decision.switch_step

    # Powers of two, so that nothing is rounded.
    assert switch_of(values) == switch_of([unit * value for value in values])
