from dataclasses import replace

import pytest
from made_findings import comparison, findings, superposed

from tst_megatron.analysis.compare.amounts import FLOPS, GPU_HOURS
from tst_megatron.analysis.compare.result import EqualLoss, Findings
from tst_megatron.analysis.compare.sentences import (
    arrow_text,
    between,
    first_sentences,
    lead_amount,
    notes,
    notes_of_others,
    remark,
    warnings,
)
from tst_megatron.statistics.interval import Interval

AT_FLOPS = (
    "At equal FLOPs the candidate's held-out loss is lower (−0.100 nats, 95 % interval −0.120 to "
)


def test_a_saving_is_told_with_its_interval_and_where_it_was_met() -> None:
    text = first_sentences(findings())
    assert text.startswith(
        "The candidate got to a held-out loss of 2.287 with 1.87× fewer GPU hours than the "
        "baseline (ratio 1.87, 95 % interval 1.65 to 2.08; whole runs). "
    )
    assert AT_FLOPS in text


def test_a_loss_is_told_in_the_same_words() -> None:
    text = first_sentences(findings(Interval(0.5, 0.4, 0.6)))
    assert "with 1.96× more GPU hours than the baseline (ratio 0.51, 95 % interval 0.41" in text


def test_an_interval_that_holds_1_shows_no_difference() -> None:
    text = first_sentences(findings(Interval(1.1, 0.9, 1.3)))
    assert text.startswith("No difference shown in GPU hours to a held-out loss of 2.287: ")
    assert "fewer" not in text


def test_extrapolated_stands_beside_the_figure() -> None:
    found = findings(extrapolated=True, reached=False)
    assert "; extrapolated, as the baseline did not get there)" in first_sentences(found)
    equal = found.comparisons[0].equal_loss
    assert arrow_text(equal, GPU_HOURS) == "1.87× fewer GPU hours\nextrapolated"


def test_an_arrow_over_nothing_says_so() -> None:
    equal = findings(Interval(1.1, 0.9, 1.3), extrapolated=True).comparisons[0].equal_loss
    assert arrow_text(equal, GPU_HOURS) == "GPU hours: 1.12×\nno difference shown, extrapolated"


@pytest.mark.parametrize(
    ("interval", "nothing", "says"),
    [
        (Interval(), 1, ""),
        (Interval(1.5, 1.2, 1.8), 1, ""),
        (Interval(1.5, 0.9, 1.8), 1, "no difference shown"),
        (Interval(1.5, 0.9, None), 1, "no difference shown"),
        (Interval(1.5, 1.2, None), 1, ""),
        (Interval(1.5), 1, "no difference shown"),
        (Interval(-0.1, -0.2, 0.1), 0, "no difference shown"),
        (Interval(-0.1, -0.2, -0.05), 0, ""),
    ],
)
def test_what_stands_beside_a_figure(interval: Interval, nothing: float, says: str) -> None:
    assert remark(interval, nothing) == says


def test_a_loss_that_was_not_reached_and_one_that_is_not_there() -> None:
    found = findings()
    one = found.comparisons[0]
    nowhere = comparison(one.candidate, one.baseline[0], EqualLoss(loss=Interval(2.2871)))
    text = first_sentences(Findings(found.baseline, found.candidate, (nowhere,)))
    assert text.startswith("The baseline did not get to a held-out loss of 2.287")
    empty = comparison(one.candidate, one.baseline[0], EqualLoss())
    text = first_sentences(Findings(found.baseline, found.candidate, (empty,)))
    assert text.startswith("There is no comparison yet: a side has no held-out loss.")


def test_one_side_alone_is_no_comparison() -> None:
    found = Findings((), (superposed(),), ())
    assert first_sentences(found) == (
        "There is no comparison yet: there is no run of the baseline."
    )
    assert between(found) == ""


def test_a_forced_comparison_says_so_first() -> None:
    found = findings()
    assert warnings(found) == []
    forced = Findings(
        found.baseline, found.candidate, found.comparisons, reasons=("A differs.", "B too.")
    )
    assert warnings(forced) == ["Forced; without --force it is refused: A differs. B too."]


def test_notes_say_that_the_best_was_chosen_and_whose_they_are() -> None:
    one = findings().comparisons[0]
    other = replace(one, candidate=superposed("bags of 8"), notes=("Of it alone.",))
    several = replace(findings(), comparisons=(one, other), notes=("Of all.",))
    told = notes(several)
    assert told[:2] == ["Of all.", "Intervals come from the spread between seeds."]
    assert any("does not know that it was chosen" in note for note in told)
    assert not any("chosen" in note for note in notes(findings()))
    assert notes_of_others(several) == ["bags of 8: Of it alone."]


@pytest.mark.parametrize("flops", [Interval(1.0, 0.8, 1.2), Interval(0.8, 0.7, 0.9)])
def test_hours_that_show_what_operations_do_not_are_not_the_headline(flops: Interval) -> None:
    """The machine was slower for the baseline, which read as a saving of 1.57."""
    found = findings()
    (one,) = found.comparisons
    told = replace(one, equal_loss=replace(one.equal_loss, flops_ratio=flops))
    assert told.equal_loss.by_clock_alone
    assert "fewer GPU hours" not in first_sentences(replace(found, comparisons=(told,)))
    assert "FLOPs" in first_sentences(replace(found, comparisons=(told,)))
    assert lead_amount(found) is GPU_HOURS


def test_what_claims_nothing_does_not_come_first() -> None:
    """A demo that ended 0.17 nats lower began with what could not be said of it."""
    found = findings()
    (one,) = found.comparisons
    told = replace(one, equal_loss=replace(one.equal_loss, unlike="of a reason"))
    text = first_sentences(replace(found, comparisons=(told,)))
    assert text.startswith(AT_FLOPS)
    assert text.endswith("No saving is claimed at a held-out loss of 2.287, as of a reason.")
    level = replace(one.equal_flops, loss_difference=Interval(-0.1, -0.3, 0.1))
    none = replace(told, equal_flops=level)
    text = first_sentences(replace(found, comparisons=(none,)))
    assert text.startswith("No saving is claimed")


def test_hours_of_other_hardware_are_not_the_headline() -> None:
    found = replace(findings(), clocks_compare=False)
    assert "with 1.84× fewer FLOPs than the baseline" in first_sentences(found)
    assert lead_amount(found) is FLOPS
