"""Curves that are hardly there, and seeds that differ: nothing crashes, and it is said."""

import numpy as np
import pytest
from made_curves import evaluated_at, law, made_group, made_run

from tst_megatron.analysis.compare.compare import compare_group
from tst_megatron.analysis.compare.group_curve import group_curve
from tst_megatron.analysis.compare.rows import resample
from tst_megatron.analysis.compare.sentences import headline
from tst_megatron.statistics.interval import Interval

STEPS = evaluated_at(4000, 40)
DRAWS = 200


def seeds(numbers: list[int | None], speed: float = 1.0, spread: float = 0.02, shared: int = 0):
    """A run a seed; what a seed does to its run is the same wherever ``shared`` is."""
    runs = []
    for index, number in enumerate(numbers):
        shift = spread * np.random.default_rng([shared, index]).standard_normal()
        noise = np.random.default_rng([7, index, int(10 * speed)]).standard_normal(40)
        losses = law(speed * STEPS) + shift + 0.003 * noise
        runs.append(made_run(STEPS, losses, stderr=0.003, seed=number, name=f"seed {number}"))
    return made_group(*runs)


@pytest.mark.parametrize("points", [0, 1, 2, 3])
@pytest.mark.parametrize("side", ["baseline", "candidate", "both"])
def test_few_points_are_compared_as_far_as_they_go(points: int, side: str):
    whole, cut = (made_group(made_run(steps, law(steps))) for steps in (STEPS, STEPS[:points]))
    baseline = whole if side == "candidate" else cut
    candidate = whole if side == "baseline" else cut
    found = compare_group([baseline], candidate, draws=DRAWS)
    # What has one evaluation was there by that, or never got there.
    assert (found.equal_loss.step_ratio == Interval()) == (points < 2)
    if points == 0:
        assert any("no held-out loss" in note for note in found.notes)


@pytest.mark.parametrize("ahead", ["baseline", "candidate"])
def test_a_loss_met_before_the_first_evaluation_gives_no_ratio(ahead: str):
    end = np.array([4000.0])
    low, high = (made_group(made_run(end, law(end) - by, stderr=0.004)) for by in (0.1, 0.0))
    baseline, candidate = (low, high) if ahead == "baseline" else (high, low)
    found = compare_group([baseline], candidate, draws=DRAWS)
    # A ratio of 1 from 1 to 1 would say that both needed the same.
    assert found.equal_loss.step_ratio == Interval()
    assert found.equal_loss.reached == (ahead == "baseline")
    assert any("at its first evaluation" in note for note in found.notes)
    assert found.equal_flops.loss_difference.value == pytest.approx(
        0.1 if ahead == "baseline" else -0.1
    )


def test_a_baseline_that_rose_above_a_loss_has_not_reached_it():
    steps = evaluated_at(4000, 20)
    rising = made_run(steps, np.linspace(2.0, 2.6, 20), stderr=0.002)
    candidate = made_run(steps, np.linspace(2.9, 2.1, 20), stderr=0.002)
    found = compare_group([made_group(rising)], made_group(candidate), draws=DRAWS)
    assert found.equal_loss.level == "baseline_final"
    assert not any("first evaluation" in note for note in found.notes)
    lone = compare_group([made_group(rising)], made_group(made_run(steps[:1], [2.1])), draws=DRAWS)
    assert (lone.equal_loss.reached, lone.equal_loss.step_ratio) == (False, Interval())


def test_no_baseline_at_all():
    assert compare_group([], seeds([1]), draws=DRAWS).equal_loss.step_ratio == Interval()


def test_without_any_error_there_is_a_figure_and_no_interval():
    two = np.array([2000.0, 4000.0])
    group = made_group(made_run(two, law(two)))
    found = compare_group([group], made_group(made_run(two, law(two) - 0.1)), draws=DRAWS)
    assert found.equal_loss.step_ratio.value is not None
    assert found.equal_loss.step_ratio.low is found.equal_loss.step_ratio.high is None
    assert "no interval" in found.uncertainty


def test_a_run_that_ends_not_a_number_is_left_out_and_said():
    bad = law(STEPS)
    bad[-1] = np.inf
    runs = [made_run(STEPS, losses, name=name) for losses, name in ((bad, "b"), (law(STEPS), "g"))]
    found = compare_group([made_group(*runs)], seeds([1]), draws=DRAWS)
    assert any(note.startswith("b ends with a held-out loss that is not") for note in found.notes)
    assert found.equal_loss.step_ratio.value is not None


def test_a_loss_is_reached_for_good_only_after_the_last_bad_one():
    bad = law(STEPS)
    bad[29] = np.nan
    short = STEPS[:10]
    candidate = made_group(made_run(short, law(1.5 * short)))
    found = compare_group([made_group(made_run(STEPS, bad))], candidate, draws=DRAWS)
    assert found.equal_loss.baseline.steps.value == STEPS[30]
    assert any("not numbers: 1." in note for note in found.notes)
    assert found.equal_flops.loss_difference.value is not None


