"""``python -m tests.upstream MEGATRON``: what has moved, and which tests fail with it.

Prints Markdown: a table of the seams that differ between the installed Megatron and the other one,
each with the line of ours that meets it; whether runs of the installed one go on with the other
one to the same losses; and the tests that fail, by what they fail of. Code 0 where no seam is gone,
every run goes on and no test failed, 1 where one does not or did, 2 where nothing could begin.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from tests.upstream import REPOSITORY
from tests.upstream.overlay import OverlayError, lay_over
from tests.upstream.seams import GONE, Seam, seams_in
from tst_megatron.files import write_whole

CHOSEN = (
    *("tests/unit", "tests/layouts", "tests/end_to_end/test_ordinary_training.py"),
    *("tests/end_to_end/test_resume.py", "tests/end_to_end/test_ablations.py"),
    *("tests/end_to_end/test_depths.py", "tests/end_to_end/test_growth.py"),
    *("tests/end_to_end/test_upcycling.py", "tests/end_to_end/test_export.py"),
)
"""Tests where nothing else is asked for: all of construction, and a run of every kind."""
_LONGEST = 160
_HEX = re.compile(r"0x[0-9a-f]+|/tmp/\S+|\b\d+\.\d+s\b")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and test; returns the exit code."""
    flags = _parse(argv)
    folder = flags.out / "megatron"
    try:
        path = lay_over(flags.megatron, folder, flags.uv)
    except OverlayError as error:
        print(f"tests.upstream: {error}", file=sys.stderr)
        return 2
    seams = seams_in(REPOSITORY / "tst_megatron")
    before = _looked_up(seams, None, flags.out / "installed.json")
    after = _looked_up(seams, path, flags.out / "other.json")
    moved = [seam for seam in seams if before.get(seam.key) != after.get(seam.key)]
    gone = [seam for seam in moved if _is_gone(after, seam)]
    parts = [_title(flags.megatron), _table(moved, before, after)]
    failed: Mapping[str, list[str]] = {}
    apart: Mapping[str, str] = {}
    if not flags.seams_only:
        apart = _across(path, flags.out)
        parts.append(_of_runs(apart))
        failed, counts = _tested(path, flags.for_pytest or CHOSEN, flags.out)
        parts.append(_failures(failed, counts))
    report = "\n\n".join(parts) + "\n"
    print(report)
    write_whole(flags.out / "report.md", report.encode())
    return int(bool(gone or failed or any(apart.values())))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument(
        "megatron", metavar="MEGATRON", help="a checkout of Megatron-LM, or a version"
    )
    parser.add_argument("--seams-only", action="store_true", help="run no test")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/upstream"), help="for logs and the report"
    )
    parser.add_argument("--uv", type=Path, default=Path("uv"), help="installs a version")
    parser.epilog = "Whatever else is given goes to pytest in place of the chosen tests."
    flags, flags.for_pytest = parser.parse_known_args(argv)
    flags.out = flags.out.resolve()
    return flags


def _is_gone(found: Mapping[str, list[str]], seam: Seam) -> bool:
    return any(one.startswith(GONE) for one in found.get(seam.key, [GONE]))


def _looked_up(seams: Sequence[Seam], path: Path | None, file: Path) -> dict[str, list[str]]:
    """In a process of its own, of which Python finds the Megatron first that is in ``path``."""
    asked = json.dumps([(seam.module, seam.name) for seam in seams])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.upstream.seams", str(file)],
        input=asked,
        env=_environment(path),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"seams could not be looked up:\n{done.stderr}")
    found: dict[str, list[str]] = json.loads(file.read_text())
    return found


