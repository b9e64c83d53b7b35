"""``--noop-experts``: what is wrong with it, what a step with it costs, and how it is told."""

import argparse
import copy
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
from megatron.training.training import num_floating_point_operations
from planned import MOE, built

from tst_megatron.errors import UserError
from tst_megatron.methods.noop_experts.method import METHOD
from tst_megatron.methods.noop_experts.operations import of_choice
from tst_megatron.methods.noop_experts.run import NoopRun
from tst_megatron.methods.registry import check_weights
from tst_megatron.methods.story import Told
from tst_megatron.planner.counts import with_added
from tst_megatron.planner.work import work_of

# As Megatron's parser leaves what nobody has given.
MEGATRONS = {
    "num_experts": 8,
    "moe_token_dispatcher_type": "alltoall",
    "moe_expert_capacity_factor": None,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_router_load_balancing_type": "aux_loss",
    "transformer_impl": "transformer_engine",
    "moe_router_fusion": False,
    "moe_routing_trace_path": None,
    "moe_use_upcycling": False,
    "overlap_moe_expert_parallel_comm": False,
    "cuda_graph_impl": "none",
    "use_torch_fsdp2": False,
    "use_megatron_fsdp": False,
    "init_model_with_meta_device": False,
    "use_mup": False,
}


def parsed(*words: str, **megatrons: Any) -> Namespace:
    parser = argparse.ArgumentParser()
    METHOD.add_arguments(parser)
    return Namespace(**(MEGATRONS | megatrons | vars(parser.parse_args(words))))


@pytest.mark.parametrize(
    ("megatrons", "says"),
    [
        ({"num_experts": None}, "--noop-experts without --num-experts"),
        ({"hybrid_layer_pattern": "*-*-"}, "no layer of it has experts"),
        ({"moe_token_dispatcher_type": "flex"}, "so give alltoall or allgather"),
        ({"moe_expert_capacity_factor": 1.0}, "--moe-expert-capacity-factor does not go with"),
        ({"moe_router_group_topk": 2}, "on no device, and so in no group"),
        ({"moe_router_load_balancing_type": ["quantile_balancing"]}, "quantile_balancing does not"),
        ({"moe_router_fusion": True}, "--moe-router-fusion does not go with --noop-experts"),
        ({"cuda_graph_impl": "local"}, "--cuda-graph-impl does not go with --noop-experts"),
    ],
)
def test_what_it_cannot_go_with_is_one_sentence(megatrons: dict[str, Any], says: str) -> None:
    METHOD.check_beside(parsed(**megatrons))
    METHOD.check_beside(parsed("--noop-experts=2", hybrid_layer_pattern="*E*E"))
    with pytest.raises(UserError, match=says):
        METHOD.check_beside(parsed("--noop-experts=2", **megatrons))


def test_none_are_not_given() -> None:
    with pytest.raises(UserError, match="--noop-experts 0 are none"):
        METHOD.check(parsed("--noop-experts=0"))
    assert not METHOD.is_on(parsed())


def test_a_checkpoints_model_says_what_it_needs() -> None:
    before = {"noop_experts": 3}
    assert "give --noop-experts 3" in METHOD.why_not_without(before)
    assert "has 3 no-op experts (--noop-experts)" in METHOD.why_not_exported(before, parsed())


@pytest.mark.parametrize("made_at", [None, 5], ids=["the same model", "another one made of it"])
def test_a_run_without_them_does_not_begin_with_such_routers(made_at: int | None) -> None:
    saved = Namespace(methods={"noop_experts": {"facts": {"noop_experts": 3}, "stages": []}})
    with pytest.raises(UserError, match=r"checkpoint in small has 3 no-op experts"):
        check_weights(Namespace(load="small"), saved, SimpleNamespace(parts=()), made_at)


@pytest.mark.parametrize("more", [(), ("--moe-layer-freq=[0,1,1,1]",)], ids=["all", "some"])
def test_a_plans_operations_are_the_trainers_where_choices_are_balanced(more) -> None:
    """A plan counts from weights and the trainer from Megatron's count, and of both the router's
    own product is left out, which Megatron does not count."""
    samples, layers = 64, 3 if more else 4
    with built((*MOE, *more, "--noop-experts=4")) as (args, stages):
        run, terms = NoopRun(args), METHOD.terms()
        (stage,) = run.stages
        work = work_of(args, with_added(args, stages, terms), samples, stage, terms)
        # A third of the choices of 2 experts.
        run.last.noops = samples * 128 * layers * 2 / 3
        trainers = run.flops(args, samples, num_floating_point_operations(args, samples))
    assert work.total - work.by_kind["router"] == pytest.approx(trainers, rel=1e-12)
    assert work.by_kind["router"] == 6 * samples * 128 * layers * 64 * (8 + 4)
    (note,) = terms.notes(args, (stage,))
    assert note.startswith("33.33 % of the choices")


@pytest.mark.parametrize(
    "changed",
    [{}, {"swiglu": False}, {"moe_ffn_hidden_size": None}, {"moe_latent_size": 24}],
    ids=str,
)
def test_a_choice_costs_what_megatron_counts_for_it(changed: dict[str, Any]) -> None:
    with built(MOE) as (args, _):
        args = copy.copy(args)
    vars(args).update(changed)
    of_two = num_floating_point_operations(args, 1)
    args.moe_router_topk = 1
    of_one = num_floating_point_operations(args, 1)
    assert of_two - of_one == pytest.approx(of_choice(args) * 128 * 4, rel=1e-12)


def test_a_comparison_tells_how_many_there_are() -> None:
    story = METHOD.story()
    told = Told((), {"noop_experts": 4, "experts": 8}, {})
    assert story.words(told) == story.schedule(told) == "4 no-op experts beside 8"
    assert story.stage({"noop_experts": 0}) is None
    assert story.stage({"noop_experts": 4}).name == "4 no-op experts"
    assert "num_experts".startswith(story.may_differ)
    assert not "num_layers".startswith(story.may_differ)
