"""Which tokens a routed block takes, and their rows out of the sequence and back into it.

The one idea: chosen tokens stay in their order, so that attention among them is causal as ever. The
highest scores are a fixed number of tokens in every part of a sequence; what passes a rule is any
number, and where sequences of a batch differ in it the shorter ones are filled up at their end,
which no token before it attends to.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chosen:
    """Tokens of a batch of sequences.

    Attributes:
        positions: ``[k, b]``, int64, places in the sequence; in order, those that fill up last.
        fills: ``[k, b]``, bool, True where a place only fills up; None where none does.
    """

    positions: Tensor
    fills: Tensor | None = None


def highest(scores: Tensor, number: int, parts: int) -> Tensor:
    """The positions of the highest scores of every part, in order.

    Args:
        scores: ``[L, b]``, float32.
        number: k, in all parts together; a multiple of them.
        parts: equal parts of a sequence, each of which has as many.

    Returns:
        ``[k, b]``, int64.
    """
    length = scores.shape[0] // parts
    of_part = scores.detach().reshape(parts, length, -1)
    found = of_part.topk(number // parts, dim=1, sorted=False).indices.sort(dim=1).values
    begins = torch.arange(0, parts * length, length, device=scores.device)
    return (found + begins.view(-1, 1, 1)).flatten(0, 1)


def last_chosen(scores: Tensor, positions: Tensor, parts: int) -> Tensor:
    """The lowest score that was chosen of every part: ``[parts, b]`` of scores ``[L, b]``."""
    chosen = scores.detach().gather(0, positions)
    return chosen.view(parts, -1, scores.shape[1]).amin(dim=1)


def passing(passes: Tensor, unit: int, least: int = 0) -> Chosen:
    """All tokens that pass, in order.

    Args:
        passes: ``[L, b]``, bool.
        unit: the number of places is a multiple of it, as far as L goes.
        least: of places.

    Returns:
        As many places as the sequence with the most of them needs; this waits for the GPU.
    """
    length = passes.shape[0]
    numbers = passes.sum(dim=0)
    places = max(int(numbers.max()), least)
    places = min(-(-places // unit) * unit, length)
    # Those that pass come first, in order, and then the others, in theirs.
    positions = passes.logical_not().to(torch.uint8).sort(dim=0, stable=True).indices[:places]
    fills = torch.arange(places, device=passes.device).unsqueeze(1) >= numbers
    return Chosen(positions, fills)


def taken(sequence: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[k, b, h]`` of a sequence ``[L, b, h]`` at positions ``[k, b]``, and the sequence,
    for what else is made of it."""
    found: tuple[Tensor, Tensor] = _Taken.apply(sequence, positions)
    return found


class _Taken(torch.autograd.Function):
    """The gradient of the rows is added to that of the sequence where it comes by: as a tensor of
    its own it would be one of zeros but for a few rows, as large as the sequence."""

    @staticmethod
    def forward(ctx: Any, sequence: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `taken`."""
        ctx.save_for_backward(positions)
        ctx.shape = sequence.shape
        ctx.set_materialize_grads(False)
        rows = sequence.reshape(-1, sequence.shape[-1]).index_select(0, _flat(positions))
        return rows.view(*positions.shape, -1), sequence

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, passed: Tensor | None
    ) -> tuple[Tensor | None, None]:
        """Of the sequence."""
        if grad is None:
            return passed, None
        (positions,) = ctx.saved_tensors
        if passed is None:
            passed = grad.new_zeros(ctx.shape)
        return added(passed, positions, grad), None


def added(sequence: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """A sequence ``[L, b, h]`` with rows ``[k, b, h]`` added at positions ``[k, b]``."""
    flat = sequence.reshape(-1, sequence.shape[-1])
    found = flat.index_add(0, _flat(positions), rows.reshape(-1, rows.shape[-1]))
    return found.view_as(sequence)


def _flat(positions: Tensor) -> Tensor:
    """Rows of ``[L·b]`` for positions ``[k, b]``."""
    batch = positions.shape[1]
    return (positions * batch + torch.arange(batch, device=positions.device)).flatten()
