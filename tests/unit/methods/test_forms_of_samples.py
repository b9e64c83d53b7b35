"""Forms of samples: what is counted is what is dealt, and every beginning has its share."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.methods.forms import Forms, FormStage

SHARES = st.fractions(min_value=0, max_value=1, max_denominator=1_000)
STAGES = st.lists(
    st.builds(
        FormStage,
        samples=st.integers(0, 60),
        form=st.sampled_from(("compressed", "paired")),
        share=SHARES,
        other=st.sampled_from(("", "compressed")),
    ),
    min_size=1,
    max_size=4,
)


@given(STAGES, st.data())
def test_what_is_counted_is_what_is_dealt(stages, data) -> None:
    forms = Forms(tuple(stages))
    dealt = [forms.at(index) for index in range(forms.num_samples)]
    assert set(forms.names) == set(dealt)
    begin = data.draw(st.integers(0, forms.num_samples))
    end = data.draw(st.integers(begin, forms.num_samples))
    for form in ("", "compressed", "paired"):
        assert forms.count(form, [(begin, end)]) == dealt[begin:end].count(form)


@given(st.integers(0, 10**12), SHARES)
def test_every_beginning_of_a_stage_has_its_share(number, share) -> None:
    stage = FormStage(10**12, "compressed", share, "")
    assert abs(stage.first(number) - share * number) <= Fraction(1, 2)


def test_samples_past_the_end_are_of_the_last_stage() -> None:
    forms = Forms((FormStage(4, "compressed", Fraction(1), ""), FormStage(4, "", Fraction(1), "")))
    assert [forms.at(index) for index in (3, 4, 8, 100)] == ["compressed", "", "", ""]
    with pytest.raises(IndexError):
        forms.at(-1)
