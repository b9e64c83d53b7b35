"""A block of Megatron's that works on the tokens which its router picks.

The one idea: a routed block *is* Megatron's block, given fewer tokens. Its class is changed after
it was built, so that parameters and random numbers are Megatron's own; what comes out is
``x + r · (block(x) − x)`` for a chosen token, and ``x`` for the others. The paper's equation leaves
open whether f holds the block's own residual (arXiv 2404.02258, equation 1); here it does not, so
that a score of 1 is the plain block.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.transformer.transformer_layer import TransformerLayer
from megatron.core.utils import make_viewless_tensor
from torch import Tensor

from tst_megatron.methods.depths.auxiliary_loss import WithLoss
from tst_megatron.methods.depths.choice import (
    added,
    highest,
    last_chosen,
    passing,
    taken,
)
from tst_megatron.methods.depths.router import DepthRouter
from tst_megatron.methods.depths.settings import Routing
from tst_megatron.methods.depths.split import Split
from tst_megatron.methods.depths.tally import Tally


@dataclass
class Now:
    """What holds for all routed blocks at the moment.

    Attributes:
        most: a bound from below on capacities, of the stage that is trained in.
        ranks_in_validation: whether a validation takes the highest scores, as training does.
    """

    most: float = 0.0
    ranks_in_validation: bool = False


@dataclass
class Routed:
    """What a routed block has beside Megatron's.

    Attributes:
        routing: of the run.
        capacity: share of the tokens.
        now: of the run.
        split: how the block's input is cut over ranks.
        trained: figures of the tokens that it is trained on.
        read: figures of those that it only reads.
    """

    routing: Routing
    capacity: float
    now: Now
    split: Split
    trained: Tally = field(default_factory=Tally)
    read: Tally = field(default_factory=Tally)


class RoutedBlock:
    """Before a layer class of Megatron's in the bases."""

    depth_router: DepthRouter
    depths: Routed

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The block on the tokens that it takes.

        Args:
            hidden_states: ``[L/cp/tp, b, h]`` under sequence parallelism, ``[L/cp, b, h]`` without;
                packed documents ``[b·L, 1, h]``.
            attention_mask: ``[b or 1, 1, L, L]``, True where attention is not allowed.
            kwargs: as the layer's own forward takes them.

        Returns:
            The same shape, and the context that the layer gives.
        """
        router = self.depth_router
        scores, hidden_states = router.scores(hidden_states)
        logits = router.logits(hidden_states, scores)
        if self._takes_the_highest():
            return self._highest(hidden_states, scores, logits, attention_mask, kwargs)
        return self._passing(hidden_states, scores, logits, attention_mask, kwargs)

    def _takes_the_highest(self) -> bool:
        if self.training:  # type: ignore[attr-defined]  # the layer's
            return not self.depth_router.has_threshold
        return self.depths.now.ranks_in_validation

    # The highest scores: every rank chooses among its own tokens.

    def _highest(
        self,
        hidden: Tensor,
        scores: Tensor,
        logits: Tensor,
        mask: Tensor | None,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        depths, packed = self.depths, kwargs.get("packed_seq_params")
        length = hidden.shape[0]
        number, parts = self._shares(packed, length, length * depths.split.ranks)
        positions = self._by_rank(scores, number, parts)
        if self.training:  # type: ignore[attr-defined]  # the layer's
            scores = self._trained(scores, logits, positions, parts)
        rows, hidden = taken(hidden, positions)
        places = depths.split.places(positions, length)
        given = _given(kwargs, places, packed, depths.split, is_whole=False)
        out, context = super().forward(  # type: ignore[misc]  # the layer's
            rows, attention_mask=_of_pairs(mask, places, None), **given
        )
        change = self._weighed(out, rows, scores.gather(0, positions))
        return _viewless(added(hidden, positions, change)), context

    def _shares(self, packed: Any, length: int, whole: int) -> tuple[int, int]:
        """How many tokens are chosen of so many, and in how many parts.

        Args:
            packed: documents of several samples may stand one behind the other.
            length: positions that are chosen among.
            whole: those of the micro-batch's samples, of which these are a rank's.
        """
        each = whole if packed is None else int(packed.tokens_per_sample or whole)
        ranks = max(1, each // length)
        number, parts = self.depths.routing.taken(self._capacity, each, ranks)
        samples = max(1, length // each)
        return number * samples, parts * samples

    def _by_rank(self, scores: Tensor, number: int, parts: int) -> Tensor:
        if self.depth_router.rule.choice == "random":
            # Without sequence parallelism all ranks of tensor parallelism have these tokens.
            scores = self._chance(scores, () if self.depths.split.tensor else (self._tensor_group,))
        return highest(scores, number, parts)

    def _trained(self, scores: Tensor, logits: Tensor, positions: Tensor, parts: int) -> Tensor:
        """The scores, with the loss of the rule behind them; and the figures of the step."""
        router, depths = self.depth_router, self.depths
        picked = torch.zeros_like(scores, dtype=torch.bool).scatter(0, positions, True)
        each = None
        if router.rule.sampling != "threshold" and router.rule.choice == "router":
            wanted = picked.to(logits.dtype)
            each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if torch.is_grad_enabled():  # Once, where activations are computed again.
            is_chance = router.rule.choice == "random"
            passes = picked if is_chance else router.passes(logits, scores)
            lowest = last_chosen(scores, positions, parts)
            depths.trained.add(
                scores, picked, passes, lowest, None if each is None else each.mean()
            )
        if each is None:
            return scores
        if self.config.calculate_per_token_loss:  # type: ignore[attr-defined]  # the layer's
            loss = each.sum()
        else:  # Gradients of the router are added up over ranks of sequence parallelism.
            loss = each.mean() / depths.split.tensor_ranks
        scaled = loss * router.rule.coefficient
        return WithLoss.apply(scores, scaled, self.config)  # type: ignore[attr-defined]  # the layer's

    # All that pass: of the whole sequence, as their number is not the same in all of its parts.

    def _passing(
        self,
        hidden: Tensor,
        scores: Tensor,
        logits: Tensor,
        mask: Tensor | None,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        split, router = self.depths.split, self.depth_router
        packed = kwargs.get("packed_seq_params")
        whole, scores, logits = (split.whole(one) for one in (hidden, scores, logits))
        length = whole.shape[0]
        if router.rule.choice == "random":
            groups = (self._tensor_group, split.context)
            passes = self._chance(scores, groups) < self._capacity
        else:
            passes = router.passes(logits, scores)
        self._tell(scores, passes, packed)
        chosen = passing(passes, *self._places(passes, length))
        if not chosen.positions.shape[0]:
            return _viewless(hidden), kwargs.get("context")
        rows, whole = taken(whole, chosen.positions)
        given = _given(kwargs, chosen.positions, packed, split, is_whole=True, fills=chosen.fills)
        own_rows = split.own(rows)
        # Of nothing but padding, an auxiliary loss of experts is 0 / 0.
        if self._has_experts and chosen.fills is not None and not bool(chosen.fills.all()):
            given["padding_mask"] = split.own(chosen.fills).transpose(0, 1).contiguous()
        out, context = super().forward(  # type: ignore[misc]  # the layer's
            own_rows, attention_mask=_of_pairs(mask, chosen.positions, chosen.fills), **given
        )
        weights = scores.gather(0, chosen.positions)
        if chosen.fills is not None:
            weights = weights.masked_fill(chosen.fills, 0.0)
        change = split.whole(self._weighed(out, own_rows, split.own(weights)))
        return _viewless(split.own(added(whole, chosen.positions, change))), context

    def _places(self, passes: Tensor, length: int) -> tuple[int, int]:
        """The unit that places are counted in, and how many at least.

        In training one, as Megatron waits for a gradient of every parameter.
        """
        unit = min(self.depths.routing.unit(self.depths.split.ranks), length)
        if not self._has_experts:
            return unit, int(self.training)  # type: ignore[attr-defined]  # the layer's
        # Ranks that exchange tokens have as many.
        most = passes.sum(dim=0).max().clamp(min=1)
        group = self.pg_collection.tp_ep  # type: ignore[attr-defined]  # the layer's
        if group.size() > 1:
            dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
        return unit, int(most)

    def _tell(self, scores: Tensor, passes: Tensor, packed: Any) -> None:
        """Figures of a rule at work, beside what the highest scores would have been."""
        if self.training and not torch.is_grad_enabled():  # type: ignore[attr-defined]  # the layer's
            return
        length = scores.shape[0]
        each = length if packed is None else int(packed.tokens_per_sample or length)
        routing, samples = self.depths.routing, max(1, length // each)
        if each % routing.parts:
            return  # A question of another length than the run's.
        number = routing.tokens(self._capacity, each, self.depths.split.ranks) * samples
        parts = routing.parts * samples
        positions = highest(scores, number, parts)
        picked = torch.zeros_like(passes).scatter(0, positions, True)
        lowest = last_chosen(scores, positions, parts)
        tally = self.depths.trained if self.training else self.depths.read  # type: ignore[attr-defined]  # the layer's
        tally.add(scores, picked, passes, lowest, None)

    # Both.

    def _chance(self, like: Tensor, groups: Sequence[dist.ProcessGroup | None]) -> Tensor:
        """Numbers from 0 to 1, of the shape of scores; of groups that have the same tokens the
        first rank's, as nothing else would see that their generators have come apart."""
        drawn = torch.rand_like(like)
        for group in groups:
            if group is not None and group.size() > 1:
                dist.broadcast(drawn, dist.get_global_rank(group, 0), group)
        return drawn

    @property
    def _tensor_group(self) -> dist.ProcessGroup:
        group: dist.ProcessGroup = self.pg_collection.tp  # type: ignore[attr-defined]  # the layer's
        return group

    @property
    def _capacity(self) -> float:
        return max(self.depths.capacity, self.depths.now.most)

    @property
    def _has_experts(self) -> bool:
        return bool(self.is_moe_layer)  # type: ignore[attr-defined]  # the layer's

    @staticmethod
    def _weighed(out: Tensor, rows: Tensor, scores: Tensor) -> Tensor:
        """What the block changed, times the score: ``[k, b, h]``, of the input's type."""
        return (scores.unsqueeze(-1) * (out - rows)).to(rows.dtype)


