"""Which part of which MLP each expert holds, and what its weights are multiplied by.

The one idea: an MLP of f units is cut into shards of an expert's size. Experts come in groups that
together hold each shard once, all with the same row of the router, so that a token that chooses
whole groups gets whole MLPs (virtual groups, arXiv 2410.07524, 2.3). Shared experts hold the first
shards, and the groups what is left. What the router's weights sum to is made up for in the weights.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.stock.layer_kinds import WITH_EXPERTS, kinds_of, pattern_of
from tst_megatron.stock.sizes import ffn_size

# To experts from a dense layer of the same attention.
_WITH_EXPERTS = {"-": "E", "l": "L"}
_ROUTER_STD, _COPIES_STD = 0.02, 1e-3
_AT_ZERO = {"sigmoid": 0.5, "sqrtsoftplus": math.sqrt(math.log(2))}
"""Scores of an expert by a router of zero, where one expert's score is not made to be 1."""


OF_EXPERTS = (
    *("num_experts", "moe_ffn_hidden_size", "moe_layer_freq", "hybrid_layer_pattern"),
    *("moe_router_topk", "moe_router_pre_softmax", "moe_router_score_function"),
    *("moe_router_topk_scaling_factor", "moe_router_enable_expert_bias"),
    "moe_shared_expert_intermediate_size",
)
"""Megatron's arguments that say what experts a model has."""


@dataclass(frozen=True)
class Upcycling:
    """How a checkpoint's model gets experts, as flags say it.

    Attributes:
        router_std: standard deviation of the router's weights; None for the default.
        is_scaled: whether weights make up for what the router's sum to.
        drop: share of each expert's units that are drawn anew.
        noise: on each matrix, in its standard deviations.
        keeps_optimizer: whether moments are copied, or all begin at 0.
        seed: of all that is drawn; None for the first model's own.
    """

    router_std: float | None = None
    is_scaled: bool = True
    drop: float = 0.0
    noise: float = 0.0
    keeps_optimizer: bool = False
    seed: int | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Upcycling":
        """From flags."""
        return cls(
            args.upcycle_router_std,
            args.upcycle_scale == "exact",
            args.upcycle_drop,
            args.upcycle_noise,
            args.upcycle_optimizer == "keep",
            None if args.seed is None else int(args.seed),
        )


@dataclass(frozen=True)
class Experts:
    """The experts of a model, and what they are made of.

    Attributes:
        layers: the decoder's layers that get them, from 0.
        total: their number.
        size: units of each.
        shards: of the MLP in a group of experts; 1 where each expert is a whole one.
        shared: shards that shared experts hold.
        copied_from: experts that there were; 0 of a dense model.
        topk: experts a token.
        is_gated: whether the MLP has a gate beside what goes up.
        router_std: of the router's new weights.
        up: factor of the weights up; those of a gate stay.
        down: of the weights down.
        down_bias: of the bias down.
        is_exact: whether the experts give what the MLP gave, at first, up to rounding.
    """

    layers: frozenset[int]
    total: int
    size: int
    shards: int
    shared: int
    copied_from: int
    topk: int
    is_gated: bool
    router_std: float
    up: float
    down: float
    down_bias: float
    is_exact: bool

    def shard(self, expert: int) -> int:
        """Which of the MLP's shards an expert holds."""
        return self.shared + expert % self.shards

    def row(self, expert: int) -> int:
        """Which row of the router is its own: of its group, or of the expert that it copies."""
        if self.copied_from:
            return expert // (self.total // self.copied_from)
        return expert // self.shards


def experts_of(saved: Any, args: Any, how: Upcycling) -> Experts:
    """The experts of a run, made of a checkpoint's MLPs or of its fewer experts.

    Args:
        saved: the checkpoint's arguments.
        args: the run's, Megatron's.
        how: as flags say it.

    Raises:
        UserError: they cannot be made of it.
    """
    _check_arguments(saved, args)
    layers = _layers(saved, args)
    if any(kind in WITH_EXPERTS for kind in kinds_of(saved)):
        return _more_experts(saved, args, how, layers)
    dense, size = ffn_size(saved), int(args.moe_ffn_hidden_size or ffn_size(args))
    if dense % size:
        raise UserError(
            f"--moe-ffn-hidden-size {size} does not divide the {dense} units of the dense MLP: an "
            "expert holds a whole MLP or one of equal shards of it"
        )
    shared = _shared_shards(args, dense, size)
    shards = dense // size - shared
    total, topk = int(args.num_experts), int(args.moe_router_topk)
    for flag, number in (("--num-experts", total), ("--moe-router-topk", topk)):
        if number % shards:
            raise UserError(
                f"{flag} {number} is no multiple of the {shards} shards into which the dense MLP "
                f"is cut for experts of {size} units, so that some would be missing: make it one"
            )
    deviation = _ROUTER_STD if how.router_std is None else how.router_std
    if not deviation and shards > 1:
        raise UserError(
            "--upcycle-router-std 0 has all experts tie, so that a token would not choose whole "
            "MLPs of several shards: give a small one"
        )
    # What the router's weights sum to over the experts of a token.
    weights, is_even = _weights(args, total, topk, deviation)
    # Each shard has its part of that: one of so many.
    up, down = _factors(args, shards / weights if how.is_scaled else 1.0)
    _check_groups(args, total, shards)
    is_exact = how.is_scaled and is_even
    is_exact = is_exact or (shards == 1 and not shared and is_even and weights == 1)
    return Experts(
        layers=layers,
        total=total,
        size=size,
        shards=shards,
        shared=shared,
        copied_from=0,
        topk=topk,
        is_gated=_is_gated(args),
        router_std=deviation,
        up=up,
        down=down,
        down_bias=1 / weights if how.is_scaled else 1.0,
        is_exact=is_exact and not how.drop and not how.noise and _gives_all(args, shards),
    )


