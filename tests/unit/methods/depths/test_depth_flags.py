"""The ``--mod-*`` flags, what they mean for a model, and operations by hand."""

import argparse
from argparse import Namespace
from typing import Any

import pytest

from tst_megatron.errors import UserError
from tst_megatron.methods.depths import flags
from tst_megatron.methods.depths.combinations import _check_parts
from tst_megatron.methods.depths.operations import of_routed
from tst_megatron.methods.depths.run import DepthRun
from tst_megatron.methods.depths.settings import Routing, parts_of, ranks_of
from tst_megatron.methods.depths.sizes import parameters_of
from tst_megatron.methods.depths.terms import DepthTerms
from tst_megatron.methods.terms import Kept


def parsed(*words: str, **megatrons: Any) -> Namespace:
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    usual: dict[str, Any] = {
        "num_layers": 6,
        "seq_length": 128,
        "hidden_size": 32,
        "tensor_model_parallel_size": 1,
        "context_parallel_size": 1,
        "sequence_parallel": False,
        "fp8": None,
        "fp8_recipe": "delayed",
        "fp4": None,
        "seed": 1,
    }
    return Namespace(**(usual | megatrons | vars(parser.parse_args(words))))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mod-every=2"], "--mod-every without --mod-capacity"),
        (["--mod-choice=random"], "--mod-choice without --mod-capacity"),
        (["--mod-capacity=0"], "0 is no share"),
        (["--mod-capacity=1.5"], "1.5 is no share"),
        (["--mod-capacity=nan"], "nan is no share"),
        (["--mod-capacity=0.5,"], "nothing is no share"),
        (["--mod-capacity=0.5", "--mod-every=2", "--mod-layers=1"], "both say which blocks"),
        (["--mod-capacity=0.5", "--mod-every=0"], "--mod-every 0 is too few"),
        (["--mod-capacity=0.5", "--mod-parts=0"], "--mod-parts 0 is too few"),
        (["--mod-capacity=0.5", "--mod-warmup-steps=-1"], "--mod-warmup-steps -1 is too few"),
        (["--mod-capacity=0.5", "--mod-layers=2,x"], "x names no blocks"),
        (["--mod-capacity=0.5", "--mod-layers=4-2"], "4-2 names no blocks"),
        (["--mod-capacity=0.5", "--mod-layers=0"], "0 names no blocks"),
        (["--mod-capacity=0.5", "--mod-layers=1-3,2"], "names block 2 twice"),
        (["--mod-capacity=0.5", "--mod-loss-coefficient=-1"], "-1 is no weight"),
        (["--mod-capacity=0.5", "--mod-threshold-decay=0.9"], "does nothing beside --mod-sampling"),
        (
            ["--mod-capacity=0.5", "--mod-sampling=threshold", "--mod-threshold-decay=1"],
            "--mod-threshold-decay 1 is no share",
        ),
        (
            ["--mod-capacity=0.5", "--mod-sampling=threshold", "--mod-loss-coefficient=1"],
            "--mod-loss-coefficient does nothing beside --mod-sampling threshold",
        ),
        (
            ["--mod-capacity=0.5", "--mod-sampling=auxiliary", "--mod-choice=random"],
            "beside --mod-choice random",
        ),
    ],
)
def test_a_wrong_flag_is_one_sentence(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        flags.check(parsed(*words))


def test_which_blocks_are_routed() -> None:
    flags.check(parsed("--mod-capacity=0.5"))
    assert flags.routed(parsed("--mod-capacity=0.5")) == {2: 0.5, 4: 0.5, 6: 0.5}
    assert flags.routed(parsed("--mod-capacity=0.5", "--mod-every=4")) == {4: 0.5}
    listed = parsed("--mod-capacity=0.5,0.25,0.125", "--mod-layers=1,5-6")
    assert flags.routed(listed) == {1: 0.5, 5: 0.25, 6: 0.125}
    for words, says in (
        (["--mod-capacity=0.5", "--mod-layers=7"], "names block 7 of a model with 6"),
        (["--mod-capacity=0.5", "--mod-every=7"], "--mod-every 7 routes no block"),
        (["--mod-capacity=0.5,0.5"], "has 2 shares and 3 blocks are routed"),
    ):
        with pytest.raises(UserError, match=says):
            flags.routed(parsed(*words))


@pytest.mark.parametrize(
    ("tensor", "context", "fp8", "parts", "tokens"),
    [
        (1, 1, None, 1, 38),
        (4, 1, None, 4, 40),
        (1, 2, None, 4, 40),
        (2, 2, None, 4, 40),
        (4, 2, None, 8, 40),
        (3, 2, None, 12, 36),
        (1, 1, "hybrid", 1, 32),
        (2, 2, "hybrid", 4, 64),
    ],
)
def test_how_many_tokens_that_is(tensor, context, fp8, parts: int, tokens: int) -> None:
    """0.3 of 128: the nearest multiple of what every rank has as many of."""
    args = parsed(
        "--mod-capacity=0.3",
        tensor_model_parallel_size=tensor,
        context_parallel_size=context,
        sequence_parallel=tensor > 1,
        fp8=fp8,
    )
    routing = Routing.of(args)
    assert (routing.parts, parts_of(args)) == (parts, parts)
    ranks = ranks_of(args)
    assert routing.tokens(0.3, 128, ranks) == tokens
    own, own_parts = routing.taken(0.3, 128, ranks)
    assert (own * ranks, own_parts * ranks) == (tokens, parts)
    assert routing.tokens(1.0, 128, ranks) == 128 - 128 % routing.unit(ranks)
    assert routing.tokens(1e-9, 128, ranks) == routing.unit(ranks)


def test_parts_fit_layout_and_length() -> None:
    split = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
    _check_parts(parsed("--mod-capacity=0.5", "--mod-parts=4", **split))
    for words, more, says in (
        (["--mod-parts=3"], split, "cuts a sequence into 2 pieces"),
        (["--mod-parts=3"], {}, "does not divide --seq-length 128"),
        ([], {"fp8": "hybrid", "seq_length": 40}, "no multiple of 16"),
    ):
        with pytest.raises(UserError, match=says):
            _check_parts(parsed("--mod-capacity=0.5", *words, **more))


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "group_query_attention": True,
    "kv_channels": 8,
    "ffn_hidden_size": 96,
    "swiglu": True,
    "padded_vocab_size": 400,
    "num_experts": None,
    "moe_ffn_hidden_size": None,
    "moe_latent_size": None,
    "moe_shared_expert_intermediate_size": None,
    "mtp_num_layers": None,
    "multi_latent_attention": False,
    "attention_output_gate": False,
    "experimental_attention_variant": None,
    "hybrid_layer_pattern": None,
}


