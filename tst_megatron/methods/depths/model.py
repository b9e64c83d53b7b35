"""A model of Megatron's with routed blocks in it."""

from typing import Any

from tst_megatron.methods.depths.block import Now, Routed, RoutedBlock, route
from tst_megatron.methods.depths.router import DepthRouter, Rule, mark
from tst_megatron.methods.depths.settings import Routing
from tst_megatron.methods.depths.split import Split


def route_all(chunks: list[Any], routing: Routing, now: Now, seed: int) -> list[Any]:
    """Turn blocks of this rank's model chunks into routed ones, in place.

    Args:
        chunks: as Megatron has just built them: ``GPTModel`` or ``HybridModel``.
        routing: of the run.
        now: of the run.
        seed: of the run.

    Returns:
        The chunks, as Megatron's ``pre_wrap_hooks`` do.
    """
    rule = Rule(routing.sampling, routing.choice, routing.coefficient, routing.decay)
    for layer in (layer for chunk in chunks for layer in chunk.decoder.layers):
        capacity = routing.blocks.get(layer.layer_number)
        if capacity is None:
            continue
        config = layer.config
        like = next(layer.parameters())
        router = DepthRouter(
            config.hidden_size, rule, config.init_method_std, seed, layer.layer_number, like
        )
        mark(router, config)
        route(layer, router, Routed(routing, capacity, now, Split.of(layer)))
    return chunks


def routed_blocks(chunks: list[Any]) -> list[Any]:
    """The routed blocks of this rank, by their order.

    Args:
        chunks: wrapped for data parallelism or not.
    """
    return [one for chunk in chunks for one in chunk.modules() if isinstance(one, RoutedBlock)]


def shares_at_work(chunk: Any) -> dict[str, float]:
    """The share of the tokens that parameters of routed blocks work on, by name in a chunk."""
    return {
        f"{place}.{name}": block.depths.capacity
        for place, block in chunk.named_modules()
        if isinstance(block, RoutedBlock)
        for name, _ in block.named_parameters()  # type: ignore[attr-defined]  # the layer's
        if not name.startswith("depth_router.")
    }
