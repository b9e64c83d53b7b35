"""Stages: where a sample lies, what it reads, and what several methods make of one run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.runs.stages import (
    NEXT_TOKEN_LOSS,
    CombinationError,
    Stage,
    data_tokens,
    merged,
    ordinary_stage,
    stage_at,
    stage_index,
)


def stages_of(*stages):
    """(tokens a position, samples) each."""
    return tuple(Stage(f"of {tokens}", samples, tokens) for tokens, samples in stages)


schedules = st.lists(st.tuples(st.integers(1, 16), st.integers(0, 12)), min_size=1, max_size=4).map(
    lambda stages: stages_of(*stages)
)


def special(samples, method, loss=NEXT_TOKEN_LOSS, tokens=1, **facts):
    return Stage(f"{method}'s", samples, tokens, loss, method, facts)


@given(schedules, st.integers(0, 100))
def test_every_index_has_a_stage(run, index):
    slow = [number for number, stage in enumerate(run) for _ in range(stage.samples)]
    found = stage_index(run, index)
    assert found == (slow[index] if index < len(slow) else len(run) - 1)
    assert stage_at(run, index) is run[found]


def test_a_negative_index_is_named():
    with pytest.raises(IndexError, match="sample index -1 is negative"):
        stage_index(stages_of((1, 7)), -1)


def test_a_stage_goes_through_json():
    stage = special(3, "method", "its loss", 2, size=4)
    assert Stage.from_json(stage.as_json()) == stage
    assert not stage.is_ordinary
    assert ordinary_stage(3).is_ordinary


class TestDataTokens:
    @given(schedules, st.integers(0, 80), st.integers(1, 4096))
    def test_against_a_sum_over_samples(self, run, num_samples, seq_length):
        tokens = [stage.tokens_a_position for stage in run for _ in range(stage.samples)]
        tokens = (tokens + [run[-1].tokens_a_position] * num_samples)[:num_samples]
        assert data_tokens(run, num_samples, seq_length) == sum(tokens) * seq_length

    # Table 1 of arXiv 2605.06546; its steps of "2M" and "8M" positions are powers of two.
    @pytest.mark.parametrize(
        ("steps", "total_steps", "bag_size", "positions", "superposed", "total", "half_a_digit"),
        [
            (6_000, 20_000, 6, 2**21, 75e9, 105e9, 0.5e9),
            (30_000, 100_000, 6, 2**21, 377e9, 524e9, 0.5e9),
            (12_483, 49_983, 16, 2**23, 1.68e12, 2e12, 0.005e12),
        ],
        ids=["20k-steps", "100k-steps", "10B-A1B"],
    )
    def test_the_papers_runs(
        self, steps, total_steps, bag_size, positions, superposed, total, half_a_digit
    ):
        seq_length = 4096
        batch = positions // seq_length
        run = stages_of((bag_size, steps * batch), (1, (total_steps - steps) * batch))

        first = data_tokens(run, steps * batch, seq_length)
        both = data_tokens(run, total_steps * batch, seq_length)

        assert first == steps * bag_size * positions
        assert both == first + (total_steps - steps) * positions
        # The table cuts 75.5 to 75, so a whole last digit is allowed; "2T" has one digit.
        assert abs(first - superposed) < 2 * half_a_digit
        assert abs(both - total) < (0.05e12 if total == 2e12 else 2 * half_a_digit)

    def test_the_papers_baselines(self):
        run = stages_of((1, 20_000 * 512))
        assert data_tokens(run, 20_000 * 512, 4096) == pytest.approx(42e9, abs=0.5e9)


class TestSeveralMethods:
    def test_they_are_cut_wherever_one_cuts(self):
        one = (special(30, "one", "its loss", 4, size=4), ordinary_stage(70))
        other = (special(50, "other", scale=0.5), ordinary_stage(50))
        both, second, rest = merged([one, other])
        assert both == Stage(
            "one's, other's", 30, 4, "its loss", "one, other", {"size": 4, "scale": 0.5}
        )
        assert second == Stage("other's", 20, 1, NEXT_TOKEN_LOSS, "other", {"scale": 0.5})
        assert rest == ordinary_stage(50)

    def test_one_alone_is_as_it_is(self):
        one = (special(0, "one"), ordinary_stage(70))
        assert merged([one]) == one

    @given(schedules, schedules, st.integers(0, 60))
    def test_a_sample_is_what_each_method_makes_of_it(self, one, other, index):
        total = max(sum(stage.samples for stage in run) for run in (one, other))
        found = stage_at(merged([one, other]), index)
        tokens = [stage_at(run, index).tokens_a_position for run in (one, other)]
        if index < total:
            assert found.tokens_a_position == tokens[0] * tokens[1]

    def test_one_loss_is_changed_by_one_method(self):
        one = (special(30, "one", "its loss"), ordinary_stage(70))
        other = (special(30, "other", "another loss"), ordinary_stage(70))
        with pytest.raises(ValueError, match="two methods change one loss: another loss and its"):
            merged([one, other])
        apart = (ordinary_stage(30), special(70, "other", "another loss"))
        assert [stage.loss for stage in merged([one, apart])] == ["its loss", "another loss"]

    def test_a_fact_of_one_name_is_refused(self):
        one = (special(30, "one", size=4), ordinary_stage(70))
        other = (special(30, "other", size=2), ordinary_stage(70))
        with pytest.raises(CombinationError, match="two methods have a fact of the name size"):
            merged([one, other])
