"""The lines of a ledger file: checked objects with their numbers, whole lines only.

The one idea: what a kill, a power cut or a copy leaves of a line is told from what was never a line
of a ledger. A line that is no JSON can only be a cut one where the file ends or where a start of
the run follows, or an evaluation of what it saved; whatever else does not fit is the user's to look
at.
"""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tst_megatron.errors import UserError
from tst_megatron.runs import old_schemas
from tst_megatron.runs.stages import Stage

SCHEMA_VERSION = 3
"""Of the ledgers that are written."""

_SCHEMAS = (1, 2, SCHEMA_VERSION)
# What may be appended when the run that wrote the line before was killed.
_AFTER_A_CUT = ("header", "evaluation")
_LOST = b"\0 \t\r"
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # As zlib has it: 15 bits, with gzip's own header and trailer.
PROGRESS = ("wall_clock_s", "gpu_hours", "positions", "data_tokens", "flops")
"""What every line of a run's progress tells, as far as it is known."""
_NUMBERS = {
    "header": ("started_at", "world_size"),
    "step": (
        *PROGRESS,
        "samples",
        "stage",
        "loss",
        "learning_rate",
        "grad_norm",
        "compute_s",
        "other_s",
        "data_wait_s",
        "evaluation_s",
        "checkpoint_s",
        "startup_s",
    ),
    "validation": (
        *PROGRESS,
        "next_token_loss",
        "next_token_loss_stderr",
        "tokens",
        "bytes",
    ),
    "evaluation": (*PROGRESS, "stage"),
}
_MAPPINGS = {
    "header": (
        "flags",
        "git",
        "held_out",
        "layout",
        "parameters",
        "recipe",
        "tokenizer",
        "versions",
    ),
    "step": ("extras", "facts"),
    "validation": ("losses", "stderrs", "facts", "sets"),
    "evaluation": ("evaluations", "facts"),
}
_OF_A_SET = ("next_token_loss", "next_token_loss_stderr", "tokens", "bytes")
# Tables that hold nothing but numbers.
_TABLES_OF_NUMBERS = ("extras", "losses", "stderrs")
_PARENT = ("step", "flops", "gpu_hours", "data_tokens")
# Of a task's metric, and what names the file that has its items.
_SCORE = ("value", "stderr", "n", "chance")
_ITEMS = ("items", "items_sha256")

# (table, name) of what runs are told apart and called by; without a table in the header itself.
_NAMES = (
    ("", "run_id"),
    ("", "seed"),
    ("flags", "seed"),
    ("recipe", "name"),
)


class LedgerError(UserError):
    """A ledger that cannot be read; the message names file and line."""


class Line(NamedTuple):
    """A whole line: its number, counted from 1, and its fields; what is not finite is None."""

    number: int
    fields: dict[str, Any]

    @property
    def kind(self) -> str:
        """``header``, ``step``, ``validation`` or ``evaluation``."""
        return str(self.fields["kind"])

    @property
    def step(self) -> int:
        """Optimizer steps."""
        return int(self.fields["step"])


def read_lines(path: Path) -> tuple[list[Line], list[int]]:
    """Read a file, compressed or not.

    Returns:
        The lines, and the numbers of those that a kill cut short.

    Raises:
        LedgerError: the file cannot be read, or a line is not one of a ledger.
    """
    texts = _content(path).split(b"\n")
    lines: list[Line] = []
    cut: list[int] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        value = _json(text)
        if value is None and _may_be_cut(text):
            cut.append(number)
            continue
        line = Line(number, _checked(path, number, value))
        after_cut = cut and cut[-1] > (lines[-1].number if lines else 0)
        if after_cut and line.kind not in _AFTER_A_CUT:
            raise LedgerError(f"{path}, line {cut[-1]}: not a line of a ledger, so take it out")
        lines.append(line)
    return lines, cut


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from None
    if not raw.startswith(_GZIP):
        return raw
    try:
        return b"".join(_decompressed(raw))
    except zlib.error as error:
        raise LedgerError(f"{path} cannot be decompressed: {error}") from None


def _decompressed(raw: bytes) -> Iterator[bytes]:
    """What there is of it: a file that was cut short ends early."""
    while raw:
        member = zlib.decompressobj(_GZIP_WINDOW)
        yield member.decompress(raw)
        raw = member.unused_data


def _may_be_cut(text: bytes) -> bool:
    """Whether it is the start of an object, or what a file system leaves of one: zeros."""
    kept = text.strip(_LOST)
    return not kept or kept.startswith(b"{")


def _json(text: bytes) -> Any | None:
    """The value of a line; None of one that is no JSON."""
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        # Python's own is slower and knows NaN and Infinity.
        return json.loads(text, parse_int=_int)
    except (ValueError, RecursionError):
        return None


def _int(text: str) -> int | float:
    """A whole number; an infinite one where it has more digits than floating point goes to."""
    return int(text) if math.isfinite(float(text)) else float(text)


