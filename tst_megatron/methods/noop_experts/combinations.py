"""What no-op experts cannot go with: flags of Megatron's, each with its reason."""

import argparse

from tst_megatron.errors import UserError
from tst_megatron.methods.unsupported import Unsupported, refuse
from tst_megatron.stock.layer_kinds import WITH_EXPERTS, pattern_of

_NOT_TRIED = "it has not been tried with tokens that go to fewer experts"

_UNSUPPORTED: tuple[Unsupported, ...] = (
    (
        lambda a: a.moe_token_dispatcher_type == "flex",
        "--moe-token-dispatcher-type flex",
        "its kernels send every token to --moe-router-topk experts, so give alltoall or allgather",
    ),
    (
        lambda a: a.moe_expert_capacity_factor is not None,
        "--moe-expert-capacity-factor",
        "it would count what an expert may take, and drop choices, with experts that do nothing",
    ),
    (
        lambda a: a.moe_router_num_groups is not None or a.moe_router_group_topk is not None,
        "--moe-router-num-groups and --moe-router-group-topk",
        "an expert that does nothing is on no device, and so in no group",
    ),
    (
        lambda a: "quantile_balancing" in a.moe_router_load_balancing_type,
        "--moe-router-load-balancing-type quantile_balancing",
        _NOT_TRIED,
    ),
    (
        lambda a: a.transformer_impl == "inference_optimized",
        "--transformer-impl inference_optimized",
        "its router is another one",
    ),
    (lambda a: a.moe_router_fusion, "--moe-router-fusion", _NOT_TRIED),
    (
        lambda a: a.moe_routing_trace_path,
        "--moe-routing-trace-path",
        "it writes as many experts for every token, and leaves out a layer where there are not",
    ),
    (
        lambda a: a.moe_use_upcycling,
        "--moe-use-upcycling",
        "it makes a router of experts alone",
    ),
    (
        lambda a: a.overlap_moe_expert_parallel_comm,
        "--overlap-moe-expert-parallel-comm",
        _NOT_TRIED,
    ),
    (lambda a: a.cuda_graph_impl not in (None, "none"), "--cuda-graph-impl", _NOT_TRIED),
    (lambda a: a.use_torch_fsdp2, "--use-torch-fsdp2", _NOT_TRIED),
    (lambda a: a.use_megatron_fsdp, "--use-megatron-fsdp", _NOT_TRIED),
    (
        lambda a: a.init_model_with_meta_device,
        "--init-model-with-meta-device",
        "rows of a router are added where its others are",
    ),
    (lambda a: a.use_mup, "--use-mup", "it has no rule for rows that are added to a router"),
)


def check_beside(args: argparse.Namespace) -> None:
    """Check what no-op experts ask of Megatron.

    Args:
        args: all of Megatron's, before or after its validation.

    Raises:
        UserError: it does not go with them.
    """
    pattern = pattern_of(args)
    if not args.num_experts:
        raise UserError(
            "--noop-experts without --num-experts: there is no router that could choose them, so "
            "say how many experts there are, or leave it out"
        )
    if pattern is not None and not any(kind in str(pattern) for kind in WITH_EXPERTS):
        raise UserError(
            f"--noop-experts with --hybrid-layer-pattern {pattern}: no layer of it has experts (E)"
        )
    refuse(args, _UNSUPPORTED, "--noop-experts")
