"""Rates as they are written, and the stages that they are."""

import contextlib
from argparse import Namespace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.errors import UserError
from tst_megatron.methods.proxy import flags
from tst_megatron.methods.proxy.schedule import (
    STAIR,
    RateStage,
    ScheduleError,
    forms_of,
    parse_length,
    parse_schedule,
    stages_of,
)

PAPERS = "0.4-0.9:0.2,0.9"


def stages(schedule: str, pairs: str | None, steps: int) -> tuple[RateStage, ...]:
    """Of a run of batches of 4."""
    length = None if pairs is None else parse_length(pairs)
    return stages_of(parse_schedule(schedule), length, steps, lambda n: 4 * n)


def test_the_papers_schedule() -> None:
    found = stages(PAPERS, "0.2", 50_000)
    *warm_up, steady = found
    assert [1_000 * stage.rate for stage in warm_up] == [425 + 50 * n for n in range(10)]
    assert all(stage.is_paired and stage.samples == 4_000 for stage in warm_up)
    assert steady == RateStage(Fraction(9, 10), False, 160_000)
    assert stages("0.4-0.9:10000steps", "10000steps", 50_000) == found


def test_pairs_are_as_the_papers_code_draws_them() -> None:
    # lingua/data.py: 2 − 1/r of the compressed form alone above a half, r / (1 − r) of pairs below.
    for rate in (Fraction(3, 10), Fraction(1, 2), Fraction(7, 10), Fraction(1)):
        stage = RateStage(rate, True, 100)
        pairs = stage.paired_share
        assert pairs == (1 - (2 - 1 / rate) if rate > Fraction(1, 2) else rate / (1 - rate))
        compressed_alone = 1 - pairs if rate > Fraction(1, 2) else 0
        assert (compressed_alone + pairs) / (1 + pairs) == rate


@given(
    st.fractions(0, 1, max_denominator=100), st.fractions(1, 9, max_denominator=9), st.booleans()
)
def test_a_rate_is_of_text_where_the_ratio_is_known(rate, ratio, is_paired) -> None:
    forms = RateStage(rate, is_paired, 1, ratio).forms
    # Documents that a token's worth of samples holds, by their lengths in either form.
    shares = {forms.other: 1 - forms.share, forms.form: forms.share}
    lengths = {"compressed": Fraction(1), "": ratio, "paired": 1 + ratio}
    documents = {form: share / lengths[form] for form, share in shares.items()}
    pairs = documents.get("paired", 0)
    compressed = documents.get("compressed", 0) + pairs
    raw = documents.get("", 0) + pairs
    assert compressed / (compressed + raw) == rate


def test_the_papers_rate_in_samples() -> None:
    # 90 % of the documents at 2.9 bytes a token are 76 % of the tokens.
    share = RateStage(Fraction(9, 10), False, 1, Fraction(29, 10)).forms.share
    assert float(share) == pytest.approx(0.9 / (0.9 + 0.1 * 2.9))


@given(st.integers(1, 2_000), st.fractions(0, 1, max_denominator=100), st.integers(1, 100))
def test_a_run_is_cut_whole_and_its_shares_are_the_rates(steps, rate, percent) -> None:
    schedule = f"{float(rate)}-1:{percent / 100},0.25"
    if round(steps * percent / 100) in (0, steps):
        with contextlib.suppress(ScheduleError):
            stages(schedule, None, steps)
        return
    found = stages(schedule, None, steps)
    assert sum(stage.samples for stage in found) == 4 * steps
    rises = [b.rate - a.rate for a, b in pairwise(found) if b.rate > a.rate]
    if len(found) > 20:
        assert max(rises) <= STAIR
    forms = forms_of(found)
    begin = 0
    for stage in found:
        count = forms.count("compressed", [(begin, begin + stage.samples)])
        assert abs(count - stage.rate * stage.samples) <= Fraction(1, 2)
        begin += stage.samples


def test_a_schedule_that_ends_goes_on_at_its_last_rate() -> None:
    assert [stage.samples for stage in stages("0.5:0.5,0.9:0.25", None, 8)] == [16, 8, 8]
    assert stages("0.5:0.5,0.9:0.25", None, 8)[-1].rate == Fraction(9, 10)


@pytest.mark.parametrize(
    ("schedule", "beside", "said"),
    [
        ("often", None, "not of the form RATE:LENGTH"),
        ("1/3", None, "not of the form RATE:LENGTH"),
        ("1.2", None, "a rate is from 0 to 1"),
        ("0.4-0.9", None, "over a length that it does not say"),
        ("0.4,0.9", None, "has no length, which the last alone goes without"),
        ("0.4:2", None, "no share of the steps"),
        ("0.4:0.7,0.9:0.7", None, "more than the run"),
        ("0.4:0.5steps", None, "no number of steps"),
        ("0.9", {"pairs": "always"}, "--proxy-pairs: always"),
        (None, {"pairs": "0.2"}, "--proxy-pairs .* add --proxy-schedule"),
        ("0.9", {"ratio": "0"}, "--proxy-ratio: 0 is no ratio"),
        (None, {"ratio": "2.9"}, "--proxy-ratio .* add --proxy-schedule"),
    ],
)
def test_flags_that_say_nothing_are_refused(schedule, beside, said) -> None:
    given_ = {"pairs": None, "ratio": None} | (beside or {})
    args = Namespace(
        proxy_schedule=schedule, proxy_pairs=given_["pairs"], proxy_ratio=given_["ratio"]
    )
    with pytest.raises(UserError, match=said):
        flags.check(args)


@pytest.mark.parametrize(
    ("schedule", "pairs", "said"),
    [
        ("0.4:1steps,0.9:99steps", None, "ends after the 10 steps"),
        ("0.4:0.01,0.9", None, "rounds to 0 of 10 steps"),
        ("0.9", "11steps", "its pairs would be for 11 of 10 steps"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(schedule, pairs, said) -> None:
    with pytest.raises(ValueError, match=said):
        stages(schedule, pairs, 10)
