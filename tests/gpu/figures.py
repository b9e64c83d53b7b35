"""What a check yields: figures with their bounds, and remarks; and how it says that it cannot run.

The standard library alone: this is read where nothing else imports.
"""

import math
from dataclasses import dataclass
from typing import Any

PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        what: it is of.
        value: as measured.
        unit: of the value and the bound; empty for a plain number.
        bound: what the value must keep to; None where it is told and not judged.
        at_most: whether the bound is an upper one, or a lower one.
    """

    what: str
    value: float
    unit: str = ""
    bound: float | None = None
    at_most: bool = True

    @property
    def is_met(self) -> bool | None:
        """Whether it keeps to its bound; None without one. No number keeps to none."""
        if self.bound is None:
            return None
        if not math.isfinite(self.value):
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "what": self.what,
            "value": self.value if math.isfinite(self.value) else None,
            "unit": self.unit,
            "bound": self.bound,
            "at_most": self.at_most,
            "met": self.is_met,
        }


@dataclass(frozen=True)
class Note:
    """A remark: what a number cannot say, or what could not be done here."""

    text: str


class CannotRunHereError(Exception):
    """The check needs what this machine lacks; the message says what."""


def in_words(figure: dict[str, Any]) -> str:
    """A figure of a report, in a line."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    said = f"{figure['what']}: {number(figure['value'])}{unit}"
    if figure["bound"] is None:
        return said
    kind = "at most" if figure["at_most"] else "at least"
    missed = "" if figure["met"] else ", missed"
    return f"{said} ({kind} {number(figure['bound'])}{missed})"


def number(value: float | None) -> str:
    """Four digits; integers whole."""
    if value is None:
        return "no finite number"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"