def _more_experts(saved: Any, args: Any, how: Upcycling, layers: frozenset[int]) -> Experts:
    """Experts copied to more of them (arXiv 2604.19835)."""
    before, total = int(saved.num_experts), int(args.num_experts)
    if total == before:
        raise UserError(
            f"--upcycle-from makes more experts, and the checkpoint has {before} already: raise "
            "--num-experts, or name a dense one"
        )
    if total % before:
        raise UserError(
            f"--num-experts {total} is no multiple of the checkpoint's {before}, each of which is "
            "copied as often as any other: change it"
        )
    sizes = [int(of.moe_ffn_hidden_size or ffn_size(of)) for of in (saved, args)]
    shared = [of.moe_shared_expert_intermediate_size or 0 for of in (saved, args)]
    for flag, (one, other) in (
        ("--moe-ffn-hidden-size", sizes),
        ("--moe-shared-expert-intermediate-size", shared),
    ):
        if one != other:
            raise UserError(
                f"{flag} is {other} and the checkpoint's is {one}: experts that become more stay "
                "as large as they are"
            )
    if getattr(saved, "moe_router_enable_expert_bias", False) and not getattr(
        args, "moe_router_enable_expert_bias", False
    ):
        raise UserError(
            "the checkpoint's router has a bias of its experts, which would be lost: add "
            "--moe-router-enable-expert-bias"
        )
    return Experts(
        layers=layers,
        total=total,
        size=sizes[1],
        shards=1,
        shared=0,
        copied_from=before,
        topk=int(args.moe_router_topk),
        is_gated=_is_gated(args),
        router_std=_COPIES_STD if how.router_std is None else how.router_std,
        up=1.0,
        down=1.0,
        down_bias=1.0,
        is_exact=False,
    )


def _check_arguments(saved: Any, args: Any) -> None:
    if not args.num_experts:
        raise UserError("--upcycle-from makes experts: say how many with --num-experts")
    if (pattern_of(saved) is None) != (pattern_of(args) is None):
        raise UserError(
            "--upcycle-from makes a model of the same class, and of checkpoint and run only one "
            "has a --hybrid-layer-pattern: give both one, or neither"
        )
    if pattern_of(args) is not None and args.mtp_num_layers:
        raise UserError(
            "--upcycle-from does not know which layers of multi-token prediction of a hybrid "
            "pattern get experts: train the dense model without them"
        )
    topk, total = int(args.moe_router_topk), int(args.num_experts)
    if topk > total:
        raise UserError(f"--moe-router-topk {topk} is more than the {total} experts: lower it")
    is_softmax = args.moe_router_score_function == "softmax" and not args.moe_router_pre_softmax
    if topk == 1 and is_softmax and not _is_sinkhorn(args):
        raise UserError(
            "--moe-router-topk 1 has the weight 1 whatever the router says, so that it would learn "
            "nothing: add --moe-router-pre-softmax"
        )
    for name, why in (
        ("moe_latent_size", "experts work in the model's own width"),
        ("moe_shared_expert_gate", "a gate would halve what a shared expert gives"),
        ("moe_mlp_glu_interleave_size", "gate and up stand apart in the dense MLP"),
        ("heterogeneous_layers_config_path", "each layer would be of a shape of its own"),
        ("heterogeneous_layers_config_encoded_json", "each layer would be of a shape of its own"),
    ):
        if getattr(args, name, None) or getattr(saved, name, None):
            raise UserError(f"--upcycle-from does not go with --{name.replace('_', '-')}: {why}")


