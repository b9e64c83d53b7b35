"""Numbers on the command lines of ``tst-megatron scaling``: sizes, lengths and budgets."""

import math
from collections.abc import Sequence

from tst_megatron.errors import UserError

_LETTERS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def amount(flag: str, word: str) -> float:
    """A number above 0, as ``3e9`` or ``3B``.

    Raises:
        UserError: it is none.
    """
    text = word.strip().lower()
    scale = _LETTERS.get(text[-1:], 1.0)
    try:
        value = float(text[:-1] if scale != 1.0 else text) * scale
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{flag} {word} is no number above 0: give one such as 3e9, 3B or 300M")
    return value


def amounts(flag: str, words: Sequence[str]) -> list[float]:
    """Likewise of several, with commas or blanks between.

    Raises:
        UserError: one is none, or there is none.
    """
    found = [amount(flag, part) for word in words for part in word.split(",") if part.strip()]
    if not found:
        raise UserError(f"{flag} names no number: give one such as 3e9, 3B or 300M")
    return found
