"""The sweep: layers dealt out as Megatron builds stages, layouts in order, reasons for the rest."""

import dataclasses

import pytest
from planned import DENSE, MOE, built, recipe_flags

from tst_megatron.errors import UserError
from tst_megatron.planner.flags import parse, validated
from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.plan import Assumptions, make_plan
from tst_megatron.planner.sweep import Layout, Swept, _Sweep, sweep

_GPU = GPUS["h100"]


def _swept(flags, num_gpus: int, gpu: str = "h100") -> Swept:
    return sweep(flags, num_gpus, GPUS[gpu], Assumptions())


@pytest.mark.parametrize(
    ("flags", "layout"),
    [
        (DENSE, Layout(2, 2, 1, 1)),
        (DENSE, Layout(1, 4, 2, 1)),
        ([flag for flag in DENSE if not flag.startswith("--untie")], Layout(2, 2, 1, 1)),
        (MOE, Layout(2, 1, 1, 4)),
        (
            (*MOE, "--moe-layer-freq=2", "--moe-shared-expert-intermediate-size=80"),
            Layout(1, 2, 1, 2),
        ),
        ((*MOE, "--moe-layer-freq=[0,1,1,1]"), Layout(1, 2, 1, 2)),
    ],
    ids=str,
)
def test_layers_are_dealt_out_as_megatron_builds_them(flags, layout: Layout) -> None:
    one = _Sweep(parse(flags), 8, _GPU, Assumptions())
    dealt = one._deal_out(validated(one._with_layout(layout), 8, _GPU))
    split = (
        f"--tensor-model-parallel-size={layout.tensor}",
        f"--pipeline-model-parallel-size={layout.pipeline}",
        f"--context-parallel-size={layout.context}",
        f"--expert-model-parallel-size={layout.expert}",
        "--expert-tensor-parallel-size=1",
        *(("--sequence-parallel",) if layout.tensor > 1 else ()),
    )
    with built((*flags, *split), 8) as (_, stages):
        assert dealt == stages


def test_the_flags_own_layout_is_not_looked_at() -> None:
    more = (
        *("--pipeline-model-parallel-size=2", "--num-virtual-stages-per-pipeline-rank=2"),
        *("--recompute-granularity=full", "--recompute-method=uniform", "--recompute-num-layers=1"),
        "--tensor-model-parallel-size=7",
    )
    assert _swept((*DENSE, *more), 4).tried == _swept(DENSE, 4).tried


def test_what_fits_comes_first_and_the_fastest_of_it() -> None:
    swept = _swept(recipe_flags("smollm3-3b-tst+8xh100"), 8)
    times = [round(one.time.total, 6) for one in swept.tried if one.fits]
    assert times == sorted(times)
    assert times
    fits = [one.fits for one in swept.tried]
    assert fits == sorted(fits, reverse=True)
    layouts = [one.layout for one in swept.tried]
    assert len(set(layouts)) == len(layouts)


def test_a_layout_of_the_sweep_is_the_plan_of_its_flags() -> None:
    flags = recipe_flags("moe-10b-a1b-tst+64xh100")
    swept = _swept(flags, 64)
    for one in (swept.tried[0], next(t for t in swept.tried if t.layout.pipeline == 2)):
        plan = make_plan((*flags, *_as_flags(one.layout)), 64, _GPU)
        assert one.memory == plan.worst.memory
        assert one.time == plan.time
        assert one.fits == plan.fits


def test_a_layout_that_training_refuses_is_none() -> None:
    swept = _swept((*DENSE, "--dataloader-inter-document-masking"), 2)
    for one in swept.tried:
        refused = "--dataloader-inter-document-masking with --context-parallel-size" in one.reason
        assert refused == (one.layout.context > 1)
        assert refused == (one.memory is None)
    assert {one.layout.context for one in swept.tried} == {1, 2}


@pytest.mark.parametrize("superpose", ["both", "input", "output"])
def test_whichever_side_is_superposed_the_broadcast_is_the_plans(superpose: str) -> None:
    flags = (*DENSE, "--tst-bag-size=8", f"--tst-superpose={superpose}")
    one = next(t for t in _swept(flags, 4).tried if t.layout.tensor == 2)
    plan = make_plan((*flags, *_as_flags(one.layout)), 4, _GPU)
    assert one.time == plan.time
    assert one.memory == plan.worst.memory


@pytest.mark.parametrize("bags", [(), ("--tst-bag-size=4",)])
def test_a_sweep_needs_no_length(bags) -> None:
    endless = [flag for flag in DENSE if not flag.startswith("--train-iters")]
    assert _swept((*endless, *bags), 2).tried == _swept((*DENSE, *bags), 2).tried


def _as_flags(layout: Layout) -> list[str]:
    assert layout.recomputation == "none"
    return [
        f"--tensor-model-parallel-size={layout.tensor}",
        f"--pipeline-model-parallel-size={layout.pipeline}",
        f"--context-parallel-size={layout.context}",
        f"--expert-model-parallel-size={layout.expert}",
        "--expert-tensor-parallel-size=1",
        f"--micro-batch-size={layout.micro_batch_size}",
        *(["--sequence-parallel"] if layout.tensor > 1 else []),
    ]


def test_recomputation_is_the_last_resort() -> None:
    """With less memory the same layout recomputes more, until nothing helps."""
    flags = recipe_flags("smollm3-3b-tst+8xh100")
    found = []
    for memory in (80, 46, 33, 20):
        gpu = dataclasses.replace(_GPU, memory=memory * 1e9)
        tried = _Sweep(parse(flags), 8, gpu, Assumptions())._best_of(Layout(1, 1, 1, 1))
        found.append(tried.layout.recomputation if tried.fits else tried.reason)
    assert found[:3] == ["none", "selective", "full"]
    assert "GB of 18.0 at the least" in found[3]
    assert "GB of them gradients" in found[3]


@pytest.mark.parametrize(
    ("flags", "num_gpus", "why"),
    [
        (DENSE, 7, "no layout divides --gpus 7 and --global-batch-size 64"),
        ((*DENSE, "--hybrid-layer-pattern=*-"), 8, "--sweep cannot deal out"),
        (
            [flag for flag in DENSE if not flag.startswith("--global-batch-size")],
            8,
            "--sweep deals out a batch of one size",
        ),
        ((*DENSE, "--multi-latent-attention"), 8, "does not count --multi-latent-attention"),
    ],
    ids=str,
)
def test_what_cannot_be_swept(flags, num_gpus, why) -> None:
    with pytest.raises(UserError, match=why):
        _swept(flags, num_gpus)
