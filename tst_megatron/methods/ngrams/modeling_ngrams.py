"""Models of transformers that add hashed n-grams to the embedding of a token.

The one idea: n-grams are of ids, so the model is asked with those, and ids seen before are kept in
a further layer of the cache, in the place of keys: whatever is done to a cache is done to them. An
id that attention is not to see is in no n-gram.

tst-megatron writes this file as it is beside a model's weights, for ``trust_remote_code=True``: it
needs transformers alone, of version 5.
"""

from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer

from .ngram_hashing import NOTHING, rows_of

# As it is called from 5.24 on, and before.
_CACHES = ("cache", "past_key_values")
_CACHE = next(name for name in _CACHES if name in signature(LlamaModel.forward).parameters)


class NgramTables(nn.Module):
    """A vector of every token: the sum of the rows of the n-grams that end with it.

    Args:
        hidden_size: h.
        orders: lengths of n-grams, in order.
        num_rows: of the table of a length.
        end: the token that ends a document, if there is one.
    """

    def __init__(self, hidden_size: int, orders: list[int], num_rows: int, end: int | None) -> None:
        super().__init__()
        self.orders, self.num_rows, self.end = orders, num_rows, end
        self.weight = nn.Parameter(torch.zeros(len(orders) * num_rows, hidden_size))

    @property
    def reach(self) -> int:
        """Tokens before one that its longest n-gram has."""
        return self.orders[-1] - 1

    def forward(self, tokens: Tensor, before: Tensor) -> Tensor:
        """``[b, q, h]`` of tokens ``[b, q]`` and those before them, ``[b, reach]``, int64 both,
        `NOTHING` where there is none.
        """
        rows = rows_of(tokens, before, self.orders, self.num_rows, self.end)
        sums = F.embedding_bag(rows.flatten(0, 1), self.weight, mode="sum")
        return sums.view(*tokens.shape, -1)


class NgramModel:
    """Before a family's model in the bases.

    Attributes:
        ngram_embeddings: the tables.
        ngram_place: of the cache's layer that has the ids.
    """

    ngram_embeddings: NgramTables
    ngram_place: int

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Mapping[str, Tensor] | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The family's, of ``input_ids`` ``[b, q]`` with their n-grams.

        Args:
            input_ids: ``[b, q]``, int64.
            attention_mask: ``[b, kv]``, 0 where a token is not to be seen; or ``[b, 1, q, kv]``
                (perhaps by kinds of layers), True or 0 where attention is allowed.
            inputs_embeds: none.
            use_cache: default the configuration's.
            kwargs: as the family's model takes them, the cache of the tokens before among them.

        Raises:
            ValueError: vectors are given in the place of ids.
        """
        model: Any = self
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("n-grams are looked up by ids: give input_ids and no inputs_embeds")
        use_cache = model.config.use_cache if use_cache is None else use_cache
        kept = _taken_out(kwargs)
        if use_cache and kept is None:
            kept = DynamicCache(config=model.config)
        seen = 0 if kept is None else self._seen(kept)
        tokens = torch.where(_is_there(input_ids, attention_mask, seen), input_ids, NOTHING)
        before = self._before(kept, tokens, seen)
        return super().forward(  # type: ignore[misc]  # the family's
            attention_mask=attention_mask,
            inputs_embeds=model.embed_tokens(input_ids) + self.ngram_embeddings(tokens, before),
            use_cache=use_cache,
            **{_CACHE: kept},
            **kwargs,
        )

    def _seen(self, kept: Cache) -> Any:
        """How many ids are in the cache: a number, or a tensor of one."""
        layers = kept.layers
        while len(layers) <= self.ngram_place:
            is_static = bool(layers) and isinstance(layers[0], StaticLayer)
            layers.append(StaticLayer(layers[0].max_cache_len) if is_static else DynamicLayer())
        return kept.get_seq_length(self.ngram_place)

    def _before(self, kept: Cache | None, tokens: Tensor, seen: Any) -> Tensor:
        """The last ids of those that were seen, ``[b, reach]``; keeps the new ones, ``[b, q]``."""
        reach = self.ngram_embeddings.reach
        if kept is None:
            return tokens.new_full((len(tokens), reach), NOTHING)
        # A cache of a fixed size is first filled with zeros; none of them is looked at.
        places = torch.arange(-reach, 0, device=tokens.device) + seen
        marks = tokens[:, None, :, None]
        found: Tensor = kept.update(marks, marks, self.ngram_place)[0]
        last = found[:, 0, places.clamp(min=0), 0]
        return torch.where(places >= 0, last, NOTHING)


def _taken_out(kwargs: dict[str, Any]) -> Cache | None:
    """The cache, by whichever name it is given."""
    found = [kwargs.pop(name, None) for name in _CACHES]
    return next((one for one in found if one is not None), None)


def _is_there(ids: Tensor, mask: Tensor | Mapping[str, Tensor] | None, seen: Any) -> Tensor:
    """Which of the ids, ``[b, q]``, stand for text and do not fill up a batch."""
    seeing = next(iter(mask.values())) if isinstance(mask, Mapping) else mask
    if seeing is None:
        return torch.ones_like(ids, dtype=torch.bool)
    number = ids.shape[1]
    own = torch.arange(number, device=ids.device)
    if seeing.dim() == 2:
        return seeing[:, own + seen] != 0
    sees_itself = seeing[:, 0, own, own + seen]
    return sees_itself if seeing.dtype == torch.bool else sees_itself == 0


class Ngrams:
    """Before a family's model with a head in the bases.

    Args:
        config: the family's, with ``ngram_rows`` of each table, ``ngram_orders`` and ``ngram_end``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the family's
        model: Any = self
        inner = model.model
        inner.__class__ = _with_ngrams(type(inner))  # type: ignore[arg-type]  # It is hashable.
        inner.ngram_embeddings = NgramTables(
            config.hidden_size, config.ngram_orders, config.ngram_rows, config.ngram_end
        )
        # Behind layers of the family's, and those that routed blocks have.
        inner.ngram_place = config.num_hidden_layers + len(getattr(config, "routed_layers", ()))
        model.post_init()


@cache
def _with_ngrams(stock: type[nn.Module]) -> type[nn.Module]:
    return type(f"Ngram{stock.__name__}", (NgramModel, stock), {})
