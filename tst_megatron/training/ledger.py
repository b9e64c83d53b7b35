"""The ledger of a run: ``ledger.jsonl``, one JSON object a line.

The one idea: lines are only ever appended, whole, so a kill at any byte leaves a file that reads as
one run. A run that resumes writes another header; steps after the one it resumes from are replayed,
and the reader keeps the replayed ones. Time spent on steps that were lost still counts.

Line kinds:

- ``header``: ``step`` it starts from, versions, flags, layout;
- ``step``: progress at a logged step, with the training loss under its own name;
- ``validation``: the held-out next-token loss and, in a superposed stage, the loss on bags.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 2


class LedgerError(ValueError):
    """A ledger that cannot be read; the message names file and line."""


@dataclass
class Ledger:
    """A run as its ledger tells it, replayed steps in place of those they replay.

    Attributes:
        header: of the last start.
        steps: ``step`` lines, ascending.
        validations: ``validation`` lines, ascending, one a step.
    """

    header: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any] | None:
        """The last line with progress in it, if any."""
        lines = self.steps[-1:] + self.validations[-1:]
        return max(lines, key=lambda line: line["wall_clock_s"], default=None)


def read_ledger(path: Path) -> Ledger:
    """Read a ledger; a last line cut short by a kill is left out.

    Raises:
        LedgerError: the file is missing, empty, has no header or a broken line before its last.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from None
    # What comes after the last newline is a line that a kill cut short.
    lines = [_parse(text) for text in raw.split(b"\n")[:-1]]
    ledger: Ledger | None = None
    for number, line in enumerate(lines, start=1):
        if line is None:
            following = lines[number] if number < len(lines) else None
            # So is a line before a header: the run that started again has ended it.
            if ledger is not None and following is not None and following["kind"] == "header":
                continue
            raise LedgerError(f"{path}, line {number}: not a line of a ledger")
        if line["kind"] == "header":
            ledger = _restarted(ledger, line)
        elif ledger is None:
            raise LedgerError(f"{path}, line {number}: no header comes before it")
        else:
            _add(ledger, line)
    if ledger is None:
        raise LedgerError(f"{path} holds no header: it is not the ledger of a run that started")
    return ledger


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        if line["kind"] in ("header", "step", "validation") and isinstance(line["step"], int):
            return dict(line)
    except (ValueError, TypeError, KeyError):
        pass
    return None


def _restarted(ledger: Ledger | None, header: dict[str, Any]) -> Ledger:
    """The run up to the step it starts again from."""
    if ledger is None:
        return Ledger(header)
    return Ledger(
        header,
        [line for line in ledger.steps if line["step"] <= header["step"]],
        [line for line in ledger.validations if line["step"] <= header["step"]],
    )


def _add(ledger: Ledger, line: dict[str, Any]) -> None:
    lines = ledger.steps if line["kind"] == "step" else ledger.validations
    # Megatron validates once more after the last step.
    if lines and lines[-1]["step"] == line["step"]:
        lines.pop()
    lines.append(line)
