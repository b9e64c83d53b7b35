"""A model of Megatron's with no-op experts in it."""

from typing import Any

from megatron.core.transformer.moe.moe_layer import MoELayer

from tst_megatron.methods.noop_experts.dispatcher import count_in
from tst_megatron.methods.noop_experts.router import NoopRouter, add_noops


def add_to_all(chunks: list[Any], number: int, seed: int) -> list[Any]:
    """Add no-op experts to every layer with experts of this rank's model chunks, in place; to
    those of multi-token prediction as well.

    Args:
        chunks: as Megatron has just built them: ``GPTModel`` or ``HybridModel``.
        number: N, of a layer.
        seed: of the run.

    Returns:
        The chunks, as Megatron's ``pre_wrap_hooks`` do.
    """
    for layer in (one for chunk in chunks for one in chunk.modules() if isinstance(one, MoELayer)):
        add_noops(layer.router, number, seed)
        count_in(layer.token_dispatcher)
    return chunks


def routers_of(chunks: list[Any]) -> list[Any]:
    """The routers of this rank, by their order.

    Args:
        chunks: wrapped for data parallelism or not.
    """
    return [one for chunk in chunks for one in chunk.modules() if isinstance(one, NoopRouter)]
