"""What a run finds where its ledger is to be: nothing, its own past, or another run's.

The one idea: a ledger is of one run. A run that begins where another's ledger lies puts it aside; a
run that goes on from another folder's checkpoint brings along what led there.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from tst_megatron.files import write_whole
from tst_megatron.runs.clock import clock_file
from tst_megatron.runs.flag_roles import Role, begun_otherwise
from tst_megatron.runs.ledger import LedgerError, read_ledger
from tst_megatron.runs.ledger_lines import read_lines

logger = logging.getLogger(__name__)


def put_aside_anothers(path: Path, flags: Mapping[str, Any], prefixes: Sequence[str] = ()) -> None:
    """Where a run begins from its first step, rename the ledger of another run that lies there.

    Args:
        path: the ledger.
        flags: of the run that begins.
        prefixes: of flags that are a method's, which tell runs apart too.
    """
    theirs = _flags_in(path)
    if theirs is None:
        return
    differing = begun_otherwise({"flags": theirs}, {"flags": flags}, Role.BEGINNING, prefixes)
    if differing is None:
        return
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    logger.warning(
        "%s is of another run (its %s was %s): it is kept as %s",
        path,
        differing,
        theirs[differing],
        aside.name,
    )
    path.rename(aside)
    clock_file(path).unlink(missing_ok=True)


def bring_along(path: Path, source: Path, step: int) -> None:
    """Begin a ledger with what another one tells up to a step, as a run of its own.

    Seconds that the other run spent beyond the step, or lost after it, are not of this one.

    Args:
        path: of the new ledger, which is not there.
        source: ledger beside the checkpoint that the run goes on from.
        step: that it goes on from.
    """
    try:
        # Of one run, and whole: what it makes of the lines is not what they are.
        read_ledger(source)
        lines = read_lines(source)[0]
    except LedgerError as error:
        logger.warning("What led to step %d is not in the ledger: %s", step, error)
        return
    run_id = uuid4().hex
    kept = []
    for line in lines:
        if line.kind == "header" and line.step < step:
            kept.append(line.fields | {"run_id": run_id})
        elif line.kind != "header" and line.step <= step:
            kept.append(_with_items_from(source, path, line.fields))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(fields) + "\n" for fields in kept))


def _with_items_from(source: Path, path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """A line of another folder's ledger, with the files of its evaluations named from here."""
    evaluations = fields.get("evaluations")
    if not evaluations:
        return fields
    here = path.parent.resolve()
    moved = {
        task: told | {"items": os.path.relpath(source.resolve().parent / told["items"], here)}
        if told.get("items")
        else told
        for task, told in evaluations.items()
    }
    return fields | {"evaluations": moved}


def _flags_in(path: Path) -> dict[str, Any] | None:
    """Flags of the run that a ledger is of; None where there is none, or none that can be read."""
    try:
        return read_ledger(path).header.get("flags") or {}
    except LedgerError:
        return None
