"""Models of transformers whose routed blocks change the tokens that a rule lets in, and no others.

The one idea: a routed block *is* the family's block, under a mask: it is computed for every token,
its attention sees the keys of those alone that are let in, and a token that is not let in passes by
as it came. That is exact and saves nothing. Which tokens were let in is a further layer of the
cache, with a truth in the place of keys, so that whatever is done to a cache is done to it.

tst-megatron writes this file as it is beside a model's weights, for ``trust_remote_code=True``: it
needs transformers alone, of version 5.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

_REDUCTION = 4  # A predictor's hidden units are h / 4.


class DepthRouter(nn.Module):
    """A score of every token, and a rule that lets one in without a look at those after it.

    Args:
        hidden_size: h.
        sampling: ``predictor``, ``auxiliary`` or ``threshold``.
        threshold: what a score has to reach; None of another rule.
    """

    def __init__(self, hidden_size: int, sampling: str, threshold: float | None) -> None:
        super().__init__()
        self.threshold = threshold
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.down: nn.Parameter | None = None
        self.up: nn.Parameter | None = None
        if sampling == "predictor":
            units = max(1, hidden_size // _REDUCTION)
            self.down = nn.Parameter(torch.zeros(units, hidden_size))
            self.up = nn.Parameter(torch.zeros(units))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[b, L]`` of tokens ``[b, L, h]``, and which of them are let in."""
        scores = _exact(hidden, self.weight)
        if self.threshold is not None:
            return scores, scores >= self.threshold
        if self.down is None or self.up is None:
            return scores, scores > 0
        return scores, _exact(F.silu(F.linear(hidden, self.down)), self.up) > 0


def _exact(rows: Tensor, weight: Tensor) -> Tensor:
    """``[..., h]`` and ``[h]`` give ``[...]``, in float32 at least."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    return torch.matmul(rows.to(exact), weight.to(exact))


class RoutedBlock:
    """Before a family's decoder layer in the bases.

    Attributes:
        depth_router: what lets tokens in.
        place: of the cache's layer that has which were.
    """

    depth_router: DepthRouter
    place: int

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The block's output ``[b, q, h]`` where a token is let in, the input elsewhere.

        Args:
            hidden_states: ``[b, q, h]``.
            attention_mask: ``[b, 1, q, kv]``, True or 0 where attention is allowed; None where it
                is causal and nothing else.
            kwargs: as the family's layer takes them, the cache of the tokens before among them:
                ``cache``, or in a transformers before 5.24 ``past_key_values``.
        """
        scores, passes = self.depth_router(hidden_states)
        given = (kwargs.get(name) for name in ("cache", "past_key_values"))
        kept = next((one for one in given if one is not None), None)
        keys = passes if kept is None else self._kept(kept, passes)
        out = super().forward(  # type: ignore[misc]  # the family's
            hidden_states,
            attention_mask=_among(attention_mask, passes, keys),
            **kwargs,
        )
        change = (scores.unsqueeze(-1) * (out - hidden_states)).to(hidden_states.dtype)
        return hidden_states + torch.where(passes.unsqueeze(-1), change, 0)

    def _kept(self, kept: Cache, passes: Tensor) -> Tensor:
        """``[b, kv]``: which tokens were let in so far, of ``[b, q]`` new ones."""
        layers = kept.layers
        while len(layers) <= self.place:
            is_static = bool(layers) and isinstance(layers[0], StaticLayer)
            layers.append(StaticLayer(layers[0].max_cache_len) if is_static else DynamicLayer())
        marks = passes[:, None, :, None]
        found: Tensor = kept.update(marks, marks, self.place)[0]
        return found[:, 0, :, 0]


def _among(mask: Tensor | None, passes: Tensor, keys: Tensor) -> Tensor:
    """A mask ``[b, 1, q, kv]`` under which tokens that are let in see those alone.

    The others see what they would: their rows are not used, and nothing at all would be NaN.
    """
    queries, number = passes.shape[1], keys.shape[1]
    if mask is None:
        # Left out by transformers where a single token sees all, or where they begin together.
        whole = torch.ones(1, 1, queries, number, dtype=torch.bool, device=keys.device)
        mask = whole if queries == 1 else whole.tril()
    unseen = passes[:, None, :, None] & ~keys[:, None, None, :]
    if mask.dtype == torch.bool:
        return mask & ~unseen
    return mask.masked_fill(unseen, torch.finfo(mask.dtype).min)


class Routed:
    """Before a family's model in the bases.

    Args:
        config: the family's, with ``routed_layers``, numbered from 0, and of each its
            ``routed_thresholds``; and their ``routed_sampling``.
    """

    # What attends without a mask that can be read.
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the family's
        model: Any = self
        for order, number in enumerate(config.routed_layers):
            layer = model.model.layers[number]
            layer.__class__ = _routed(type(layer))  # type: ignore[arg-type]  # A class is hashable.
            layer.place = config.num_hidden_layers + order
            layer.depth_router = DepthRouter(
                config.hidden_size, config.routed_sampling, config.routed_thresholds[order]
            )
            model._no_split_modules = {*model._no_split_modules, type(layer).__name__}
        model.post_init()


@cache
def _routed(stock: type[nn.Module]) -> type[nn.Module]:
    return type(f"Routed{stock.__name__}", (RoutedBlock, stock), {})
