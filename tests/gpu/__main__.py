"""``python -m tests.gpu``: run the checks, print their figures, keep the report.

Code 0 where no check failed, 1 where one did, 2 where nothing could begin.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu import REPOSITORY
from tests.gpu.checks import CHECKS, Check
from tests.gpu.figures import FAILED, NOT_RUN, PASSED, SKIPPED, in_words
from tests.gpu.machine import Machine
from tests.gpu.report import Report, ReportError, read_report
from tests.gpu.running import not_run, run_check
from tst_megatron.backends import DEVICE_VARIABLE

_DRY_MINUTES = 10.0
_DRY_LEAST_S = 30.0
# Logs lie beside a report as well: a dry run touches nothing that a GPU has left.
_OUT, _DRY_OUT = Path("runs/gpu/gpu-report.json"), Path("runs/gpu-dry-run/gpu-report.json")


class RefusalError(Exception):
    """Nothing can begin; the message is a sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks that were asked for; returns the exit code."""
    flags = _parse(argv)
    if flags.list:
        _list()
        return 0
    try:
        return _run(flags)
    except (RefusalError, ReportError) as refusal:
        print(f"tests.gpu: {refusal}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument(
        *("--only", "-o"), nargs="+", default=[], metavar="NAME",
        choices=[check.name for check in CHECKS], help="some of the checks (--list names them)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the checks, and run none")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="at tiny sizes on this machine's CPU, to see that the checks themselves run",
    )  # fmt: skip
    parser.add_argument("--gpus", type=int, default=1, help="GPUs to use (default 1)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="that the comparison trains for (default 5)"
    )
    parser.add_argument(
        "--budget-minutes", type=float, metavar="N",
        help="for all checks of this call; those that it is not enough for are told as not run",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help=f"the report ({_OUT}, a dry run's {_DRY_OUT}); the comparison's ledgers lie beside it",
    )  # fmt: skip
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER",
        help="for logs, checkpoints and text (default: the report's folder)",
    )  # fmt: skip
    parser.add_argument(
        "--append", action="store_true",
        help="keep the results that the report has, and run those that it lacks; --only keeps them "
        "by itself, but for its own",
    )  # fmt: skip
    parser.add_argument(
        "--text", type=Path, metavar="FOLDER",
        help="text that is indexed already, as `python -m tests.gpu.text FOLDER` leaves it; made "
        "of Python's own sources where it is not there",
    )  # fmt: skip
    flags = parser.parse_args(argv)
    flags.out = flags.out or (_DRY_OUT if flags.dry_run else _OUT)
    return flags


def _list() -> None:
    for number, check in enumerate(CHECKS):
        gpus = f" ({check.gpus} GPUs)" if check.gpus > 1 else ""
        print(f"{number:2} {check.name:<18} {check.what}{gpus}")


def _run(flags: argparse.Namespace) -> int:
    began = time.monotonic()
    out = flags.out.resolve()
    report = _report_so_far(flags, out)
    checks = _chosen(flags, report)
    environment = _environment(flags)
    extra = _for_processes(flags.dry_run, any(check.trains for check in checks))
    for check in checks:
        machine, cut = _machine(flags, check, began)
        print(f"{_clock(began)}  {check.name}: {check.what}", flush=True)
        if cut and machine.limit_s < (_DRY_LEAST_S if flags.dry_run else check.least_s):
            result = not_run(check, flags.gpus, cut)
        else:
            result = run_check(check, machine, extra, cut)
        _tell(result)
        report.add(result, environment)
        report.write(out)
    _tell_all(report, [check.name for check in checks], out, began)
    failed = [check for check in checks if (report.result(check.name) or {})["state"] == FAILED]
    return 1 if failed else 0


def _report_so_far(flags: argparse.Namespace, out: Path) -> Report:
    """What the file has and keeps: of runs of this kind, dry or not.

    Raises:
        RefusalError: results of a GPU would be lost, or lie beside those of a dry run.
        ReportError: it is no report.
    """
    if not out.exists():
        return Report()
    report = read_report(out)
    has_gpus = bool(report.on_gpus.checks)
    if flags.dry_run and has_gpus:
        raise RefusalError(f"{out} has results of a GPU: give a dry run another --out")
    if flags.append or flags.only:
        return report if flags.dry_run else report.on_gpus
    if has_gpus:
        raise RefusalError(
            f"{out} has results of a GPU: add --append to run what it lacks or --only for some "
            "again, or give another --out"
        )
    return Report()


def _chosen(flags: argparse.Namespace, report: Report) -> list[Check]:
    """The checks to run, in their order."""
    if flags.only:
        return [check for check in CHECKS if check.name in flags.only]
    done = {one["name"] for one in report.checks if one["state"] != NOT_RUN}
    fitting = [check for check in CHECKS if flags.dry_run or check.gpus <= flags.gpus]
    return [check for check in fitting if check.name not in done]


def _environment(flags: argparse.Namespace) -> dict[str, Any]:
    """What the report says of this machine.

    Raises:
        RefusalError: there is no GPU and the run is not dry, or there are fewer than asked for.
    """
    words = [sys.executable, "-W", "ignore", "-m", "tests.gpu.environment"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        end = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise RefusalError(
            f"torch does not import here ({end}): use an image with torch 2.11 or newer"
        )
    seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if not flags.dry_run and not seen["gpus"]:
        raise RefusalError(
            "there is no GPU here that torch sees, so nothing can be checked: run it where there "
            "is one, or add --dry-run to walk the checks on the CPU"
        )
    if not flags.dry_run and len(seen["gpus"]) < flags.gpus:
        raise RefusalError(
            f"--gpus {flags.gpus}: there are {len(seen['gpus'])} here, so give that many"
        )
    return {"dry_run": flags.dry_run, "gpus_used": flags.gpus, **seen}


def _for_processes(dry_run: bool, trains: bool) -> dict[str, str]:
    """Variables of the checks' processes; a dry run's jobs are forks of one that has Megatron."""
    folders = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"PYTHONPATH": os.pathsep.join(folders)}
    if not dry_run:
        return variables
    variables |= {DEVICE_VARIABLE: "cpu", "OMP_NUM_THREADS": "1"}
    if not trains:
        return variables
    from trainer import SERVER_VARIABLE, job_server, wait_for_server

    os.environ |= variables  # The server's.
    socket, server = job_server()
    if server is not None:
        wait_for_server()
    return variables | {SERVER_VARIABLE: str(socket)}


def _machine(flags: argparse.Namespace, check: Check, began: float) -> tuple[Machine, str]:
    """Where a check runs, and why its time is shorter than its limit, where it is."""
    minutes = _DRY_MINUTES if flags.dry_run else check.minutes
    if check.name == "comparison" and not flags.dry_run:
        minutes += flags.minutes
    limit_s, cut = minutes * 60, ""
    if flags.budget_minutes is not None:
        left = flags.budget_minutes * 60 - (time.monotonic() - began)
        if left < limit_s:
            limit_s, cut = max(0.0, left), f"--budget-minutes {flags.budget_minutes:g} was spent"
    work = (flags.work or flags.out.parent).resolve()
    text = flags.text or work / ("text-dry" if flags.dry_run else "text")
    places = work / "checks" / check.name, flags.out.parent.resolve(), text.resolve()
    return Machine(flags.dry_run, flags.gpus, *map(str, places), limit_s, flags.minutes), cut


def _clock(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:5.1f} min"


def _tell(result: dict[str, Any]) -> None:
    for figure in result["figures"]:
        print(f"             {in_words(figure)}")
    for note in result["notes"]:
        print(f"             note: {note}")
    reason = f": {result['reason']}" if result["reason"] else ""
    print(f"           {result['state'].upper()} {result['name']}{reason}", flush=True)


def _tell_all(report: Report, names: Sequence[str], out: Path, began: float) -> None:
    here = [one for one in report.checks if one["name"] in names]
    counted = ", ".join(
        f"{number} {state}"
        for state in (PASSED, FAILED, SKIPPED, NOT_RUN)
        if (number := sum(one["state"] == state for one in here))
    )
    print(f"{_clock(began)}  {counted or 'nothing was to be run'}. Report: {out}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
