"""A model of Megatron's with tables of n-grams in it.

The one idea: ours is added to what Megatron's table of tokens gives, by a hook on that. So bags,
heads of multi-token prediction and whatever else asks the model's embedding have n-grams too.
"""

from collections.abc import Sequence
from typing import Any

from megatron.core import parallel_state
from torch import Tensor

from tst_megatron.methods.ngrams.embedding import NgramEmbedding


def add_to_all(
    chunks: list[Any],
    orders: Sequence[int],
    num_rows: int,
    end: int | None,
    packed_length: int | None,
) -> list[Any]:
    """Add tables to this rank's model chunks that have an embedding, in place.

    Args:
        chunks: as Megatron has just built them: ``GPTModel`` or ``HybridModel``.
        orders: lengths of n-grams, in order.
        num_rows: of the table of a length.
        end: the token that ends a document, if there is one.
        packed_length: as in `NgramEmbedding`.

    Returns:
        The chunks, as Megatron's ``pre_wrap_hooks`` do.
    """
    for chunk in (one for one in chunks if hasattr(one, "embedding")):
        words = chunk.embedding.word_embeddings
        ngrams = NgramEmbedding(
            orders,
            num_rows,
            end,
            packed_length,
            words,
            parallel_state.get_context_parallel_group(),
        )
        chunk.embedding.ngram_embeddings = ngrams
        words.register_forward_hook(_Adding(ngrams))
    return chunks


class _Adding:
    """A hook on a table of tokens."""

    def __init__(self, ngrams: NgramEmbedding) -> None:
        self._ngrams = ngrams

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """What the table gave, and the n-grams': both ``[b, L/cp, h]`` or ``[L/cp/tp, b, h]``."""
        return output + self._ngrams(inputs[0])
