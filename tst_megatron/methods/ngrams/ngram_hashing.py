"""Which row of a table an n-gram has: integers alone, the same on every machine.

The one idea: an n-gram is a number in base P, modulo 2^64, which grows by a digit as it reaches one
token further back, so that all lengths cost one walk. A last mixing makes every bit count before
the remainder is taken. int64 wraps on a CPU as on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NOTHING = -1
"""In the place of a token that is not there: before a text, and where a bag is not full."""

_BITS = 64


def _signed(number: int) -> int:
    """As int64 has it."""
    number %= 2**_BITS
    return number - 2**_BITS if number >= 2 ** (_BITS - 1) else number


_BASE = _signed(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, which is odd.
# The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
_MIXERS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def rows_of(
    tokens: Tensor, before: Tensor, orders: Sequence[int], num_rows: int, end: int | None
) -> Tensor:
    """The rows of the n-grams that end with each token.

    No n-gram reaches over the end of a document, over a place that is empty or back before the
    text: it is then of the tokens that there are, and has a row of its own.

    Args:
        tokens: ``[b, n]``, int64, `NOTHING` in empty places.
        before: ``[b, t]``, int64: the tokens that come before them, `NOTHING` where there are none;
            t at least the longest order less one.
        orders: lengths, in order.
        num_rows: of a table.
        end: the token that ends a document, if there is one.

    Returns:
        ``[b, n, orders]``, int64: rows of the tables laid one after another.
    """
    reached, length = before.shape[1], tokens.shape[1]
    # 0 for what is not there, which is so no digit.
    digits = torch.cat((before, tokens), dim=1) + 1
    number, power = torch.zeros_like(tokens), 1
    goes_on = torch.ones_like(tokens, dtype=torch.bool)
    found: list[Tensor] = []
    for back in range(orders[-1]):
        further = digits[:, reached - back : reached - back + length]
        if back:
            goes_on = goes_on & (further > 0)
            if end is not None:
                goes_on = goes_on & (further != end + 1)
        number = number + torch.where(goes_on, further, 0) * power
        power = _signed(power * _BASE)
        if back + 1 in orders:
            # Of two lengths' tables the same n-gram, cut at a document, has unlike rows.
            row = torch.remainder(_mixed(number + _signed(back * _BASE)), num_rows)
            found.append(row + len(found) * num_rows)
    return torch.stack(found, dim=-1)


def _mixed(number: Tensor) -> Tensor:
    for shift, factor in _MIXERS:
        # torch shifts signed numbers arithmetically.
        shifted = (number >> shift) & (2 ** (_BITS - shift) - 1)
        number = (number ^ shifted) * factor
    return number
