"""Which layer of the small model each layer of the grown one copies.

The one idea: every way to grow in depth is a list. Layer i of the grown model takes all tensors of
layer ``list[i]`` of the small one (G_stack, arXiv 2405.15319: the ``stacking_list`` of its code);
what else an operator does, it does to layers of that list.
"""

from dataclasses import dataclass
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.stock.layer_kinds import kinds_of, pattern_of

OPERATORS = ("stack", "interleave", "middle", "zero")
"""Names of lists; any other word is a list itself, such as ``0-23,8-31``."""


@dataclass(frozen=True)
class LayerMap:
    """Where the grown model's layers come from.

    Attributes:
        small: layers of the small model.
        sources: of each layer of the grown one, in order, the layer that it copies; from 0.
        silent: layers of the grown one that add nothing at first: what attention and MLP give back
            to the residual stream is set to 0, so that the function is the small model's.
    """

    small: int
    sources: tuple[int, ...]
    silent: frozenset[int] = frozenset()

    @property
    def first(self) -> tuple[int, ...]:
        """Of each layer of the grown model, the first one that copies the same."""
        return tuple(self.sources.index(source) for source in self.sources)


@dataclass(frozen=True)
class GrowthFlags:
    """How a checkpoint grows, as flags say it.

    Attributes:
        operator: of `layer_map`.
        large: layers of the grown model.
        noise: share of it in the layers that repeat another; 0 for none.
        keeps_optimizer: whether moments are copied with their layers, or all begin at 0.
        seed: of the noise; None for the small model's own.
        width: how it becomes wider, one of `width.OPERATORS`; None where it does not.
        wide: Megatron's arguments that say how wide the grown model is, where it becomes wider.
    """

    operator: str | None
    large: int
    noise: float = 0.0
    keeps_optimizer: bool = True
    seed: int | None = None
    width: str | None = None
    wide: Any = None


def layer_map(operator: str | None, small: int, large: int) -> LayerMap:
    """The list of an operator.

    ``stack`` repeats the whole small model, ``l0 l1 l0 l1`` (G_direct). ``interleave`` repeats each
    layer in its place, ``l0 l0 l1 l1``. ``middle`` keeps the front and the back and repeats a block
    in the middle (MIDAS, arXiv 2409.19044): of the sizes that fill the new layers exactly the
    largest that is at most half of the small model. ``zero`` is ``stack`` with all repeats silent
    (G_zero). A list may copy any layers in any order, and leave some out (SOLAR, arXiv 2312.15166:
    ``0-23,8-31``).

    Args:
        operator: one of `OPERATORS`, or a list; None where the layers stay as they are.
        small: layers of the small model.
        large: layers of the grown one.

    Raises:
        UserError: the layers do not fit the operator.
    """
    if operator is None:
        if large != small:
            raise UserError(
                f"--grow-width by itself keeps the layers, and the model has {large} and the "
                f"checkpoint {small}: say with --grow how they become so many, or change "
                "--num-layers"
            )
        return LayerMap(small, tuple(range(small)))
    if operator not in OPERATORS:
        return LayerMap(small, _listed(operator, small, large))
    if large <= small:
        raise UserError(
            f"--grow {operator} makes a model deeper, and {large} layers are not more than the "
            f"{small} of the checkpoint: raise --num-layers, or give a list of layers"
        )
    if operator == "middle":
        return LayerMap(small, _middle(small, large))
    if large % small:
        raise UserError(
            f"--grow {operator} repeats whole models, and {large} layers are no multiple of the "
            f"checkpoint's {small}: change --num-layers, or give a list such as "
            f"0-{small - 1},{f'0-{large % small - 1}' if large % small > 1 else '0'}"
        )
    if operator == "interleave":
        return LayerMap(small, tuple(layer * small // large for layer in range(large)))
    sources = tuple(layer % small for layer in range(large))
    silent = frozenset(range(small, large)) if operator == "zero" else frozenset()
    return LayerMap(small, sources, silent)


def grown_layers(operator: str | None, saved: Any, args: Any) -> LayerMap:
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


def _middle(small: int, large: int) -> tuple[int, ...]:
    more = large - small
    block = max(size for size in range(1, max(1, small // 2) + 1) if more % size == 0)
    start = (small - block) // 2
    end = start + block
    repeats = more // block
    return (*range(end), *(tuple(range(start, end)) * repeats), *range(end, small))


def _listed(words: str, small: int, large: int) -> tuple[int, ...]:
    found: list[int] = []
    for word in words.split(","):
        first, dash, last = word.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            names = ", ".join(OPERATORS)
            raise UserError(
                f"--grow {words} is neither one of {names} nor a list of layers such as 0-5,2-5"
            )
        low, high = int(first), int(last or first)
        if high < low:
            raise UserError(f"--grow {words}: {word} runs backwards; name its layers one by one")
        found += range(low, high + 1)
    if max(found) >= small:
        raise UserError(
            f"--grow {words} names layer {max(found)}, and the checkpoint's layers are 0 to "
            f"{small - 1}"
        )
    if len(found) != large:
        raise UserError(
            f"--grow {words} lists {len(found)} layers, and the model has --num-layers {large}: "
            "make them the same"
        )
    return tuple(found)