def _layers(saved: Any, args: Any) -> frozenset[int]:
    """The layers that get experts, or more of them."""
    before, now = kinds_of(saved), kinds_of(args)
    if len(before) != len(now):
        raise UserError(
            f"--upcycle-from makes a model of as many layers, and the checkpoint has {len(before)} "
            f"and the run {len(now)}: grow it first, with --grow"
        )
    flag = "--hybrid-layer-pattern" if pattern_of(args) is not None else "--moe-layer-freq"
    has_experts = any(kind in WITH_EXPERTS for kind in before)
    chosen = set()
    for layer, (one, other) in enumerate(zip(before, now, strict=True)):
        if one != other and (has_experts or _WITH_EXPERTS.get(one) != other):
            raise UserError(
                f"layer {layer} is {one} in the checkpoint and {other} in the run, which none "
                f"becomes: change {flag}"
            )
        if other in WITH_EXPERTS:
            chosen.add(layer)
    if len(chosen) < len(now) and pattern_of(args) is None and ffn_size(saved) != ffn_size(args):
        raise UserError(
            f"the layers that stay dense have {ffn_size(saved)} units in the checkpoint, and "
            f"--ffn-hidden-size is {ffn_size(args)}: make it the checkpoint's"
        )
    if not chosen:
        raise UserError(f"--upcycle-from makes experts, and no layer has any: change {flag}")
    return frozenset(chosen)


def _is_gated(args: Any) -> bool:
    return bool(args.swiglu or getattr(args, "quick_geglu", False))


def _shared_shards(args: Any, dense: int, size: int) -> int:
    shared = int(args.moe_shared_expert_intermediate_size or 0)
    if shared % size or shared >= dense:
        raise UserError(
            f"--moe-shared-expert-intermediate-size {shared} is not a number of shards of {size} "
            f"units that leaves the experts some of the dense MLP's {dense}: make it a multiple of "
            f"--moe-ffn-hidden-size below {dense}, and experts smaller where there is none"
        )
    return shared // size


def _is_sinkhorn(args: Any) -> bool:
    """Of one kind of balancing, or of one in a list."""
    return "sinkhorn" in (getattr(args, "moe_router_load_balancing_type", None) or ())


def _weights(args: Any, total: int, topk: int, deviation: float) -> tuple[float, bool]:
    """What the weights of a token's experts sum to, and whether they do for any token.

    As ``topk_routing_with_score_function`` in megatron/core/transformer/moe/moe_utils.py.
    """
    factor = getattr(args, "moe_router_topk_scaling_factor", None) or 1.0
    score = args.moe_router_score_function
    if _is_sinkhorn(args):
        # Of all experts' scores, which are not made to be 1 (``sinkhorn_load_balancing``).
        return _AT_ZERO["sigmoid"] if topk == 1 else topk / total, not deviation
    if score == "softmax" and args.moe_router_pre_softmax:
        return factor * topk / total, not deviation
    if score != "softmax" and topk == 1:
        return factor * _AT_ZERO[score], not deviation
    return factor, True


def _check_groups(args: Any, total: int, shards: int) -> None:
    """A group of experts that together are an MLP lies in one of the router's own groups."""
    groups = getattr(args, "moe_router_num_groups", None)
    if groups and (total // int(groups)) % shards:
        raise UserError(
            f"--moe-router-num-groups {groups} parts the {total} experts within an MLP, of which "
            f"{shards} hold one together: give fewer groups"
        )


def _gives_all(args: Any, shards: int) -> bool:
    """Whether no flag has the router leave out a part of what a token's experts would give, or
    choose other experts than whole MLPs.
    """
    is_short = bool(getattr(args, "bf16", False) or getattr(args, "fp16", False))
    # Rows of different groups may give one number in 8 bits, so that a token gets parts of both.
    may_tie = shards > 1 and is_short and not getattr(args, "moe_router_dtype", None)
    drops = getattr(args, "moe_expert_capacity_factor", None) is not None
    return not (drops or may_tie or getattr(args, "moe_apply_probs_on_input", False))


def _factors(args: Any, scale: float) -> tuple[float, float]:
    """What the weights up and down are multiplied by, so that the output is."""
    if getattr(args, "glu_linear_offset", 0) or getattr(args, "activation_func_clamp_value", None):
        # What goes up is changed before it is multiplied, or cut off.
        return 1.0, scale
    if _is_gated(args):
        # The product of up and down is linear; the gate is not.
        return math.sqrt(scale), math.sqrt(scale)
    if getattr(args, "squared_relu", False):
        return scale ** (1 / 3), scale ** (1 / 3)
    return 1.0, scale


def facts_of(how: Upcycling) -> dict[str, Any]:
    """What flags say, as is remembered of it."""
    return {
        "router_std": how.router_std,
        "scale": "exact" if how.is_scaled else "none",
        "drop": how.drop,
        "noise": how.noise,
        "optimizer": "keep" if how.keeps_optimizer else "new",
    }


def made_of(experts: Experts) -> dict[str, Any]:
    """What became of it."""
    return {
        "experts": [experts.copied_from, experts.total],
        "shards": experts.shards + experts.shared,
        "topk": experts.topk,
        "is_exact": experts.is_exact,
    }
