"""What kind each layer of a model is, from Megatron's arguments.

The one idea: a letter a layer, so that two models' layers can be told apart and counted.
"""

from collections.abc import Callable
from typing import Any

# (linear attention, experts)
_KINDS = {
    (False, False): "-",
    (False, True): "E",
    (True, False): "l",
    (True, True): "L",
}


WITH_EXPERTS = ("E", "L")
"""Letters of layers with experts."""


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


def are_numbered(args: Any) -> bool:
    """Whether a model's layers are saved under a number each (``TransformerBlock`` and
    ``HybridStack``), and not with an axis of layers.

    Args:
        args: Megatron's arguments, a run's or a checkpoint's.
    """
    if pattern_of(args) is not None:
        return True
    for name in ("moe_layer_freq", "linear_attention_freq"):
        value = getattr(args, name, None)
        if isinstance(value, list | tuple) or (isinstance(value, int) and value > 1):
            return True
    return False


def _of_each(given: Any, layers: int, is_one: Callable[[int, int], bool]) -> list[int]:
    """A list as it is; what a number says of each layer."""
    if isinstance(given, int):
        return [int(is_one(given, layer)) for layer in range(layers)]
    return [int(one) for one in given]


def pattern_of(args: Any) -> str | None:
    """A hybrid model's; None of another one's."""
    found = getattr(args, "hybrid_layer_pattern", None)
    # As it was called before.
    return found or getattr(args, "hybrid_override_pattern", None) or None
