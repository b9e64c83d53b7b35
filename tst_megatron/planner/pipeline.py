"""The pipeline's schedule: which micro-batches a stage holds at once, and how long it idles.

The one idea: Megatron's own schedule table and count of warm-up micro-batches are played through,
forward pass by backward pass, with what each holds.
"""

import argparse
import itertools
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import cast

from megatron.core.pipeline_parallel.schedules import (
    get_pp_rank_microbatches,
    get_schedule_table,
)

from tst_megatron.planner.activations import Held


def num_microbatches(args: argparse.Namespace) -> int:
    """Micro-batches of a step, at the full batch size."""
    return int(args.global_batch_size // (args.micro_batch_size * args.data_parallel_size))


def most_held(args: argparse.Namespace, stage: int, held: Sequence[Held]) -> int:
    """Activations of a stage at their most, in bytes.

    Args:
        args: Megatron's validated arguments.
        stage: the pipeline rank.
        held: of each of its chunks.
    """
    if len(held) == 1:
        # The first backward pass comes when there are most of them.
        return most_in_flight(args, stage) * held[0].per_microbatch + held[0].at_once
    most = now = 0
    for is_forward, chunk in _passes(*_schedule(args), stage):
        if is_forward:
            now += held[chunk].per_microbatch
            most = max(most, now)
        else:
            # What was let go is made again while the rest is still there.
            most = max(most, now + held[chunk].at_once)
            now -= held[chunk].per_microbatch
    return most


def most_in_flight(args: argparse.Namespace, stage: int) -> int:
    """Micro-batches, of one chunk each, that a stage holds at once at the most."""
    return _most_in_flight(*_schedule(args), stage)


def _schedule(args: argparse.Namespace) -> tuple[int, int, int, int]:
    """What decides it: micro-batches, pipeline size, chunks of a stage, micro-batches of a turn."""
    pipeline = args.pipeline_model_parallel_size
    return (
        num_microbatches(args),
        pipeline,
        args.virtual_pipeline_model_parallel_size or 1,
        args.microbatch_group_size_per_vp_stage or pipeline,
    )


@cache
def _most_in_flight(*schedule: int) -> int:
    steps = (1 if is_forward else -1 for is_forward, _ in _passes(*schedule))
    return max(itertools.accumulate(steps))


@cache
def _passes(
    micro_batches: int, pipeline: int, chunks: int, group: int, stage: int
) -> list[tuple[bool, int]]:
    """The passes of a stage in a step, in order: forward or backward, and of which chunk."""
    if pipeline == 1:
        return [(True, 0), (False, 0)] * micro_batches
    table = [chunk for _, chunk in get_schedule_table(micro_batches, chunks, group)]
    place = SimpleNamespace(
        pp_group=SimpleNamespace(size=lambda: pipeline, rank=lambda: stage),
        virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
    )
    warmup = cast(
        int, get_pp_rank_microbatches(micro_batches, chunks, group, p2p_communicator=place)[2]
    )
    forward = [(True, chunk) for chunk in table]
    backward = [(False, chunks - 1 - chunk) for chunk in table]
    steady = zip(forward[warmup:], backward, strict=False)
    return [
        *forward[:warmup],
        *(one for pair in steady for one in pair),
        *backward[len(forward) - warmup :],
    ]


def bubble(args: argparse.Namespace) -> float:
    """Idle time over the time of the work, with equal stages (arXiv 2104.04473, Section 2.2)."""
    pipeline = args.pipeline_model_parallel_size
    chunks = args.virtual_pipeline_model_parallel_size or 1
    return float((pipeline - 1) / (num_microbatches(args) * chunks))