def _across(path: Path, out: Path) -> dict[str, str]:
    """What is wrong with each run that goes on with the other Megatron; empty where nothing is."""
    losses = []
    shutil.rmtree(out / "across", ignore_errors=True)
    for which, megatron in (("begin", None), ("go-on", path)):
        file = out / f"{which}.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.upstream.across", which]
        with (out / f"{which}.log").open("wb") as log:
            subprocess.run(
                [*command, str(out / "across"), str(file)],
                env=_environment(megatron),
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )
        if not file.exists():
            return {"runs": f"could not {which.replace('-', ' ')}: see {out / which}.log"}
        losses.append(json.loads(file.read_text()))
    begun, gone_on = losses
    first = next(iter(begun))
    found = {}
    for kind, ours in gone_on.items():
        theirs = begun.get(kind, begun[first])
        far = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
        found[kind] = "" if ours == theirs else f"losses are up to {far:.2g} apart"
    return found


def _of_runs(apart: Mapping[str, str]) -> str:
    rows = [
        f"| {kind} | {wrong or 'the same losses, bit for bit'} |" for kind, wrong in apart.items()
    ]
    head = ["| a run that goes on | |", "|---|---|"]
    return "\n".join(["## From a checkpoint of the installed Megatron", "", *head, *rows])


def _environment(path: Path | None) -> dict[str, str]:
    places = [str(REPOSITORY)] if path is None else [str(path), str(REPOSITORY)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def _title(wanted: str) -> str:
    return f"# megatron-core {version('megatron-core')}, and {wanted}"


Found = Mapping[str, list[str]]


def _table(moved: Sequence[Seam], before: Found, after: Found) -> str:
    if not moved:
        return "No seam has moved."
    rows = [
        f"| `{seam.key}` | {seam.place} | {_apart(before, after, seam)} "
        f"| {_apart(after, before, seam)} |"
        for seam in moved
    ]
    head = ["| seam | ours | installed alone | the other alone |", "|---|---|---|---|"]
    return "\n".join([f"## {len(moved)} seams have moved", "", *head, *rows])


def _apart(found: Found, other: Found, seam: Seam) -> str:
    """What the other has not, or has otherwise; where it has all, but elsewhere, the order."""
    mine, theirs = found.get(seam.key, [GONE]), other.get(seam.key, [GONE])
    own = [one for one in mine if one not in theirs]
    if not own and sorted(mine) == sorted(theirs):
        own = ["in the order " + ", ".join(one.partition(":")[0] for one in mine)]
    short = (one if len(one) <= _LONGEST else one[:_LONGEST] + "…" for one in own)
    return "<br>".join(f"`{one.replace('|', '&#124;')}`" for one in short)


def _tested(
    path: Path, tests: Sequence[str], out: Path
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Run tests with the other Megatron; those that failed by what they failed of, and counts."""
    results = out / "results.xml"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *tests, f"--junit-xml={results}", "--numprocesses"]
    command += ["logical", "--maxprocesses", "8", "--dist", "loadfile", "--no-loadscope-reorder"]
    with (out / "tests.log").open("wb") as log:
        subprocess.run(command, env=_environment(path), cwd=REPOSITORY, stdout=log, stderr=log)
    if not results.exists():
        raise SystemExit(f"no test could begin: see {out / 'tests.log'}")
    suite = ElementTree.parse(results).getroot().find("testsuite")
    assert suite is not None, "pytest writes one"
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed: dict[str, list[str]] = defaultdict(list)
    for case in suite.findall("testcase"):
        for kind in ("failure", "error"):
            for one in case.findall(kind):
                words = (one.get("message") or "no reason was given").strip().splitlines()[0]
                name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
                failed[_HEX.sub("…", words)[:_LONGEST]].append(name)
    return failed, counts


def _failures(failed: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> str:
    total = sum(map(len, failed.values()))
    lines = [f"## {counts['tests']} tests, {total} failed, {counts['skipped']} skipped"]
    for reason, names in sorted(failed.items(), key=lambda one: -len(one[1])):
        lines += ["", f"{len(names)} × `{reason}`", "", *(f"- {name}" for name in names[:5])]
        if len(names) > 5:
            lines.append(f"- and {len(names) - 5} more")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