def route(layer: TransformerLayer, router: DepthRouter, depths: Routed) -> None:
    """Turn a layer into a routed one, in place."""
    layer.__class__ = _routed_class(type(layer))  # type: ignore[arg-type]  # A class is hashable.
    layer.depth_router = router
    layer.depths = depths
    attention: Any = getattr(layer, "self_attention", None)
    if getattr(getattr(attention, "config", None), "apply_rope_fusion", False):
        # The fused kernel has one table of positions for all sequences.
        attention.config = copy.copy(attention.config)
        attention.config.apply_rope_fusion = False


@cache
def _routed_class(stock: type[TransformerLayer]) -> type[TransformerLayer]:
    return type(f"Routed{stock.__name__}", (RoutedBlock, stock), {})


def _viewless(hidden: Tensor) -> Tensor:
    """A pipeline's schedule gives a stage's last tensor back, which a view cannot be."""
    return make_viewless_tensor(hidden, requires_grad=hidden.requires_grad, keep_graph=True)


def _of_pairs(mask: Tensor | None, places: Tensor, fills: Tensor | None) -> Tensor | None:
    """A mask ``[b or 1, 1, L, L]`` of the tokens at ``[k, b]`` alone: ``[b, 1, k, k]``."""
    if mask is None:
        return None
    rows = places.transpose(0, 1)
    batch = rows.shape[0]
    of_each = mask.expand(batch, 1, *mask.shape[2:])[:, 0]
    index = torch.arange(batch, device=mask.device).view(-1, 1, 1)
    found = of_each[index, rows.unsqueeze(2), rows.unsqueeze(1)]
    if fills is not None:
        # They come last, with earlier positions; each attends to itself, as to nothing is NaN.
        number = rows.shape[1]
        own = torch.eye(number, dtype=torch.bool, device=mask.device)
        found = (found | fills.transpose(0, 1).unsqueeze(1)) & ~own
    return found.unsqueeze(1)


