"""A recipe's model as its twin, a HybridModel (``NAME+hybrid``).

The one idea: a block of Megatron's ``GPTModel``, which it has deprecated, is two layers of a
``HybridModel``, attention and an MLP or experts. So the twin follows from the recipe: a pattern in
the place of a number of layers, and what counts layers counts twice as many. Both train to the same
losses, in every bit on a CPU.
"""

from collections.abc import Mapping
from typing import Any

from tst_megatron.errors import UserError

HYBRID = "hybrid"
"""Behind a recipe's name."""
_PATTERN = "hybrid-layer-pattern"
_COUNTS = ("num-layers-at-start-in-bf16", "num-layers-at-end-in-bf16", "recompute-num-layers")
_OTHERWISE = (
    "mtp-num-layers",
    "mod-capacity",
    "linear-attention-freq",
    "decoder-first-pipeline-num-layers",
    "decoder-last-pipeline-num-layers",
    "num-layers-per-virtual-pipeline-stage",
    "num-virtual-stages-per-pipeline-rank",
    "pipeline-model-parallel-layout",
)
"""What is of a GPTModel's blocks, or is said in the pattern there."""


def of_twin(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that make the twin of a recipe's model, in the place of its own.

    Args:
        name: of the recipe.
        values: its flags, without dashes in front.

    Raises:
        UserError: it has no twin.
    """
    given = {key for key, value in values.items() if value not in (None, False)}
    if _PATTERN in given:
        raise UserError(f"the recipe {name} is a HybridModel's already: leave +{HYBRID} out")
    if "num-layers" not in given:
        raise UserError(f"the recipe {name} has no num-layers, so +{HYBRID} has nothing to go by")
    if several := sorted(given.intersection(_OTHERWISE)):
        raise UserError(
            f"the recipe {name} has {several[0]}, which is of a GPTModel's blocks: leave +{HYBRID} "
            "out"
        )
    counts = {key: 2 * int(values[key]) for key in _COUNTS if key in given}
    return {
        _PATTERN: "".join(_blocks(name, values)),
        "num-layers": None,
        "moe-layer-freq": None,
        **counts,
    }


def _blocks(name: str, values: Mapping[str, Any]) -> list[str]:
    """The letters of each block."""
    layers = int(values["num-layers"])
    if not values.get("num-experts"):
        return ["*-"] * layers
    frequency = values.get("moe-layer-freq") or 1
    if isinstance(frequency, int):
        return ["*-" if layer % frequency else "*E" for layer in range(layers)]
    if isinstance(frequency, list) and len(frequency) == layers:
        return ["*E" if one else "*-" for one in frequency]
    raise UserError(
        f"the recipe {name} has moe-layer-freq {frequency}: for +{HYBRID} write it as a number or "
        f"as a list of {layers}"
    )
