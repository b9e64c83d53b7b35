"""The schedule: every pass once, in an order that can be, and what is held on the way."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.planner import pipeline
from tst_megatron.planner.activations import Held


def _args(stages: int, micro_batches: int, chunks: int = 1) -> argparse.Namespace:
    return argparse.Namespace(
        pipeline_model_parallel_size=stages,
        virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
        microbatch_group_size_per_vp_stage=None,
        global_batch_size=micro_batches,
        micro_batch_size=1,
        data_parallel_size=1,
    )


@given(st.integers(1, 8), st.integers(1, 32))
def test_a_stage_holds_one_micro_batch_for_every_stage_behind_it(stages, micro_batches) -> None:
    for stage in range(stages):
        held = pipeline.most_in_flight(_args(stages, micro_batches), stage)
        assert held == min(stages - stage, micro_batches)


@given(st.integers(2, 6), st.integers(1, 6), st.integers(2, 4))
def test_interleaved_stages_hold_what_megatron_says(stages, turns, chunks) -> None:
    """megatron/training/theoretical_memory_usage.py: 1 + (p - 1) / (p v) times p, of v chunks.

    That is its first stage, counted in whole stages; here chunks are counted, and a short step
    holds no more than there is.
    """
    args = _args(stages, turns * stages, chunks)
    penalty = 1 + (stages - 1) / (stages * chunks)
    whole = penalty * stages * chunks
    expected = min(round(whole), turns * stages * chunks)
    assert pipeline.most_in_flight(args, 0) == expected


@given(st.integers(2, 5), st.integers(1, 5), st.integers(1, 4), st.data())
def test_every_pass_is_made_once_and_none_before_its_forward_pass(
    stages, turns, chunks, data
) -> None:
    args = _args(stages, turns * stages, chunks)
    stage = data.draw(st.integers(0, stages - 1))
    passes = pipeline._passes(*pipeline._schedule(args), stage)
    held = [0] * chunks
    for is_forward, chunk in passes:
        held[chunk] += 1 if is_forward else -1
        assert held[chunk] >= 0
    assert held == [0] * chunks
    assert len(passes) == 2 * turns * stages * chunks


def test_what_is_recomputed_is_there_beside_all_that_is_held() -> None:
    args = _args(4, 16)
    assert pipeline.most_held(args, 0, [Held(10, 7)]) == 4 * 10 + 7
    assert pipeline.most_held(args, 3, [Held(10, 7)]) == 10 + 7


@pytest.mark.parametrize("stage", [0, 1])
def test_equal_chunks_are_held_as_they_are_counted(stage: int) -> None:
    args = _args(2, 8, chunks=3)
    in_flight = pipeline.most_in_flight(args, stage)
    assert pipeline.most_held(args, stage, [Held(10, 0)] * 3) == 10 * in_flight


def test_the_bubble_is_the_literatures() -> None:
    """arXiv 2104.04473, Section 2.2: (p - 1) / (v m)."""
    assert pipeline.bubble(_args(4, 12)) == 3 / 12
    assert pipeline.bubble(_args(4, 12, chunks=3)) == 3 / 36
    assert pipeline.bubble(_args(1, 12)) == 0
