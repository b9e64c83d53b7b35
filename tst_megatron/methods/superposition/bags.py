"""Bags: runs of s contiguous tokens, and the weights their targets carry.

The one idea: a sample of bag size s is L + 1 whole bags of text. Inputs are bags 0 … L−1, targets
are bags 1 … L, so with s = 1 it is ordinary next-token training and nothing is special about it.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tst_megatron.methods.superposition.settings import BAG_WEIGHTS

BagWeights = Literal["uniform", "power", "exponential", "first", "mutual-information"]

EMPTY = -1
"""The id of a place in a bag that holds no token: it has no weight and gets no gradient."""

# Mutual information between tokens d apart in DCLM: C0 + a·d^k (arXiv 2605.06546, Appendix C).
_MUTUAL_INFORMATION_C0 = 3.63
_MUTUAL_INFORMATION_A = 1.35
_MUTUAL_INFORMATION_K = -1.25

_WEIGHT_OF_DISTANCE: dict[str, Callable[[int], float]] = {
    "uniform": lambda j: 1.0,
    "power": lambda j: 1.0 / j,
    "exponential": lambda j: math.exp(-j),
    "first": lambda j: 1.0 if j == 1 else 0.0,
    "mutual-information": lambda j: (
        _MUTUAL_INFORMATION_C0 + _MUTUAL_INFORMATION_A * j**_MUTUAL_INFORMATION_K
    ),
}


def bag_weights(name: BagWeights | str, bag_size: int) -> Tensor:
    """Weights of the places inside a target bag (arXiv 2605.06546, Appendix C).

    Args:
        name: ``uniform`` (1/s), ``power`` (∝ 1/j), ``exponential`` (∝ exp(−j)), ``first``
            (1, 0, …) or ``mutual-information`` (∝ C0 + a·j^k), for j = 1 … s.
        bag_size: s.

    Returns:
        ``[s]``, float32, on the CPU, summing to 1.

    Raises:
        ValueError: the name is unknown or ``bag_size`` is below 1.
    """
    if name not in _WEIGHT_OF_DISTANCE:
        raise ValueError(f"bag weights {name!r} are unknown: use one of {', '.join(BAG_WEIGHTS)}")
    if bag_size < 1:
        raise ValueError(f"bag size {bag_size} is below 1: use 1 or more")
    raw = [_WEIGHT_OF_DISTANCE[name](j) for j in range(1, bag_size + 1)]
    total = math.fsum(raw)
    return torch.tensor([weight / total for weight in raw], dtype=torch.float32)


def fold(text: Tensor, bag_size: int) -> Tensor:
    """Cut running text into bags: ``[..., n·s]`` → ``[..., n, s]``, a view.

    Raises:
        ValueError: the last dimension is not a multiple of ``bag_size``.
    """
    if text.shape[-1] % bag_size:
        raise ValueError(f"{text.shape[-1]} tokens cannot be cut into bags of {bag_size}")
    return text.unflatten(-1, (-1, bag_size))


def look_ahead(labels: Tensor, bag_size: int) -> Tensor:
    """The next s tokens of every position, from the next token of every position.

    Output superposition reads single tokens, so position i's target bag is the labels of i … i+s−1.
    Places past the end of the sample are `EMPTY`: nothing beyond the sample is read.

    Args:
        labels: ``[b, L]``, int64, the next token of every position.
        bag_size: s.

    Returns:
        ``[b, L, s]``, int64, contiguous.
    """
    return F.pad(labels, (0, bag_size - 1), value=EMPTY).unfold(1, bag_size, 1).contiguous()


def end_with_document(bags: Tensor, eod: int) -> Tensor:
    """Empty the places after a bag's first end-of-document token.

    Args:
        bags: ``[..., s]``, int64.
        eod: id of the end-of-document token.

    Returns:
        ``[..., s]``, int64.
    """
    is_end = bags == eod
    return bags.masked_fill(is_end.cumsum(dim=-1) - is_end.long() > 0, EMPTY)


def last_tokens(bags: Tensor) -> Tensor:
    """The last token of every bag, `EMPTY` where it has none: ``[..., s]`` → ``[...]``, int64."""
    places = torch.arange(bags.shape[-1], device=bags.device)
    last = places.where(bags != EMPTY, 0).amax(dim=-1, keepdim=True)
    return bags.gather(-1, last).squeeze(-1)


def weights_of_filled(weights: Tensor, targets: Tensor) -> Tensor:
    """Give the weights of `EMPTY` places to the filled places of the same bag.

    Args:
        weights: ``[s]``, float32, summing to 1.
        targets: ``[..., s]``, int64.

    Returns:
        ``[..., s]``, float32, summing to 1 where a place with weight is filled and to 0 elsewhere.
    """
    filled = weights * (targets != EMPTY)
    total = filled.sum(dim=-1, keepdim=True)
    return filled / total.masked_fill(total == 0.0, 1.0)
