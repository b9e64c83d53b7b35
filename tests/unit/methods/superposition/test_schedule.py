import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.methods.superposition.schedule import (
    BagSchedule,
    Location,
    Stage,
)
from tst_megatron.methods.superposition.stage_lengths import (
    RunLength,
    ScheduleError,
    StageLength,
    parse_lengths,
)


def schedule(*stages):
    return BagSchedule(tuple(Stage(*stage) for stage in stages))


def of_batches(size):
    return lambda steps: steps * size


superposed = st.lists(st.tuples(st.integers(1, 16), st.integers(0, 12)), max_size=4)
schedules = st.builds(
    lambda stages, last: schedule(*stages, (1, last)), superposed, st.integers(0, 12)
)


def bag_sizes_of(run, num_samples):
    """Bag size of every sample, the slow way; the last stage has no end."""
    sizes = [stage.bag_size for stage in run.stages for _ in range(stage.num_samples)]
    return (sizes + [run.stages[-1].bag_size] * num_samples)[:num_samples]


class TestLocate:
    @given(schedules, st.integers(0, 10**9))
    def test_every_index_has_a_place_and_comes_back(self, run, index):
        location = run.locate(index)
        assert location.index >= 0
        assert location.bag_size == run.stages[location.stage].bag_size
        assert run.starts[location.stage] + location.index == index
        if location.stage < len(run.stages) - 1:
            assert location.index < run.stages[location.stage].num_samples

    @given(schedules)
    def test_every_place_has_an_index(self, run):
        places = [
            (stage, index)
            for stage, size in enumerate(run.stages)
            for index in range(size.num_samples)
        ]
        indices = [run.starts[stage] + index for stage, index in places]
        assert indices == list(range(run.num_samples))
        assert [(p.stage, p.index) for p in map(run.locate, indices)] == places

    @given(schedules)
    def test_bag_sizes_come_in_the_order_of_the_stages(self, run):
        count = run.num_samples + 5
        assert [run.locate(i).bag_size for i in range(count)] == bag_sizes_of(run, count)

    def test_around_the_boundaries(self):
        run = schedule((16, 10), (4, 5), (1, 20))
        assert run.starts == (0, 10, 15)
        assert run.num_samples == 35
        assert run.superposed_stages == run.stages[:2]
        assert run.locate(0) == Location(0, 16, 0)
        assert run.locate(9) == Location(0, 16, 9)
        assert run.locate(10) == Location(1, 4, 0)
        assert run.locate(14) == Location(1, 4, 4)
        assert run.locate(15) == Location(2, 1, 0)
        assert run.locate(34) == Location(2, 1, 19)

    def test_past_the_end_is_the_last_stage(self):
        assert schedule((4, 3), (1, 2)).locate(1000) == Location(1, 1, 997)
        assert schedule((4, 3), (1, 0)).locate(3) == Location(1, 1, 0)

    def test_a_stage_without_samples_is_passed_over(self):
        assert schedule((4, 0), (2, 3), (1, 2)).locate(0) == Location(1, 2, 0)

    def test_a_run_without_superposition(self):
        assert schedule((1, 7)).locate(5) == Location(0, 1, 5)
        assert schedule((1, 7)).superposed_stages == ()

    def test_a_negative_index_is_named(self):
        with pytest.raises(IndexError, match="sample index -1 is negative"):
            schedule((1, 7)).locate(-1)


class TestSamplesOfABagSize:
    @given(schedules)
    def test_each_data_set_is_read_in_turn_and_once(self, run):
        seen: dict[int, list[int]] = {}
        for index in range(run.num_samples):
            location = run.locate(index)
            seen.setdefault(location.bag_size, []).append(run.index_in_bag_size(location))
        for bag_size, indices in seen.items():
            assert indices == list(range(run.samples_of_bag_size(bag_size)))
        assert sum(map(len, seen.values())) == run.num_samples

    def test_two_stages_of_one_bag_size(self):
        run = schedule((4, 10), (2, 5), (4, 10), (1, 1))
        assert run.samples_of_bag_size(4) == 20
        assert run.samples_of_bag_size(3) == 0
        assert run.index_in_bag_size(run.locate(15)) == 10


