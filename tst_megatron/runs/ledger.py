"""The ledger of a run: ``ledger.jsonl``, one JSON object a line.

The one idea: lines are only ever appended, whole, so a kill at any byte leaves a file that reads as
one run. A run that resumes writes another header; steps after the one it resumes from are replayed,
and the reader keeps the replayed ones. Time spent on steps that were lost still counts.

Line kinds:

- ``header``: ``step`` it starts from, versions, flags, layout;
- ``step``: progress at a logged step, with the training loss under its own name;
- ``validation``: the held-out next-token loss, and further losses that a method measures;
- ``evaluation``: what the model of a step scored, by task or text (`runs/evaluations.py`), appended
  whenever it was asked.

Whatever schema a file is of, what is read is of schema 3 (docs/ledger.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tst_megatron.runs.flag_roles import Role, begun_otherwise
from tst_megatron.runs.ledger_lines import PROGRESS, SCHEMA_VERSION, LedgerError, Line, read_lines
from tst_megatron.runs.old_schemas import header_of_old, line_of_old

__all__ = ["SCHEMA_VERSION", "Ledger", "LedgerError", "read_ledger"]

_CLOCKS = ("wall_clock_s", "gpu_hours")
_OF_A_STAGE = ("stage", "facts")


@dataclass
class Ledger:
    """A run as its ledger tells it, replayed steps in place of those they replay.

    Attributes:
        header: of the last start, in schema 3; without ``methods`` where it does not tell of them.
        steps: ``step`` lines, ascending, one a step; what a line does not tell of `PROGRESS` is
            None, and so is a number that was not finite; ``facts`` is None where they are not told.
        validations: ``validation`` lines, likewise; of several at one step the first, with the
            clocks of the last.
        evaluations: ``evaluation`` lines, ascending, one a step, with the stage where it is told;
            of several that ask the same at one step the last counts.
        headers: of every start.
        path: what it was read from.
        notes: what was mended while reading, a sentence each.
        source: ``ledger``; of other logs that are brought in as one, ``tensorboard`` or ``wandb``.
    """

    header: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None
    notes: list[str] = field(default_factory=list)
    source: str = "ledger"

    @property
    def last(self) -> dict[str, Any] | None:
        """The last line with progress in it, if any."""
        # A validation comes after the line of its step.
        lines = self.validations[-1:] + self.steps[-1:]
        return max(lines, key=lambda line: line["step"], default=None)


def read_ledger(path: Path) -> Ledger:
    """Read a ledger, compressed or not.

    Mended, with a note: lines that a kill cut short, lines out of order, steps logged twice, clocks
    that jump back.

    Raises:
        LedgerError: the file is missing or empty, has no header, holds two runs, is of a schema
            that is not known, or a line is not one of a ledger.
    """
    lines, cut = read_lines(path)
    reading = _Reading(path)
    for number in cut:
        reading.note(number, "was cut short and is left out")
    for line in lines:
        if line.kind == "header":
            reading.start(line)
        else:
            reading.add(line)
    return reading.ledger()


class _Reading:
    """A run in the making, line by line.

    Steps go up and clocks go on from line to line. Where a line does neither it is out of order;
    where only the step is lower the run went back to replay; where only the clock is, the clock
    jumped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._headers: list[dict[str, Any]] = []
        self._lines: dict[str, dict[int, dict[str, Any]]] = {
            "step": {},
            "validation": {},
            "evaluation": {},
        }
        self._top = 0  # The highest step so far.
        self._latest = dict.fromkeys(_CLOCKS, 0.0)
        self._lost = dict.fromkeys(_CLOCKS, 0.0)  # Added to clocks that jumped back.
        self._is_first_of_start = False
        self._is_old = False  # Lines are of the schema of the header before them.
        # The step that a start goes on from, until it has made one: what lies beyond it stays if
        # the start came to nothing, or was an evaluation of an older checkpoint.
        self._goes_on_from: int | None = None
        self._notes: dict[str, list[int]] = {}

    def note(self, number: int, mended: str) -> None:
        """What was mended at a line, told once however often it happens."""
        self._notes.setdefault(mended, []).append(number)

    def start(self, line: Line) -> None:
        """The run starts, or starts again from a step."""
        self._is_old = line.fields.get("schema_version", 1) < SCHEMA_VERSION
        header = header_of_old(line.fields) if self._is_old else line.fields
        if self._headers:
            self._check_same_run(line.number, header)
        self._headers.append(header)
        self._goes_on_from = line.step
        self._is_first_of_start = True

    def add(self, line: Line) -> None:
        """A step, a validation or an evaluation."""
        if not self._headers:
            raise LedgerError(f"{self._path}, line {line.number}: no header comes before it")
        if line.kind == "evaluation":
            self._add_evaluation(line)
            return
        line = line._replace(fields=self._completed(line.fields))
        if self._goes_on_from is not None:
            if line.step <= self._goes_on_from < self._top:
                return  # Of a checkpoint that the run has been beyond.
            self._forget_after(self._goes_on_from)
            self._goes_on_from = None
        goes_back = self._goes_back(line)
        if line.step < self._top and goes_back is False:
            self.note(line.number, "goes back without a start: what it replays is left out")
            self._forget_after(line.step - 1)
        elif line.step < self._top:
            self.note(line.number, "is out of order and is put where its step belongs")
        else:
            self._carry_on(line)
        self._count_clocks(line)
        self._put(line)
        self._top = max(self._top, line.step)
        self._is_first_of_start = False

    def _add_evaluation(self, line: Line) -> None:
        """Of whatever step, whenever it was.

        One with a clock is the run's own, and the first of a start may come before the first step
        that is logged: what was beyond the step that it goes on from is replayed by then.
        """
        goes_on_from = self._goes_on_from
        if goes_on_from is not None and "wall_clock_s" in line.fields and line.step > goes_on_from:
            self._forget_after(goes_on_from)
            self._goes_on_from = None
        lines = self._lines[line.kind]
        before = lines.get(line.step, {})
        told = {name: line.fields[name] for name in _OF_A_STAGE if name in line.fields}
        lines[line.step] = {
            **before,
            **told,
            "kind": line.kind,
            "step": line.step,
            "evaluations": (before.get("evaluations") or {})
            | (line.fields.get("evaluations") or {}),
        }

    def _put(self, line: Line) -> None:
        lines = self._lines[line.kind]
        before = lines.get(line.step)
        if before is not None and line.kind == "step":
            self.note(line.number, "logs a step again: the later line counts")
        elif before is not None:
            # Megatron validates once more after the last step, on the samples that come next. All
            # evaluations but that one come once, so the first one counts, here as of TensorBoard.
            clocks = {name: line.fields[name] for name in _CLOCKS if line.fields[name] is not None}
            lines[line.step] = before | clocks
            return
        lines[line.step] = line.fields

    def _completed(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A line of schema 3, with all that every line has."""
        if self._is_old:
            fields = line_of_old(fields, self._headers[-1])
        untold = dict.fromkeys(PROGRESS)
        return {**untold, "facts": {}, **fields}

    def ledger(self) -> Ledger:
        """The run.

        Raises:
            LedgerError: it never started.
        """
        if not self._headers:
            raise LedgerError(
                f"{self._path} holds no header: it is not the ledger of a run that started"
            )
        steps, validations, evaluations = (
            [lines[step] for step in sorted(lines)] for lines in self._lines.values()
        )
        _let_clocks_go_on(steps + validations)
        self._leave_out_clocks_of_a_part(steps + validations)
        notes = [
            f"{self._path}, line {_numbers(numbers)} {mended}."
            for mended, numbers in self._notes.items()
        ]
        return Ledger(
            self._headers[-1], steps, validations, evaluations, self._headers, self._path, notes
        )

    def _leave_out_clocks_of_a_part(self, lines: list[dict[str, Any]]) -> None:
        """Hours of a run whose beginning is in another file are not the run's."""
        begins = self._headers[0]["step"]
        if not lines or not 0 < begins < min(line["step"] for line in lines):
            return
        for line in lines:
            line.update(dict.fromkeys(_CLOCKS))
        self._notes.setdefault(
            f"starts at step {begins}: what came before is in another ledger, and the hours of the "
            "run are not known",
            [1],
        )

    def _check_same_run(self, number: int, again: dict[str, Any]) -> None:
        first = self._headers[0]
        ids = [header.get("run_id") for header in (first, again)]
        same = ids[0] == ids[1]
        if None in ids:
            same = begun_otherwise(first, again, Role.EVERY_START) is None
        if not same:
            self._refuse_another_run(number)

    def _refuse_another_run(self, number: int) -> None:
        raise LedgerError(
            f"{self._path}, line {number}: another run starts here, so split the file: a "
            "ledger is of one run"
        )

    def _forget_after(self, step: int) -> None:
        for lines in self._lines.values():
            for later in [number for number in lines if number > step]:
                del lines[later]
        self._top = min(self._top, step)

    def _goes_back(self, line: Line) -> bool | None:
        """Whether the clock is earlier than before; None where that is not known."""
        clock = line.fields["wall_clock_s"]
        if clock is None:
            return None
        return bool(clock + self._lost["wall_clock_s"] < self._latest["wall_clock_s"])

    def _carry_on(self, line: Line) -> None:
        """Let clocks that jump back go on from where they were."""
        for name in _CLOCKS:
            clock = line.fields[name]
            if clock is None or clock + self._lost[name] >= self._latest[name]:
                continue
            header = self._headers[-1]
            if self._is_first_of_start and header["step"] == 0 and "run_id" not in header:
                # A run that starts again goes on with its clock: nothing says that this one does.
                self._refuse_another_run(line.number)
            self.note(line.number, f"has a {name} that jumps back: it is carried on from there")
            # A clock that starts anew counts from that start, another from its jump.
            since = clock if self._is_first_of_start else 0.0
            self._lost[name] = self._latest[name] + since - clock

    def _count_clocks(self, line: Line) -> None:
        for name in _CLOCKS:
            if line.fields[name] is not None:
                line.fields[name] += self._lost[name]
                self._latest[name] = max(self._latest[name], line.fields[name])


def _let_clocks_go_on(lines: list[dict[str, Any]]) -> None:
    """What the mending of a file that is out of order and jumps too may have left."""
    latest = dict.fromkeys(_CLOCKS, 0.0)
    for line in sorted(lines, key=lambda line: line["step"]):
        for name in _CLOCKS:
            if line[name] is not None:
                line[name] = latest[name] = max(latest[name], line[name])


def _numbers(numbers: Iterable[int]) -> str:
    first, *others = numbers
    return f"{first}" if not others else f"{first} (and {len(others)} more)"
