"""Runs from made-up ledgers whose headers tell what a test wants told."""

import json
from pathlib import Path
from typing import Any

from ledgers import write_ledger

from tst_megatron.analysis.compare.stories import vocabulary
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import RecordedRun

LOSSES = {50: 4.0, 100: 3.0}


def made_ledger(folder: Path, name: str, header: dict[str, Any] | None = None, **kw: Any) -> Path:
    """A ledger in a folder of its own; `kw` is `write_ledger`'s."""
    path = folder / name / "ledger.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ledger(path, kw.pop("losses", LOSSES), **kw)
    first, *others = path.read_text().splitlines(keepends=True)
    merged = json.loads(first) | {"run_id": name} | (header or {})
    path.write_text(json.dumps(merged) + "\n" + "".join(others))
    return path


def made_run(
    folder: Path, name: str, header: dict[str, Any] | None = None, **kw: Any
) -> RecordedRun:
    """The run of such a ledger."""
    return read_runs([made_ledger(folder, name, header, **kw)], vocabulary())[0]