class TestFromShares:
    def test_several_stages(self):
        run = BagSchedule.from_shares([(16, 0.2), (4, 0.1)], 100, of_batches(8))
        assert run.stages == (Stage(16, 160), Stage(4, 80), Stage(1, 560))

    def test_the_whole_run(self):
        assert BagSchedule.from_shares([(4, 1.0)], 10, of_batches(2)).stages == (
            Stage(4, 20),
            Stage(1, 0),
        )

    def test_a_sum_of_one_within_rounding(self):
        shares = [(s, 0.1) for s in range(2, 12)]
        assert math.fsum(share for _, share in shares) == 1.0
        run = BagSchedule.from_shares(shares, 1000, of_batches(1))
        assert [stage.num_samples for stage in run.stages] == [100] * 10 + [0]

    def test_a_sum_that_rounding_puts_past_one(self):
        shares = [(4, 0.7), (3, 0.1), (2, 0.2 + 4e-10)]
        run = BagSchedule.from_shares(shares, 10**10, of_batches(1))
        assert run.num_samples == 10**10

    @pytest.mark.parametrize(
        ("share", "train_iters", "steps"),
        [(0.3, 10, 3), (0.29, 10, 3), (0.34, 10, 3), (0.06, 10, 1), (1 / 3, 20_000, 6667)],
    )
    def test_a_share_is_rounded_to_the_nearest_step(self, share, train_iters, steps):
        run = BagSchedule.from_shares([(6, share)], train_iters, of_batches(4))
        assert run.stages == (Stage(6, 4 * steps), Stage(1, 4 * (train_iters - steps)))

    def test_the_ends_are_rounded_and_not_the_lengths(self):
        # Three stages of 3.33 steps end at 3, 7 and 10 of 10: no step is lost.
        run = BagSchedule.from_shares([(4, 1 / 3), (3, 1 / 3), (2, 1 / 3)], 10, of_batches(1))
        assert [stage.num_samples for stage in run.stages] == [3, 4, 3, 0]

    @given(
        st.lists(st.tuples(st.integers(1, 16), st.floats(0.05, 0.25)), min_size=1, max_size=4),
        st.integers(100, 5000),
        st.lists(st.integers(1, 9), min_size=1, max_size=20),
    )
    def test_stages_end_between_two_steps(self, shares, train_iters, ramp):
        # The batch grows over the first steps, as in a batch-size ramp.
        ends, batch = [0], 1
        for step in range(train_iters):
            batch += ramp[step] if step < len(ramp) else 0
            ends.append(ends[-1] + batch)

        run = BagSchedule.from_shares(shares, train_iters, ends.__getitem__)

        assert set(run.starts) <= set(ends)
        assert run.num_samples == ends[-1]
        assert [stage.bag_size for stage in run.stages] == [s for s, _ in shares] + [1]
        total = 0.0
        for start, (_, share) in zip(run.starts[1:], shares, strict=True):
            total += share
            assert abs(ends.index(start) - total * train_iters) <= 0.5 + 1e-6


def message_of(action):
    with pytest.raises(ScheduleError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert ". " not in message
    assert not message.endswith(".")
    return message


class TestErrors:
    def test_they_are_value_errors(self):
        assert issubclass(ScheduleError, ValueError)

    @pytest.mark.parametrize(
        ("shares", "named"),
        [
            ([(0, 0.3)], "bag size 0"),
            ([(4, 0.1), (-2, 0.3)], "bag size -2"),
            ([(4, 0.0)], "share 0 of the stage with bag size 4"),
            ([(4, -0.25)], "share -0.25 of the stage with bag size 4"),
            ([(4, math.nan)], "share nan of the stage with bag size 4"),
            ([(4, 0.2), (2, math.nan)], "share nan of the stage with bag size 2"),
            ([(4, 1.25)], "sum to 1.25"),
            ([(4, 0.75), (2, 0.5)], "sum to 1.25"),
            ([(4, math.inf)], "sum to inf"),
            ([(4, 0.01)], "the stage 4:0.01 rounds to 0 of 10 steps"),
            ([(8, 0.5), (4, 0.01)], "the stage 4:0.01 rounds to 0 of 10 steps"),
            ([], "no stage"),
        ],
    )
    def test_shares(self, shares, named):
        assert named in message_of(lambda: BagSchedule.from_shares(shares, 10, of_batches(2)))

    def test_a_sum_just_past_one_is_named(self):
        message = message_of(
            lambda: BagSchedule.from_shares([(4, 0.7), (2, 0.3001)], 10, of_batches(2))
        )
        assert "sum to 1.0001" in message

    def test_a_run_of_no_steps(self):
        message = message_of(lambda: BagSchedule.from_shares([(4, 0.5)], 0, of_batches(2)))
        assert "the stage 4:0.5 rounds to 0 of 0 steps" in message

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("", "''"),
            ("16", "'16'"),
            ("a:0.2", "'a:0.2'"),
            ("16:", "'16:'"),
            (":0.2", "':0.2'"),
            ("4.5:0.2", "'4.5:0.2'"),
            ("16:x", "'16:x'"),
            ("16:0.2:0.1", "'16:0.2:0.1'"),
            ("16:0.2,", "''"),
            ("16:0.2, 4=0.1", "'4=0.1'"),
            ("16:0.2;4:0.1", "'16:0.2;4:0.1'"),
        ],
    )
    def test_text(self, text, named):
        assert f"the stage {named} is not" in message_of(lambda: parse_lengths(text))


