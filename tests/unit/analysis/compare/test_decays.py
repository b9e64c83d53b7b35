"""Sides of which one decayed and the other did not: figures, and no claim."""

import numpy as np
import pytest
from made_curves import evaluated_at, law, made_group, made_run, true_curve

from tst_megatron.analysis.compare.compare import compare_group
from tst_megatron.analysis.compare.result import Comparison, Findings
from tst_megatron.analysis.compare.sentences import first_sentences

DRAWS, END, START = 200, 8000, 7200
CLAIMS = ("fewer", "more", "lower", "higher")


def decayed(speed: float = 1.0, end: int = END, start: int = START, last: int = END, **facts):
    """A run of 8,000 steps that decays from 7,200 on, or what is there of it."""
    steps = evaluated_at(end, 50)
    losses = true_curve(steps, speed, decay_start=start)
    kept = steps <= last
    return made_run(
        steps[kept], losses[kept], stderr=0.002, decay_start=start, num_steps=end, **facts
    )


def constant(speed: float = 1.0, end: int = END, known: bool = True):
    steps = evaluated_at(end, 50)
    start = end if known else None
    return made_run(steps, law(speed * steps), stderr=0.002, decay_start=start)


def said(found: Comparison) -> str:
    return first_sentences(Findings(found.baseline, (found.candidate,), (found,)))


def claims(text: str) -> bool:
    return any(word in text for word in CLAIMS)


@pytest.mark.parametrize("baseline", [constant(), decayed(last=6400)])
def test_a_decay_on_one_side_is_not_claimed_as_a_saving(baseline):
    """A true ratio of 1 came out as 1.85."""
    found = compare_group([made_group(baseline)], made_group(decayed()), draws=DRAWS)
    assert found.equal_loss.step_ratio.value > 1.5
    assert "has decayed there and the baseline's has not" in found.equal_loss.unlike
    text = said(found)
    assert text.startswith("No saving is claimed at a held-out loss of ")
    assert not claims(text.split(". ")[0])
    # Where the candidate's decay starts the sides are alike.
    early = found.equal_loss_along
    assert (early.unlike, early.candidate.steps.value) == ("", pytest.approx(START, rel=0.03))
    assert early.step_ratio.value == pytest.approx(1, rel=0.02)
    assert early.step_ratio.holds(1)


def test_a_baseline_that_is_not_known_to_have_no_decay_is_taken_as_it_is():
    found = compare_group([made_group(constant(known=False))], made_group(decayed()), draws=DRAWS)
    assert found.equal_loss.unlike == ""
    assert "fewer" in said(found)


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.5])
def test_without_a_decay_the_candidate_is_set_beside_the_baselines_stable_phase(speed: float):
    end = 6400 if speed > 1 else END
    found = compare_group([made_group(decayed(end=12_000, start=10_800, last=12_000))],
                    made_group(constant(speed, end)), draws=DRAWS)  # fmt: skip
    assert (found.equal_loss.where, found.equal_loss.unlike) == ("inside the stable phase", "")
    assert found.equal_loss.step_ratio.value == pytest.approx(speed, rel=0.02)
    assert any("The candidate did not decay" in note for note in found.notes)


def test_a_run_cut_inside_its_decay_is_no_whole_run():
    found = compare_group([made_group(decayed())], made_group(decayed(1.5, last=7680)), draws=DRAWS)
    assert "is 60 % through its decay there" in found.equal_loss.unlike
    assert not claims(said(found).split(". ")[0])


def test_a_seed_that_was_cut_does_not_cut_the_others():
    """Three seeds without a difference, one of them dead at 6,000: it came out as 1.96."""
    rng = np.random.default_rng(5)

    def seeds(*lasts: int):
        return made_group(
            *(decayed(1 + 0.01 * rng.standard_normal(), last=last, name=f"to {last}", seed=number)
              for number, last in enumerate(lasts))
        )  # fmt: skip

    found = compare_group([seeds(END, END, 6000)], seeds(END, END, END), draws=DRAWS)
    assert found.equal_loss.step_ratio.value == pytest.approx(1, rel=0.05)
    assert found.equal_loss.step_ratio.low < 1 < found.equal_loss.step_ratio.high
    assert any(note.startswith("to 6000 has its last held-out") for note in found.notes)
    # All of them cut: they are what there is.
    cut = compare_group([seeds(6000, 6000)], seeds(6000, 6000), draws=DRAWS)
    assert cut.equal_loss.step_ratio.value == pytest.approx(1, rel=0.05)


def test_a_rate_that_stays_to_the_last_log_is_not_taken_to_decay():
    late = constant()
    late = made_run(late.curve.steps, late.curve.losses, stderr=0.002, decay_start=7900)
    logged = late.steps.__class__(np.array([7800.0, 7900.0]), *vars_but_steps(late.steps))
    seen = late.__class__(**{**vars(late), "steps": logged})
    assert (
        compare_group([made_group(seen)], made_group(constant()), draws=50).equal_loss.unlike == ""
    )


def vars_but_steps(series):
    return [values for name, values in vars(series).items() if name != "steps"]


def cosine(speed: float = 1.0, **facts):
    """A run that decays from its first step on, as a cosine does: all of it is decay."""
    steps = evaluated_at(END, 50)
    losses = law(speed * steps) - 0.12 * (steps / END) ** 2
    return made_run(steps, losses, stderr=0.002, decay_start=0, **facts)


@pytest.mark.parametrize("speed", [0.5, 1.6])
def test_a_decay_all_along_makes_a_law_a_rough_guide(speed: float):
    found = compare_group([made_group(cosine())], made_group(cosine(speed)), draws=DRAWS)
    equal = found.equal_loss
    assert (equal.where, equal.rough, equal.unlike) == ("whole runs, by a fitted law", True, "")
    assert "a rough guide, as the learning rate decays all along" in said(found)
    assert any("is a rough guide to runs of other lengths" in note for note in found.notes)
    sure = compare_group([made_group(decayed())], made_group(decayed(speed)), draws=DRAWS)
    assert not sure.equal_loss.rough
    assert "rough guide" not in said(sure)


def test_equal_flops_in_the_middle_of_a_run_is_no_claim():
    """Two runs without a difference: the candidate came out 0.120 lower."""
    long = decayed(end=16_000, start=14_400, last=16_000)
    found = compare_group([made_group(long)], made_group(decayed()), draws=DRAWS)
    assert found.equal_flops.loss_difference.value == pytest.approx(-0.12, abs=0.01)
    assert "nothing is claimed" in said(found).split(". ")[1]
    assert "At equal FLOPs the baseline is at step 8,000 of 16,000" in " ".join(found.notes)
    alike = compare_group([made_group(decayed())], made_group(decayed(1.5)), draws=DRAWS)
    assert alike.equal_flops.unlike == ""
    assert "the candidate's held-out loss is lower" in said(alike)


def test_one_seed_a_side_stands_in_the_sentence():
    one = compare_group([made_group(decayed())], made_group(decayed(1.5)), draws=DRAWS)
    assert one.one_seed
    assert all("one seed a side" in part for part in said(one).split(" At equal"))
    two = made_group(decayed(1.5, seed=1), decayed(1.51, seed=2))
    several = compare_group([made_group(decayed())], two, draws=DRAWS)
    assert not several.one_seed
    assert "one seed a side" not in said(several)