def _checked(path: Path, number: int, value: Any) -> dict[str, Any]:
    """The fields of a line, each known one of its type or None.

    Raises:
        LedgerError: it is not a line of a ledger.
    """
    where = f"{path}, line {number}"
    if not isinstance(value, dict) or value.get("kind") not in _NUMBERS:
        raise LedgerError(f"{where}: not a line of a ledger, so take it out")
    step = value.get("step")
    if isinstance(step, float) and step.is_integer():
        step = value["step"] = int(step)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise _fault(where, "step", step, "a count of steps")
    kind = value["kind"]
    _check_numbers(where, value, (*_NUMBERS[kind], *old_schemas.NUMBERS[kind]))
    if kind != "header":
        _check_used(where, value)
    for name in _MAPPINGS[kind]:
        if not isinstance(value.get(name), dict | None):
            raise _fault(where, name, value[name], "a table")
    if kind == "header":
        _check_header(where, value)
        return value
    for table in _TABLES_OF_NUMBERS:
        if table in _MAPPINGS[kind] and value.get(table):
            _check_numbers(where, value[table], value[table])
    _check_facts(where, value.get("facts") or {})
    for name, of_set in (value.get("sets") or {}).items() if kind == "validation" else ():
        _check_set(f"{where}, set {name}", of_set)
    if kind == "evaluation":
        _check_evaluations(where, value.get("evaluations") or {})
    return value


def _check_set(where: str, of_set: Any) -> None:
    if not isinstance(of_set, dict):
        raise LedgerError(f"{where}: {_shown(of_set)} is no table")
    _check_numbers(where, of_set, _OF_A_SET)
    for table in ("losses", "stderrs"):
        if not isinstance(of_set.get(table), dict | None):
            raise _fault(where, table, of_set[table], "a table")
        _check_numbers(where, of_set.get(table) or {}, of_set.get(table) or {})


def _check_numbers(where: str, fields: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        number = fields.get(name)
        if isinstance(number, float):
            if not math.isfinite(number):
                fields[name] = None
        elif type(number) is not int and number is not None:
            raise _fault(where, name, number, "a number")


def _check_used(where: str, line: Mapping[str, Any]) -> None:
    for name in PROGRESS:
        if (number := line.get(name)) is not None and number < 0:
            raise _fault(where, name, number, "0 or more, as a run uses up nothing less")


def _check_header(where: str, header: Mapping[str, Any]) -> None:
    schema = header.get("schema_version", _SCHEMAS[0])
    if schema not in _SCHEMAS:
        raise LedgerError(
            f"{where}: a ledger of schema {_shown(schema)}, and this tst-megatron reads schemas "
            f"{_SCHEMAS[0]} to {_SCHEMAS[-1]}: read it with the tst-megatron that wrote it"
        )
    for table, name in _NAMES:
        named = (header.get(table) or {}).get(name) if table else header.get(name)
        if isinstance(named, list | dict):
            raise _fault(where, name, named, "a number or text")
    if (fault := old_schemas.header_fault(header)) is not None:
        raise _fault(where, *fault)
    for name in ("data", "methods", "parents"):
        tables = header.get(name) or []
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise _fault(where, name, tables, "a list of tables")
    for method in header.get("methods") or []:
        _check_method(where, method)
    for parent in header.get("parents") or []:
        _check_numbers(where, parent, _PARENT)
        if not isinstance(parent.get("what"), str | None):
            raise _fault(where, "what", parent["what"], "text")


def _check_method(where: str, method: Mapping[str, Any]) -> None:
    if not isinstance(method.get("name"), str):
        raise _fault(where, "name", method.get("name"), "the name of a method")
    if not isinstance(method.get("facts"), dict | None):
        raise _fault(where, "facts", method["facts"], "a table")
    stages = method.get("stages") or []
    if not isinstance(stages, list) or not all(map(_is_stage, stages)):
        raise _fault(where, "stages", stages, "a list of stages")


def _is_stage(value: Any) -> bool:
    try:
        stage = Stage.from_json(value)
    except (TypeError, ValueError, AttributeError):
        return False
    counts = stage.samples, stage.tokens_a_position
    texts = stage.name, stage.loss, stage.method
    return all(type(count) is int and count >= 0 for count in counts) and all(
        isinstance(text, str) for text in texts
    )


def _check_facts(where: str, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if isinstance(value, list | dict):
            raise _fault(where, name, value, "a number or text")


def _check_evaluations(where: str, evaluations: Mapping[str, Any]) -> None:
    for task, told in evaluations.items():
        metrics = told.get("metrics") if isinstance(told, dict) else None
        if not isinstance(metrics, dict) or not all(isinstance(m, dict) for m in metrics.values()):
            raise _fault(where, task, told, 'a table with a table of tables "metrics"')
        for score in metrics.values():
            _check_numbers(where, score, _SCORE)
        for name in _ITEMS:
            if not isinstance(told.get(name), str | None):
                raise _fault(where, name, told[name], "text")


def _fault(where: str, name: str, value: Any, must_be: str) -> LedgerError:
    return LedgerError(f'{where}: its "{name}" is {_shown(value)} and must be {must_be}')


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
