"""Loops over bytes, compiled once and kept."""

from collections.abc import Callable
from typing import Any, cast

from numba import njit


def compiled[F: Callable[..., Any]](function: F) -> F:
    """numba's, with its cache beside the source or in the user's folder; without one where neither
    can be written to, where numba itself gives up."""
    made: Any
    try:
        made = njit(cache=True)(function)
    except RuntimeError:
        made = njit(function)
    return cast(F, made)
