"""Run a check in a process of its own, and tell what became of it, whatever became of it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.gpu import REPOSITORY
from tests.gpu.checks import NUMBER, Check
from tests.gpu.figures import FAILED, NOT_RUN, PASSED, SKIPPED
from tests.gpu.machine import Machine

_LOG_CHARACTERS = 3000
_POLL_S = 0.2
_GONE_S = 10.0


def run_check(
    check: Check, machine: Machine, environment: dict[str, str], cut: str
) -> dict[str, Any]:
    """Run it to its end, or to that of its time.

    Args:
        check: which.
        machine: where; its folder is made, and emptied of an earlier run's results.
        environment: added to this process's.
        cut: why its time is less than its own limit; empty where it is not.

    Returns:
        The result, as the report has it.
    """
    folder = machine.folder
    folder.mkdir(parents=True, exist_ok=True)
    settings, results, log = (folder / n for n in ("settings.json", "figures.jsonl", "log.txt"))
    settings.write_text(json.dumps(machine.as_json()))
    results.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-u",
                "-m",
                "tests.gpu.one",
                check.function,
                str(settings),
                str(results),
            ],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        in_time = _wait(process, machine.limit_s)
    lines = _lines(results)
    return {
        "number": NUMBER[check.name],
        "name": check.name,
        "what": check.what,
        "gpus": machine.gpus,
        "seconds": round(time.monotonic() - began, 1),
        "figures": [line["figure"] for line in lines if "figure" in line],
        "notes": [line["note"] for line in lines if "note" in line],
        **_verdict(lines, process.returncode, in_time, machine, cut, log),
    }


def not_run(check: Check, gpus: int, reason: str) -> dict[str, Any]:
    """The result of a check for which there was no time."""
    return {
        "number": NUMBER[check.name],
        "name": check.name,
        "what": check.what,
        "gpus": gpus,
        "seconds": 0.0,
        "figures": [],
        "notes": [],
        **_state(NOT_RUN, reason),
    }


def _verdict(
    lines: list[dict[str, Any]], code: int, in_time: bool, machine: Machine, cut: str, log: Path
) -> dict[str, Any]:
    """State, reason and error of a result."""
    ends = {name: said for line in lines for name, said in line.items()}
    if not in_time:
        reason = f"ended after {machine.limit_s:.0f} s"
        return _state(*((NOT_RUN, f"{reason}: {cut}") if cut else (FAILED, f"{reason}, its limit")))
    if "error" in ends:
        return _state(FAILED, ends["error"].strip().splitlines()[-1][:300], ends["error"])
    judged = [line["figure"] for line in lines if line.get("figure", {}).get("bound") is not None]
    missed = [figure["what"] for figure in judged if not figure["met"]]
    if "skipped" in ends and not missed:
        return _state(SKIPPED, ends["skipped"])
    if not {"skipped", "done"} & ends.keys():
        return _state(FAILED, _ended(code), _end_of(log))
    if missed:
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        return _state(FAILED, f"{missed[0]}{more} missed the bound")
    if not judged and not machine.dry_run:
        return _state(FAILED, "no figure had a bound, so that nothing was checked")
    return _state(PASSED, None)


def _state(state: str, reason: str | None, error: str | None = None) -> dict[str, Any]:
    return {"state": state, "reason": reason, "error": error}


def _ended(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code} before its last figure"


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:]


def _lines(results: Path) -> list[dict[str, Any]]:
    """What was written, without a line that a kill cut short."""
    lines = []
    if results.exists():
        for line in results.read_text().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def _wait(process: "subprocess.Popen[bytes]", limit_s: float) -> bool:
    """Wait for it; past its time end it and all that it started. Whether it was in time."""
    deadline = time.monotonic() + limit_s
    started: set[psutil.Process] = set()
    try:
        while process.poll() is None and time.monotonic() < deadline:
            # Of a process that has died nobody knows the children; torchrun's have own sessions.
            with suppress(psutil.Error):
                started.update(psutil.Process(process.pid).children(recursive=True))
            time.sleep(_POLL_S)
        in_time = process.poll() is not None
    finally:
        _end([*started], process)
    return in_time


def _end(started: list[psutil.Process], process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        with suppress(psutil.Error):
            started += psutil.Process(process.pid).children(recursive=True)
        process.kill()
    for one in started:
        with suppress(psutil.Error):
            one.kill()
    process.wait()
    psutil.wait_procs(started, _GONE_S)  # Before the next check wants the GPU.
