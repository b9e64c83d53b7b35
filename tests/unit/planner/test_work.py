"""Operations against Megatron's own count, and against those of a layer that runs."""

import pytest
import torch
from megatron.training.training import num_floating_point_operations
from planned import DENSE, MOE, built, recipe_flags
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tst_megatron.methods.depths.run import DepthRun
from tst_megatron.methods.depths.terms import DepthTerms
from tst_megatron.methods.superposition.terms import SuperpositionTerms
from tst_megatron.methods.terms import Terms
from tst_megatron.planner.counts import with_added
from tst_megatron.planner.fake_ranks import as_rank, build
from tst_megatron.planner.work import SCORES, work_of
from tst_megatron.runs.stages import ordinary_stage


def _work(args, stages, samples: int):
    """Without a method."""
    return work_of(args, stages, samples, ordinary_stage(samples), Terms())


def _kinds(flags, num_gpus=1, samples=64):
    with built(flags, num_gpus) as (args, stages):
        return _work(args, stages, samples), num_floating_point_operations(args, samples)


@pytest.mark.parametrize("name", ["smollm2-270m-tst", "smollm3-3b-tst"])
def test_dense_models_are_megatrons_to_the_last_digit(name: str) -> None:
    work, megatrons = _kinds(recipe_flags(f"{name}+8xh100"), 8)
    assert work.total == megatrons


def test_experts_are_megatrons_but_for_the_router() -> None:
    """Megatron leaves the router's product out."""
    work, megatrons = _kinds(recipe_flags("moe-10b-a1b-tst+8xh100"), 8)
    assert work.total - work.by_kind["router"] == megatrons
    assert work.by_kind["router"] == 6 * 64 * 8192 * 32 * 1536 * 128


@pytest.mark.parametrize("name", ["smollm2-270m", "smollm3-3b"])
def test_routed_layers_are_the_trainers_and_the_baselines_operations(name: str) -> None:
    """A plan counts from weights and the trainer from Megatron's count; a recipe in depths has its
    baseline's operations to a half per cent."""
    with built(recipe_flags(f"{name}-mod+8xh100"), 8) as (args, stages):
        run, terms = DepthRun(args), DepthTerms()
        (stage,) = run.stages
        work = work_of(args, with_added(args, stages, terms), 64, stage, terms)
        trainers = run.flops(args, 64, num_floating_point_operations(args, 64))
    assert work.total == pytest.approx(trainers, rel=1e-9)
    _, plain = _kinds(recipe_flags(f"{name}-baseline+8xh100"), 8)
    assert trainers == pytest.approx(plain, rel=5e-3)


@pytest.mark.parametrize(
    "more",
    [
        ("--moe-shared-expert-intermediate-size=32",),
        ("--moe-layer-freq=2",),
        ("--moe-layer-freq=[0,1,1,1]",),
    ],
)
def test_mixed_layers_are_megatrons_but_for_the_router(more) -> None:
    work, megatrons = _kinds((*MOE, *more))
    assert work.total - work.by_kind["router"] == megatrons


@pytest.mark.parametrize("pattern", ["*-*-", "*E*-"])
def test_hybrid_models_are_megatrons_but_for_the_router(pattern: str) -> None:
    without = ("--num-layers", "--qk-layernorm")
    flags = [flag for flag in MOE if not flag.startswith(without)]
    work, megatrons = _kinds((*flags, f"--hybrid-layer-pattern={pattern}"))
    assert work.total - work.by_kind.get("router", 0) == megatrons


def test_a_split_model_does_the_same_work() -> None:
    whole, _ = _kinds(MOE)
    split = ("--tensor-model-parallel-size=2", "--sequence-parallel")
    parts = ("--pipeline-model-parallel-size=2", "--expert-model-parallel-size=2")
    experts = ("--expert-tensor-parallel-size=2",)
    assert _kinds((*MOE, *split, *parts, *experts), 8)[0] == whole


@pytest.mark.parametrize("flags", [DENSE, MOE], ids=["dense", "experts"])
def test_a_layer_that_runs(flags) -> None:
    """A forward pass through a model of Megatron's, attention as plain products.

    Those are made whole, and half of each is masked then; the kernels of GPUs leave that half out.
    """
    with built(flags) as (args, stages):
        work = _work(args, stages, 2)
        with as_rank(args, 0):
            (model,) = build(args)
        model = model.to_empty(device="cpu").bfloat16()
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.02)
        tokens = torch.zeros(2, args.seq_length, dtype=torch.int64)
        positions = torch.arange(args.seq_length).expand(2, -1)
        counter = FlopCounterMode(display=False)
        with as_rank(args, 0), sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
            model(tokens, positions, None)
    forward = {kind: number // 3 for kind, number in work.by_kind.items()}
    scores = forward.pop(SCORES)
    assert counter.get_total_flops() == sum(forward.values()) + 2 * scores


@pytest.mark.parametrize(
    ("recomputation", "kinds"),
    [
        ((), ()),
        (("full", "uniform"), ("attention", SCORES, "dense_mlp")),
        (("selective", "core_attn"), (SCORES,)),
        (("selective", "mlp"), ("dense_mlp",)),
        (("selective", "layernorm"), ()),
    ],
)
def test_what_recomputation_does_again(recomputation, kinds) -> None:
    flags = list(DENSE)
    if recomputation:
        granularity, what = recomputation
        name = "method" if granularity == "full" else "modules"
        flags += [f"--recompute-granularity={granularity}", f"--recompute-{name}", what]
        flags += ["--recompute-num-layers=1"] if granularity == "full" else []
    work, _ = _kinds(flags)
    assert {kind: n for kind, n in work.again.items() if n} == {
        kind: work.by_kind[kind] // 3 for kind in kinds
    }


def test_a_block_of_recomputed_layers() -> None:
    flags = ("--recompute-granularity=full", "--recompute-method=block", "--recompute-num-layers=3")
    work, _ = _kinds((*DENSE, *flags))
    assert work.again["dense_mlp"] == work.by_kind["dense_mlp"] // 4 // 3 * 3


def test_logits_in_chunks_are_made_twice() -> None:
    flags = (*DENSE, "--tst-bag-size=4", "--recompute-granularity=selective")
    with built((*flags, "--tst-logits-chunk-size=32")) as (args, stages):
        work = work_of(args, stages, 64, ordinary_stage(64), SuperpositionTerms())
        without = _work(args, stages, 64)
    assert work.by_kind == without.by_kind
    assert work.again == {**without.again, "head": work.by_kind["head"] // 3}
