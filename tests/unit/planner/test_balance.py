"""Shares of a pipeline's stages, and the split of layers that is offered."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from planned import DENSE

from tst_megatron.planner.balance import even_split
from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.plan import RunPlan, make_plan


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.data())
def test_no_other_split_has_a_less_busy_stage(works, data) -> None:
    stages = data.draw(st.integers(1, len(works)))
    most, split = even_split(works, stages)
    tried = {}
    for cuts in combinations(range(1, len(works)), stages - 1):
        ends = [0, *cuts, len(works)]
        sizes = tuple(end - begin for begin, end in pairwise(ends))
        tried[sizes] = max(sum(works[begin:end]) for begin, end in pairwise(ends))
    assert tried[split] == most == min(tried.values())


def _plan(*more: str) -> RunPlan:
    flags = (*DENSE, "--num-layers=8", "--pipeline-model-parallel-size=2", *more)
    return make_plan(flags, 2, GPUS["h100"])


def test_an_uneven_plan_offers_a_split_that_does_what_it_says() -> None:
    routed = ("--mod-capacity=0.125", "--mod-layers=5-8", "--recompute-granularity=full")
    routed += ("--recompute-method=uniform", "--recompute-num-layers=1")
    plan = _plan(*routed)
    layout = plan.balance.layout
    assert layout is not None
    assert [row.count("decoder") for row in _rows(layout)] == [2, 6]
    assert any(f"--pipeline-model-parallel-layout '{layout}'" in note for note in plan.notes)
    even = _plan(*routed, f"--pipeline-model-parallel-layout={layout}")
    assert max(even.balance.shares) * 2 == pytest.approx(plan.balance.busiest, rel=1e-9)
    assert max(even.balance.shares) < max(plan.balance.shares)
    assert even.balance.layout is None
    assert sum(even.balance.shares) == pytest.approx(1)
    assert even.time.products < plan.time.products
    told = plan.as_json()["pipeline"]
    assert (told["work_shares"], told["even_layout"]) == (list(plan.balance.shares), layout)


def _rows(layout: str) -> list[list[str]]:
    """The layers of each stage, as Megatron reads them."""
    return [
        [layer.name for layer in chunks[0]]
        for chunks in PipelineParallelLayerLayout.from_str(layout, 2).layout
    ]


def test_nothing_is_offered_where_no_split_is_more_even() -> None:
    # Either stage has two routed blocks of four, and the last one the head, which is small.
    plan = _plan("--mod-capacity=0.125", "--padded-vocab-size=128")
    assert plan.balance.layout is None
    assert plan.balance.shares[0] < 0.5 < plan.balance.shares[1]