def _given(
    kwargs: dict[str, Any],
    places: Tensor,
    packed: Any,
    split: Split,
    is_whole: bool,
    fills: Tensor | None = None,
) -> dict[str, Any]:
    """What a layer is given beside its input, for the tokens at places ``[k, b]`` alone.

    Args:
        kwargs: for all tokens.
        places: in what the rank's attention sees, or in the whole sequence.
        packed: where documents begin; None where that is not told.
        split: over ranks.
        is_whole: whether places are in the whole sequence, and are to be cut again.
        fills: which places only fill up.
    """
    given = dict(kwargs)
    for name in ("rotary_pos_cos", "rotary_pos_sin", "rotary_pos_cos_sin", "inference_context"):
        if given.get(name) is not None:
            raise RuntimeError(f"a routed block has no {name}: it keeps no cache of keys")
    in_document = places
    if packed is not None:
        begins = packed.cu_seqlens_q.to(torch.int64)
        document = torch.bucketize(places, begins[1:], right=True).clamp(max=len(begins) - 2)
        in_document = places - begins[document]
        given["packed_seq_params"] = _packed(packed, places, fills)
    table = given.get("rotary_pos_emb")
    if isinstance(table, tuple):
        given["rotary_pos_emb"] = tuple(_rows_of(t, in_document, split, is_whole) for t in table)
    elif table is not None:
        given["rotary_pos_emb"] = _rows_of(table, in_document, split, is_whole)
    return given


def _rows_of(table: Tensor | None, places: Tensor, split: Split, is_whole: bool) -> Tensor | None:
    """RoPE of chosen tokens ``[k, b, 1, d]``, of a table ``[L/cp, 1, 1, d]``."""
    if table is None:
        return None
    if is_whole:
        return split.chunks(split.whole_of_chunks(table)[:, 0, 0][places]).unsqueeze(2)
    return table[:, 0, 0][places].unsqueeze(2)


def _packed(packed: Any, places: Tensor, fills: Tensor | None) -> Any:
    """Where documents begin among chosen tokens ``[k, 1]``; what fills up is a document behind."""
    order = places[:, 0].contiguous()
    number = order.shape[0]
    if fills is not None:
        order = order[: number - int(fills.sum())]
    begins = torch.searchsorted(order, packed.cu_seqlens_q.to(order.dtype)).to(torch.int32)
    if order.shape[0] < number:
        begins = torch.cat((begins, begins.new_tensor([number])))
    each = packed.tokens_per_sample
    if each is not None:
        each = None if fills is not None else number * each // int(packed.cu_seqlens_q[-1])
    return replace(
        packed,
        cu_seqlens_q=begins,
        cu_seqlens_kv=begins,
        cu_seqlens_q_padded=None,
        cu_seqlens_kv_padded=None,
        total_tokens=number,
        seq_idx=None,
        tokens_per_sample=each,
    )