def test_a_lucky_dip_is_not_a_crossing():
    dip = law(STEPS)
    dip[9] -= 0.4
    short = STEPS[:20]
    candidate = made_group(made_run(short, law(1.5 * short), stderr=0.002))
    found = compare_group([made_group(made_run(STEPS, dip, stderr=0.002))], candidate, draws=DRAWS)
    assert found.equal_loss.baseline.steps.value == pytest.approx(3000, rel=0.02)


def test_the_same_seeds_are_pairs():
    paired = compare_group([seeds([1, 2, 3])], seeds([1, 2, 3], 1.5), draws=500)
    apart = compare_group([seeds([1, 2, 3])], seeds([4, 5, 6], 1.5), draws=500)
    assert "as pairs" in paired.uncertainty
    assert "independent" in apart.uncertainty
    widths = [
        one.equal_flops.loss_difference.high - one.equal_flops.loss_difference.low
        for one in (paired, apart)
    ]
    # What a seed does to both its runs is not in their difference.
    assert widths[0] < widths[1] / 2


@pytest.mark.parametrize("numbers", [[1, 2], [7, 7, 7], [None, None, None]])
def test_what_cannot_be_paired_is_independent(numbers: list[int | None]):
    found = compare_group([seeds(numbers)], seeds(numbers, 1.5), draws=DRAWS)
    assert "independent" in found.uncertainty


@pytest.mark.parametrize("numbers", [[1, 1], [None, None]])
def test_runs_of_one_seed_in_a_group_do_not_share_their_draws(numbers: list[int | None]):
    """Their deviations from their mean cancelled, so the longer baseline had no error at all."""
    curves = [group_curve(seeds(each)) for each in ([1, 2, 3], numbers, [1, 2, 3])]
    drawn = resample((curves[0], curves[1]), curves[2], DRAWS, 0)
    assert drawn.paired
    assert all(rows.finals.std() > 1e-4 for rows in (*drawn.baselines, drawn.candidate))


def test_one_seed_against_several_spreads_as_they_do():
    found = compare_group([seeds([1, 2, 3])], seeds([4], 1.5), draws=DRAWS)
    alone = compare_group([seeds([1])], seeds([4], 1.5), draws=DRAWS)
    assert "is taken to spread as" in found.uncertainty
    assert "not in them" in alone.uncertainty
    low, high = found.equal_loss.loss.low, found.equal_loss.loss.high
    assert high - low > 2 * (alone.equal_loss.loss.high - alone.equal_loss.loss.low)


def test_seeds_that_took_other_times_make_the_clock_uncertain():
    slow = [
        made_run(STEPS, law(STEPS), stderr=0.003, seconds_a_step=pace) for pace in (0.9, 1, 1.1)
    ]
    candidate = made_group(*[made_run(STEPS, law(0.8 * STEPS), stderr=0.003)] * 3)
    equal = compare_group([made_group(*slow)], candidate, draws=1000).equal_loss
    assert equal.step_ratio.value == pytest.approx(0.8, rel=0.01)
    # Student's interval of three runs: 4.30 standard errors, of 5.8 % each.
    assert equal.wall_clock_ratio.high / 0.8 == pytest.approx(1 + 4.3 * 0.058, rel=0.1)


@pytest.mark.parametrize("side", ["baseline", "candidate", "both"])
@pytest.mark.parametrize("loss", [6.0, 2.5, 1.0])
def test_a_run_evaluated_before_its_training_alone_says_nothing(side: str, loss: float):
    """The baseline needed no step for a loss that the candidate needed some for: a ratio of 0, over
    which the headline divided."""
    run = made_group(made_run(STEPS, law(STEPS), stderr=0.003), name="run")
    start = made_group(made_run([0], [loss], stderr=0.003, num_steps=4000, name="start"))
    baseline, candidate = (
        (run if side == "candidate" else start),
        (run if side == "baseline" else start),
    )
    found = compare_group([baseline], candidate, draws=DRAWS)
    assert found.equal_loss.step_ratio == found.equal_loss.loss == Interval()
    assert (
        "start has no held-out loss but the one at step 0, before any training, and is left out."
        in found.notes
    )
    missing = {
        "candidate": ["the candidate"],
        "baseline": ["the baseline"],
        "both": ["the baseline", "the candidate"],
    }[side]
    why = "; ".join(f"{name} has no held-out loss after step 0" for name in missing)
    assert headline(found) == f"There is no comparison yet: {why}."


def test_a_run_that_began_alone_leaves_the_figures_to_the_others():
    start = made_run([0], [6.0], stderr=0.003, num_steps=4000, name="start")
    whole = made_run(STEPS, law(STEPS), stderr=0.003, name="whole")
    found = compare_group([made_group(start, whole)], seeds([1], 1.5), draws=DRAWS)
    assert found.equal_loss.step_ratio.value is not None
    assert len([note for note in found.notes if "start" in note]) == 1


def test_the_verb_agrees_with_how_many_have_one_seed():
    short = made_group(made_run(STEPS / 2, law(STEPS / 2), stderr=0.003), name="short")
    candidate = seeds([1, 2, 3], 1.5)
    one = compare_group([seeds([4])], candidate, draws=DRAWS)
    assert "; baseline has one seed and is taken to spread" in one.uncertainty
    two = compare_group([seeds([4]), short], candidate, draws=DRAWS)
    assert "; baseline and short have one seed each and are taken to spread" in two.uncertainty
