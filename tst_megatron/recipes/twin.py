"""A recipe's model as its twin, a HybridModel (``NAME+hybrid``).

The one idea: a block of Megatron's ``GPTModel``, which it has deprecated, is two layers of a
``HybridModel``, attention and an MLP or experts. So the twin follows from the recipe: a pattern in
the place of a number of layers, and what counts layers counts twice as many. Both train to the same
losses, in every bit on a CPU.
"""

from collections.abc import Collection, Mapping
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods

HYBRID = "hybrid"
"""Behind a recipe's name."""
_PATTERN = "hybrid-layer-pattern"
_COUNTS = ("num-layers-at-start-in-bf16", "num-layers-at-end-in-bf16", "recompute-num-layers")
_OTHERWISE = (
    "mtp-num-layers",
    "multi-latent-attention",
    "experimental-attention-variant",
    "heterogeneous-layers-config-path",
    "linear-attention-freq",
    "no-rope-freq",
    "window-attn-skip-freq",
    "decoder-first-pipeline-num-layers",
    "decoder-last-pipeline-num-layers",
    "num-layers-per-virtual-pipeline-stage",
    "num-virtual-stages-per-pipeline-rank",
    "pipeline-model-parallel-layout",
)
"""What counts a GPTModel's layers, is another thing in a pattern, or is said by it."""


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
    if several := sorted(given & _of_blocks()):
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


def check_beside(name: str, values: Mapping[str, Any], given: Collection[str]) -> None:
    """Check that flags beside a recipe do not change a pattern that they would not be read for.

    Args:
        name: of the recipe.
        values: its flags, without dashes in front.
        given: flags after it, likewise.

    Raises:
        UserError: one would be passed over.
    """
    pattern = values.get(_PATTERN)
    if not pattern or _PATTERN in given:
        return
    of_size = {"num-layers", "moe-layer-freq"} | _of_blocks()
    if not values.get("num-experts"):
        of_size |= {"num-experts"}
    if passed_over := sorted(of_size.intersection(given)):
        raise UserError(
            f"--{passed_over[0]} beside --recipe {name}, whose model has the pattern {pattern}: "
            "give --hybrid-layer-pattern with it, such as '*-*-' or '*E*E' for two blocks"
        )


def _of_blocks() -> set[str]:
    asking = (flag for method in methods() if method.works_on_blocks for flag in method.asked_by)
    return {*_OTHERWISE, *asking}


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
