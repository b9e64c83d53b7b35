"""Parameters as Megatron builds them, in every layout, against arithmetic by hand."""

from math import prod

import pytest
from planned import DENSE, MOE, built, recipe_flags

from tst_megatron.planner.counts import whole_model

_TP, _PP = "--tensor-model-parallel-size={}", "--pipeline-model-parallel-size={}"
_EP, _ETP = "--expert-model-parallel-size={}", "--expert-tensor-parallel-size={}"


def _layout(tp: int = 1, pp: int = 1, ep: int = 1, etp: int = 1, more: str = "") -> list[str]:
    flags = [_TP.format(tp), _PP.format(pp), _EP.format(ep), _ETP.format(etp), *more.split()]
    return [*flags, *(["--sequence-parallel"] if tp > 1 else [])]


# Hidden 64, heads of 32, 4 for queries and 2 each for keys and values, vocabulary 512.
_TABLE = 512 * 64
_ATTENTION = 64 * (4 + 2 * 2) * 32 + 4 * 32 * 64
_DENSE_LAYER = _ATTENTION + 3 * 64 * 96 + 2 * 64
_EXPERT = 3 * 64 * 48
_MOE_LAYER = _ATTENTION + 2 * 64 + 2 * 32 + 64 * 8
_DENSE_TOTAL = 2 * _TABLE + 4 * _DENSE_LAYER + 64
_MOE_TOTAL = 2 * _TABLE + 4 * (_MOE_LAYER + 8 * _EXPERT) + 64


@pytest.mark.parametrize(
    ("flags", "num_gpus", "layout"),
    [
        (DENSE, 1, _layout()),
        (DENSE, 8, _layout(tp=2)),
        (DENSE, 8, _layout(tp=2, pp=4)),
        (DENSE, 4, _layout(pp=2, more="--num-virtual-stages-per-pipeline-rank=2")),
        (DENSE, 4, _layout(pp=2, more="--decoder-first-pipeline-num-layers=1")),
        (MOE, 1, _layout()),
        (MOE, 8, _layout(ep=8)),
        (MOE, 8, _layout(tp=2, pp=2, ep=2)),
        (MOE, 8, _layout(tp=2, ep=4, etp=2)),
    ],
    ids=str,
)
def test_the_model_is_the_same_in_every_layout(flags, num_gpus, layout) -> None:
    with built([*flags, *layout], num_gpus) as (args, stages):
        counted = whole_model(stages, args)
    if flags is DENSE:
        assert counted.total == _DENSE_TOTAL
        assert counted.active == _DENSE_TOTAL - _TABLE
        assert counted.by_kind["dense_mlp"] == 4 * 3 * 64 * 96
    else:
        assert counted.total == _MOE_TOTAL
        assert counted.active == _MOE_TOTAL - _TABLE - 4 * 6 * _EXPERT
        assert counted.by_kind["experts"] == 4 * 8 * _EXPERT
        assert counted.by_kind["router"] == 4 * 64 * 8
    assert counted.embedding == counted.by_kind["head"] == _TABLE
    assert sum(counted.by_kind.values()) == counted.total


def test_a_rank_holds_its_shards() -> None:
    with built([*MOE, *_layout(tp=2, pp=2, ep=4, etp=1)], 16) as (_, stages):
        assert [stage.ranks for stage in stages] == [range(8), range(8, 16)]
    layer = _ATTENTION // 2 + _MOE_LAYER - _ATTENTION + 2 * _EXPERT
    assert stages[0].parameters == _TABLE // 2 + 2 * layer
    assert stages[1].parameters == _TABLE // 2 + 2 * layer + 64
    assert stages[0].expert_parameters == 2 * 2 * _EXPERT


def test_tied_tables_count_once_and_work_twice() -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--untie")]
    totals = set()
    for pp in (1, 2):
        with built([*flags, *_layout(pp=pp)], 2) as (args, stages):
            counted = whole_model(stages, args)
            totals.add(counted.total)
            # The last stage holds a copy.
            held = sum(stage.parameters for stage in stages)
            assert held == counted.total + (pp - 1) * _TABLE
            assert counted.active == counted.total
    assert totals == {_DENSE_TOTAL - _TABLE}


def test_learned_positions_are_of_the_embedding() -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--position-embedding-type")]
    with built(flags) as (args, stages):
        counted = whole_model(stages, args)
    assert counted.embedding == _TABLE + 128 * 64
    assert counted.active == counted.total - counted.embedding


@pytest.mark.parametrize(
    ("recipe", "total", "active", "embedding"),
    [
        # The arithmetic stands in the recipes' files.
        ("smollm2-270m-tst", 253_954_368, 253_954_368 - 128_256 * 576, 128_256 * 576),
        ("smollm2-600m-tst", 560_886_720, 560_886_720 - 128_256 * 960, 128_256 * 960),
        ("smollm3-3b-tst", 3_337_766_912, 3_337_766_912 - 128_256 * 2048, 128_256 * 2048),
        ("moe-10b-a1b-tst", 10_388_481_536, 1_095_411_200, 151_936 * 1536),
        ("moe-20b-a3b-baseline", 20_386_039_808, 3_079_817_216, 128_256 * 2048),
    ],
)
def test_the_recipes_models(recipe: str, total: int, active: int, embedding: int) -> None:
    with built(recipe_flags(f"{recipe}+64xb200"), 64, "b200") as (args, stages):
        counted = whole_model(stages, args)
    assert (counted.total, counted.active, counted.embedding) == (total, active, embedding)


def test_a_layers_widths_are_its_weights() -> None:
    with built([*MOE, *_layout(tp=2, ep=2, etp=1)], 4) as (_, stages):
        layer = stages[0].chunks[0].layers[0]
    assert layer.attention is not None
    assert (layer.attention.qkv, layer.attention.queries) == (8 * 32 // 2, 4 * 32 // 2)
    assert (layer.attention.heads, layer.attention.keys) == (2, 32)
    assert layer.experts is not None
    assert (layer.experts.num, layer.experts.num_local, layer.experts.top_k) == (8, 4, 2)
    assert (layer.experts.widths.before, layer.experts.widths.after) == (2 * 48, 48)
    local = {one.kind: one.local for one in layer.counts}
    assert local["experts"] == prod((4, _EXPERT))
