"""Functions of Megatron's that are wrapped by name: whether they take what the wrappers rely on."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any


def check_takes(place: str, function: Callable[..., Any], needed: Sequence[str]) -> None:
    """Check the first arguments of a function; wrappers hand on whatever comes after them.

    Args:
        place: of the function, dotted.
        function: Megatron's.
        needed: names of its first arguments, in order.

    Raises:
        RuntimeError: this version of Megatron has another function.
    """
    found = tuple(signature(function).parameters)
    if found[: len(needed)] != tuple(needed):
        raise RuntimeError(
            f"{place} takes {found}: install the megatron-core version in requirements/"
        )
