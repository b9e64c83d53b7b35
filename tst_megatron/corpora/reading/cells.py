"""A cell of CSV as ``--where`` sees it.

The one idea: a cell is text, and what it says depends on what stands beside it. Beside a text it is
its text; beside anything else it is the number or the boolean that it says, as Python has them, so
that a filter keeps the rows that it would keep of the same records in JSON.
"""

import operator
import re
from typing import Any

# As JSON writes numbers, so that what begins with zeros stays a text.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


class Cell(str):
    """A cell that is not empty.

    Where Python raises `TypeError` (a text and a number are in no order, and have no sum), so does
    this, and where a text is asked whether it is true or false.
    """

    __slots__ = ()

    def _says(self) -> Any:
        """The number or the boolean that it says, else its text."""
        found = _NUMBER.fullmatch(self)
        if found is None:
            return _BOOLEANS.get(self.lower(), str(self))
        return float(self) if found[2] or found[3] else int(self)

    def _says_no_text(self) -> Any:
        said = self._says()
        if isinstance(said, str):
            raise TypeError(f"{said[:40]!r} is neither true nor false")
        return said

    def _beside(self, other: Any) -> tuple[Any, Any]:
        """This and another value as they are to be taken together."""
        if isinstance(other, Cell):
            return self._says(), other._says()
        if isinstance(other, str):
            return str(self), other
        if isinstance(other, bool):
            return self._says_no_text(), other
        return self._says(), other

    def __eq__(self, other: object) -> bool:
        return bool(operator.eq(*self._beside(other)))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return bool(operator.lt(*self._beside(other)))

    def __le__(self, other: Any) -> bool:
        return bool(operator.le(*self._beside(other)))

    def __gt__(self, other: Any) -> bool:
        return bool(operator.gt(*self._beside(other)))

    def __ge__(self, other: Any) -> bool:
        return bool(operator.ge(*self._beside(other)))

    def __contains__(self, other: Any) -> bool:
        return operator.contains(*self._beside(other))

    def __add__(self, other: Any) -> Any:
        return operator.add(*self._beside(other))

    def __radd__(self, other: Any) -> Any:
        return operator.add(*reversed(self._beside(other)))

    def __sub__(self, other: Any) -> Any:
        return operator.sub(*self._beside(other))

    def __rsub__(self, other: Any) -> Any:
        return operator.sub(*reversed(self._beside(other)))

    def __truediv__(self, other: Any) -> Any:
        return operator.truediv(*self._beside(other))

    def __rtruediv__(self, other: Any) -> Any:
        return operator.truediv(*reversed(self._beside(other)))

    def __mul__(self, other: Any) -> Any:
        factors = self._beside(other)
        if any(isinstance(factor, str) for factor in factors):
            raise TypeError("can't multiply 'str'")
        return operator.mul(*factors)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return -self._says()

    def __pos__(self) -> Any:
        return +self._says()

    def __hash__(self) -> int:
        # Of a text or of a number? What is looked up by it might not be found.
        raise TypeError("a cell is in no {...}: write (...)")

    def __bool__(self) -> bool:
        return bool(self._says_no_text())
