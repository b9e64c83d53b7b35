"""What reading gives: documents in batches, and what could not be read."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

NO_TEXT = "the file is empty"
NO_TOKENS = "the document has no tokens"
LEFT_OUT = (NO_TEXT, NO_TOKENS)
"""Reasons for which nothing is wrong with a record, and it is left out whatever is asked for."""


class UnusableError(Exception):
    """A record that gives no document.

    Args:
        reason: one of a few, so that they can be counted.
        detail: what is particular to this record; may be empty.
        has: the fields that are there, where one is asked for that is not.
    """

    def __init__(self, reason: str, detail: str = "", has: Iterable[str] = ()) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.has = tuple(has)


class DamagedError(UnusableError):
    """A file whose bytes cannot be unpacked from here on."""


class BrokenFile(Exception):  # noqa: N818 — the name that stands in messages
    """A file that cannot be read any further; what came before has been yielded.

    Attributes:
        record: the first that could not be read, from 1 within the span; 0 for a file of which
            nothing can be read.
        reason: one of a few, so that they can be counted.
        detail: what is particular to this file; may be empty.
        has: the fields that are there, where one is asked for that is not.
    """

    def __init__(self, record: int, reason: str, detail: str = "", has: Iterable[str] = ()) -> None:
        super().__init__(record, reason, detail)
        self.record = record
        self.reason = reason
        self.detail = detail
        self.has = tuple(has)


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that gives no document.

    Attributes:
        record: its number, from 1 within the span: of its line (JSON lines; the line that a
            document of a text file begins in), row (of CSV, from the one under the header), or
            element.
        reason: one of a few, so that they can be counted.
        detail: what is particular to this record; may be empty.
        has: the fields that are there, where one is asked for that is not.
    """

    record: int
    reason: str
    detail: str = ""
    has: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: int, error: UnusableError) -> Self:
        """What an error says of a record."""
        return cls(record, error.reason, error.detail, error.has)


@dataclass(slots=True)
class DocumentBatch:
    """Documents read together: a few megabytes, or one that is longer.

    Attributes:
        documents: strings; where ids are read, strings or integer arrays ``[tokens]``.
        numbers: of the records that the documents are of, as in ``bad``.
        bad: the records that give none, in order.
        records: how far the numbers of records go on in this batch: lines (blank ones too), rows
            or elements.
        filtered: records that ``where`` does not want.
        text_bytes: UTF-8 bytes of the documents; 0 where ids are read.
        bytes_read: of the file as it lies on the disk. Those of all batches of a span that was read
            to its end make up the span, those of all spans the file.
    """

    documents: list[Any] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    records: int = 0
    filtered: int = 0
    text_bytes: int = 0
    bytes_read: int = 0


_FIELDS_NAMED = 20


def sentence(bad: Bad | BrokenFile) -> str:
    """What is wrong, in one line; of very many fields the first."""
    has = ", ".join(bad.has[:_FIELDS_NAMED])
    if len(bad.has) > _FIELDS_NAMED:
        has += f" and {len(bad.has) - _FIELDS_NAMED:,} more"
    return ": ".join(filter(None, (bad.reason, bad.detail, has and f"it has {has}")))