def test_operations_by_hand() -> None:
    from megatron.training.training import num_floating_point_operations

    args = parsed("--mod-capacity=0.25", "--mod-layers=2,5", **SIZES)
    samples, length, hidden = 3, 128, 32
    positions = samples * length
    weights = hidden * (32 + 2 * 16) + 32 * hidden + 3 * hidden * 96
    pairs = 6 * 32  # Two products of a query's width, half of them under the mask.
    plain = num_floating_point_operations(args, samples)
    by_hand = positions * 6 * (6 * weights + hidden * 400) + 6 * samples * length**2 * pairs
    assert plain == by_hand
    router = sum(parameters_of(hidden, has_predictor=True).values())
    assert router == hidden + 8 * hidden + 8
    found = of_routed(args, samples, plain, {2: 32, 5: 64}, router)
    left = sum(6 * weights * samples * chosen + pairs * samples * chosen**2 for chosen in (32, 64))
    whole = 4 * (6 * weights * positions + pairs * samples * length**2)
    head = positions * 6 * hidden * 400
    assert found == pytest.approx(whole + left + head + 2 * 6 * router * positions, rel=1e-12)
    # Of documents the attention ends with each: so many pairs, of which a share of a share is left.
    fewer = num_floating_point_operations(args, samples, seqlen_squared_sum_in_batch=9000)
    found = of_routed(args, samples, fewer, {2: 32}, 0)
    expected = fewer - (1 - 1 / 4) * 6 * weights * positions - (1 - 1 / 16) * pairs * 9000
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_plan_counts_a_routed_layer_on_its_tokens() -> None:
    args = parsed("--mod-capacity=0.25", "--mod-warmup-steps=4", **SIZES)
    args.micro_batch_size, args.params_dtype = 2, __import__("torch").bfloat16
    args.train_iters, args.train_samples, args.global_batch_size = 20, None, 4
    args.rampup_batch_size = args.step_batch_size_schedule = None
    args.eval_iters = 0
    terms, run = DepthTerms(), DepthRun(args)
    all_, half, quarter = run.stages
    assert [stage.samples for stage in run.stages] == [8, 8, 64]
    assert [stage.facts["block_capacity"] for stage in run.stages] == [1.0, 0.5, 0.25]
    ordinary = {"attention": 1000, "attention_scores": 1600, "depth router": 7}
    assert terms.layer_work(args, quarter, 0, ordinary) == ordinary
    assert terms.layer_work(args, all_, 1, ordinary) == ordinary
    assert terms.layer_work(args, half, 1, ordinary) == ordinary | {
        "attention": 500,
        "attention_scores": 400,
    }
    assert terms.layer_weights(args, 0) == {}
    assert terms.layer_weights(args, 1) == {"depth router": 32 + 8 * 33}
    assert terms.layer_keeps(args, quarter, 0, Kept()) == Kept()
    kept = terms.layer_keeps(args, quarter, 1, Kept())
    assert kept.share == 0.25
    # Inputs in 16 bits, scores, what 64 tokens changed in float32, and the predictor's units.
    assert kept.beside == 256 * (64 + 4) + 64 * 32 * 4 + 2 * 256 * (8 * 2 + 4)


def test_a_warmup_fits_the_run() -> None:
    usual: dict[str, Any] = {"train_iters": 20, "train_samples": None, "global_batch_size": 4}
    usual |= {"step_batch_size_schedule": None, "micro_batch_size": 2, "eval_iters": 0}
    usual |= {"rampup_batch_size": None}
    for words, says in (
        (["--mod-warmup-steps=20"], "is the whole run of 20"),
        (["--mod-warmup-steps=1"], "less than a step for each of 2 halvings"),
    ):
        with pytest.raises(UserError, match=says):
            _ = DepthRun(parsed("--mod-capacity=0.25", *words, **usual)).stages


def test_a_resume_is_the_same_run() -> None:
    args = parsed("--mod-capacity=0.25", load="there")
    run = DepthRun(args)
    run.check_weights(args, run.saved())
    run.resume(args, run.saved(), 5)
    with pytest.raises(UserError, match="has no routers, as it was trained without"):
        run.check_weights(args, None)
    other = DepthRun(parsed("--mod-capacity=0.5")).saved()
    run.check_weights(args, other)
    told = "with --mod-capacity 0.5 in block 2.* this run has --mod-capacity 0.25 in block 2"
    with pytest.raises(UserError, match=told):
        run.resume(args, other, 5)
    with pytest.raises(UserError, match="with --mod-parts 4 and this run has --mod-parts 1"):
        run.resume(args, run.saved() | {"parts": 4}, 5)