class TestParseLengths:
    @pytest.mark.parametrize(
        ("text", "stages"),
        [
            ("4:0.3", [(4, 0.3)]),
            ("16:0.2,4:0.1", [(16, 0.2), (4, 0.1)]),
            (" 16 : 0.2 , 4:1e-1 ", [(16, 0.2), (4, 0.1)]),
            ("6:1", [(6, 1.0)]),
            ("16:6000steps", [(16, 6000, "steps")]),
            ("16:0.2,4:2Btokens", [(16, 0.2), (4, 2 * 10**9, "tokens")]),
            ("4:1.5KSteps, 2:250mTOKENS", [(4, 1500, "steps"), (2, 250 * 10**6, "tokens")]),
            ("4:2e9tokens,2:0.25Ttokens", [(4, 2 * 10**9, "tokens"), (2, 25 * 10**10, "tokens")]),
        ],
    )
    def test_it_reads(self, text, stages):
        expected = tuple((size, StageLength(*length)) for size, *length in stages)
        assert parse_lengths(text) == expected

    @given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.001, 1.0)), min_size=1, max_size=5))
    def test_it_reads_what_is_written(self, shares):
        text = ",".join(f"{s}:{share!r}" for s, share in shares)
        assert parse_lengths(text) == tuple((s, StageLength(share)) for s, share in shares)

    @pytest.mark.parametrize(
        "length",
        [
            *("6000step", "6000 steps", "6000stpes", "2Btoken", "2Gtokens", "2B", "tokens"),
            *("Ksteps", "0.5steps", "1.2345Ksteps", "-3steps", "2BBtokens", "6_000steps"),
            *("1e999steps", "0_1"),
        ],
    )
    def test_a_misspelt_length_is_one_sentence(self, length):
        message = message_of(lambda: parse_lengths(f"8:0.1,4:{length}"))
        assert f"the stage '4:{length}' is not BAG_SIZE:SHARE, BAG_SIZE:Nsteps or " in message


class TestStepsAndTokens:
    """A step is 8 samples of 16 positions."""

    def stages_of(self, text, train_iters=100, samples_of_steps=None):
        run = RunLength(train_iters, samples_of_steps or of_batches(8), lambda size: 16 * size)
        stages = BagSchedule.from_lengths(parse_lengths(text), run).stages
        return [(stage.bag_size, stage.num_samples) for stage in stages]

    def test_steps_stay_where_they_are_in_a_longer_run(self):
        assert self.stages_of("16:20steps,4:10steps") == [(16, 160), (4, 80), (1, 560)]
        assert self.stages_of("16:20steps,4:10steps", 200) == [(16, 160), (4, 80), (1, 1360)]

    def test_shares_beside_them_are_of_the_whole_run(self):
        assert self.stages_of("16:0.2,4:10steps") == [(16, 160), (4, 80), (1, 560)]
        assert self.stages_of("16:10steps,4:0.2", 200) == [(16, 80), (4, 320), (1, 1200)]

    @given(st.integers(1, 16), st.integers(2_000, 100_000))
    def test_tokens_are_the_nearest_whole_number_of_steps(self, bag_size, tokens):
        of_step = 8 * 16 * bag_size
        (_, samples), _ = self.stages_of(f"{bag_size}:{tokens}tokens", 10_000)
        assert samples % 8 == 0
        assert abs(samples // 8 * of_step - tokens) <= of_step / 2

    def test_tokens_are_counted_from_where_their_stage_begins(self):
        # The batch doubles after 10 steps: 15 more of 16 samples read 16 · 16 · 4 · 15 tokens.
        def ends(steps):
            return 8 * steps + 8 * max(0, steps - 10)

        assert self.stages_of("16:10steps,4:15360tokens", 100, ends) == [
            (16, 80),
            (4, 240),
            (1, 8 * 190 - 320),
        ]

    def test_what_does_not_fit_the_run_is_told(self):
        for text in ("4:101steps", "4:0.6,2:41steps", "2:41steps,4:0.6", "4:1Btokens"):
            message = message_of(lambda text=text: self.stages_of(text))
            assert "ends after the 100 steps of the run" in message
        assert self.stages_of("4:100steps") == [(4, 800), (1, 0)]

    def test_nothing_is_told(self):
        assert "the length 0steps of the stage" in message_of(lambda: self.stages_of("4:0steps"))
        message = message_of(lambda: self.stages_of("4:100tokens"))
        assert "4:100tokens is nearer to 0 steps than to 1" in message

    def test_tokens_need_a_sequence_length(self):
        run = RunLength(100, of_batches(8))
        lengths = parse_lengths("4:10000tokens")
        message = message_of(lambda: BagSchedule.from_lengths(lengths, run))
        assert "add --seq-length" in message
