"""What kind each layer of a model is, from Megatron's arguments: a layer is copied to its like."""

from collections.abc import Callable
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.growth.layers import LayerMap, layer_map

# (linear attention, experts)
_KINDS = {
    (False, False): "-",
    (False, True): "E",
    (True, False): "l",
    (True, True): "L",
}


def kinds_of(args: Any) -> str:
    """A letter a layer: a hybrid model's own, else whether the layer's MLP has experts, and whether
    its attention is a linear one.

    Args:
        args: Megatron's validated arguments, a run's or a checkpoint's.
    """
    pattern = pattern_of(args)
    if pattern is not None:
        # Behind a slash are the layers of multi-token prediction, which are copied as they are.
        return str(pattern).partition("/")[0].replace("|", "")
    layers = int(args.num_layers)
    experts = [0] * layers
    if getattr(args, "num_experts", None):
        experts = _of_each(getattr(args, "moe_layer_freq", 1), layers, lambda n, i: i % n == 0)
    linear = [0] * layers
    if every := getattr(args, "linear_attention_freq", None):
        # The last of every so many is ordinary.
        linear = _of_each(every, layers, lambda n, i: (i + 1) % n != 0)
    return "".join(
        _KINDS[bool(one), bool(other)] for one, other in zip(linear, experts, strict=True)
    )


def _of_each(given: Any, layers: int, is_one: Callable[[int, int], bool]) -> list[int]:
    """A list as it is; what a number says of each layer."""
    if isinstance(given, int):
        return [int(is_one(given, layer)) for layer in range(layers)]
    return [int(one) for one in given]


def grown_layers(operator: str, saved: Any, args: Any) -> LayerMap:
    """The list by which a checkpoint's model becomes a run's.

    Args:
        operator: as `layer_map` takes it.
        saved: the checkpoint's arguments.
        args: the run's.

    Raises:
        UserError: they do not fit, or a layer would be copied to one of another kind.
    """
    small, large = kinds_of(saved), kinds_of(args)
    if (pattern_of(saved) is None) != (pattern_of(args) is None):
        raise UserError(
            "--grow copies layers between models of one class, and of checkpoint and run only one "
            "has a --hybrid-layer-pattern: give both one, or neither"
        )
    found = layer_map(operator, len(small), len(large))
    for layer, source in enumerate(found.sources):
        if large[layer] != small[source]:
            by = "--hybrid-layer-pattern" if pattern_of(args) is not None else "--moe-layer-freq"
            raise UserError(
                f"--grow {operator} copies layer {source} of the checkpoint ({small[source]}) to "
                f"layer {layer} of the model ({large[layer]}), which is of another kind: change "
                f"{by} so that each layer is of its source's kind"
            )
    return found


def pattern_of(args: Any) -> str | None:
    """A hybrid model's; None of another one's."""
    found = getattr(args, "hybrid_layer_pattern", None)
    # As it was called before.
    return found or getattr(args, "hybrid_override_pattern", None) or None
