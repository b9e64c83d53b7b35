"""Samples of steps against Megatron's own calculator, stepped through."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.num_microbatches_calculator import StepBatchsizeNumMicroBatchesCalculator

from tst_megatron.errors import UserError
from tst_megatron.stock.batch_sizes import BatchSizes

L = 16


def batch_sizes(schedule: str | None, global_batch_size: int | None = None) -> BatchSizes:
    return BatchSizes.from_args(
        SimpleNamespace(
            step_batch_size_schedule=schedule, global_batch_size=global_batch_size, seq_length=L
        )
    )


def stepped(schedule: str, steps: int) -> list[int]:
    calculator = StepBatchsizeNumMicroBatchesCalculator(1, 1, False, 1, schedule, L)
    totals = [0]
    for _ in range(steps):
        calculator.update(totals[-1], consistency_check=False)
        totals.append(totals[-1] + calculator.current_global_batch_size)
    return totals


SIZES = st.integers(1, 50)


@given(SIZES, st.lists(st.tuples(st.integers(1, 300), SIZES), max_size=4))
def test_a_schedule_steps_as_megatrons(first: int, later: list[tuple[int, int]]) -> None:
    changes = {0: first} | {at * L: size for at, size in later}
    text = " ".join(f"{tokens}:{size}" for tokens, size in changes.items())
    sizes, totals = batch_sizes(text), stepped(text, 120)
    assert [sizes.samples_of_steps(n) for n in range(121)] == totals
    if len(changes) > 1:
        for samples in range(1, totals[-1], 7):
            # As update_train_iters steps up to the samples asked for.
            assert sizes.steps_of_samples(samples) == next(
                n for n, total in enumerate(totals) if total >= samples
            )


def test_one_batch_size() -> None:
    sizes = batch_sizes(None, 8)
    assert sizes.samples_of_steps(5) == 40
    assert sizes.steps_of_samples(47) == 5


@pytest.mark.parametrize("text", ["0:768 250B:1536 0.5T:3k", "0:2,1M:4"])
def test_numbers_are_read_as_megatrons(text: str) -> None:
    calculator = StepBatchsizeNumMicroBatchesCalculator(1, 1, False, 1, text, L)
    assert list(batch_sizes(text).changes) == calculator.schedule


@pytest.mark.parametrize(
    "text", ["", "768", "500:768", "0:4 500:0", "0:768 0:9", "0:0", "0:many", "0:2 :4"]
)
def test_a_schedule_that_is_none_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"--step-batch-size-schedule .* is not TOKENS:BATCH_SIZE"):
        batch_sizes(text)


def test_no_batch_size_is_named() -> None:
    with pytest.raises(UserError, match="add --global-batch-size"):
        batch_sizes(None)
