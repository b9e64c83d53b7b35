"""``python -m tests.gpu.page REPORT``: docs/gpu.md, README's sentence and column, from a report.

Without a report they say that nothing has run. What a dry run did is in neither.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.gpu import REPOSITORY
from tests.gpu.checks import CHECKS, NUMBER
from tests.gpu.figures import FAILED, NOT_RUN, PASSED, SKIPPED, in_words
from tests.gpu.report import Report, ReportError, read_report
from tst_megatron.files import write_whole

PAGE = REPOSITORY / "docs/gpu.md"
README = REPOSITORY / "README.md"
REPORT = REPOSITORY / "docs/gpu-report.json"
"""The report that the page and README are of, where there is one."""
_MARKED = re.compile(r"(?<=<!-- gpu -->\n).*?(?=\n<!-- /gpu -->)", re.DOTALL)
# A row's last cell, which ends with the checks that it is of.
_CELL = re.compile(r"(?<=\| )[^|\n]*(?=<!-- gpu:(?P<checks>[a-z0-9 -]*) --> \|$)", re.MULTILINE)
_NOTHING = "Nothing here has run on a GPU so far."
_HOW = """\
# What has run on a GPU

{sentence}

`make test-gpu` runs the checks below on one GPU; with `GPUS=8` also those that need several.
`GPU_FLAGS="--only loss speed"` chooses some, `--minutes` is how long the comparison trains,
`--budget-minutes 9 --append` splits them over several calls, and `--dry-run` walks all of them at
tiny sizes on a CPU, which says of each what it could not do. Every check runs in a process of its
own with a time limit; `runs/gpu/gpu-report.json` (a dry run's is in `runs/gpu-dry-run`) is whole
after each, logs and ledgers lie beside it. `--only` replaces the results of its own checks,
`--append` adds what is lacking, and any other call that would lose results of a GPU is refused.
The code is 1 where a check failed.

Where there is no network, `make gpu-kit WHEELS=...` packs the project, Megatron-Core, the parts of
Transformer Engine for Hopper cards and indexed text into one file of less than 60 MiB, for an
image with torch 2.11 or newer and Python 3.12 on x86-64:

```
python3 -m tarfile -e tst-megatron-gpu-kit.tar.xz && tst-megatron-gpu-kit/run.sh --budget-minutes 9
```

This page is made of a report, by `python -m tests.gpu.page REPORT`.
"""


def page(report: Report | None) -> str:
    """The page.

    Args:
        report: what ran; None where nothing did.
    """
    seen = Report() if report is None else report.on_gpus
    head = _HOW.format(sentence=sentence(report))
    parts = [head, *_machines(seen), _table(seen), *_figures(seen)]
    return "\n".join(parts)


def sentence(report: Report | None) -> str:
    """What README says, and the page at its head."""
    seen = Report() if report is None else report.on_gpus
    if not any(seen.number_in(state) for state in (PASSED, FAILED)):
        return _NOTHING
    states = ((PASSED, "passed"), (FAILED, "failed"), (SKIPPED, "lacked what they need"))
    numbers = [(seen.number_in(state), words) for state, words in states]
    counted = [f"{number} {words}" for number, words in numbers if number]
    left = len(CHECKS) - sum(number for number, _ in numbers)
    if left:
        counted.append(f"{left} have not run")
    used = {one["environment"] for one in seen.checks}
    cards = sorted({_cards(seen.environments[number]) for number in used})
    return f"On {' and '.join(cards)}, of {len(CHECKS)} checks {', '.join(counted)}."


def _cards(environment: dict[str, Any]) -> str:
    number = environment["gpus_used"]
    name = environment["gpus"][0]["name"]
    return name if number == 1 else f"{number} {name}"


def _machines(report: Report) -> Iterator[str]:
    used = sorted({one["environment"] for one in report.checks})
    for place, number in enumerate(used, start=1):
        one = report.environments[number]
        packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
        yield (
            f"Machine {place}: {_cards(one)}, driver {one['driver']}, CUDA {one['cuda']}, torch "
            f"{one['torch']}, {packages}; commit {one['commit']}.\n"
        )


def _table(report: Report) -> str:
    """Every check that there is, whether it has run or not."""
    used = sorted({one["environment"] for one in report.checks})
    lines = ["| | check | looks at | GPUs | |", "|---|---|---|---|---|"]
    for number, check in enumerate(CHECKS):
        result = report.result(check.name)
        said = "not yet" if result is None else _said(result, used, len(used) > 1)
        lines.append(f"| {number} | `{check.name}` | {check.what} | {check.gpus} | {said} |")
    return "\n".join(lines) + "\n"


def _said(result: dict[str, Any], used: list[int], of_several: bool) -> str:
    where = f", machine {used.index(result['environment']) + 1}" if of_several else ""
    if result["state"] == PASSED:
        return f"passed, {result['seconds']:.0f} s{where}"
    state = "not yet" if result["state"] == NOT_RUN else f"**{result['state']}**"
    return f"{state}: {_cell(result['reason'])}{where}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _figures(report: Report) -> Iterator[str]:
    """The figures of every check that has some."""
    for result in report.checks:
        if not result["figures"] and not result["notes"]:
            continue
        lines = [f"- {in_words(figure)}" for figure in result["figures"]]
        lines += [f"- {_cell(note)}" for note in result["notes"]]
        yield f"## {result['name']}\n\n" + "\n".join(lines) + "\n"


def readme(text: str, report: Report | None) -> str:
    """README with its sentence and the cells of its table put right.

    Raises:
        ReportError: it has no place for one, or a cell is of a check that there is not.
    """
    if not _MARKED.search(text):
        raise ReportError("README.md has no <!-- gpu --> and <!-- /gpu --> round its sentence")
    text = _MARKED.sub(lambda _: sentence(report), text)
    seen = Report() if report is None else report.on_gpus
    return _CELL.sub(lambda cell: f"{_ran(seen, cell['checks'].split())} ", text)


def _ran(report: Report, names: Sequence[str]) -> str:
    """Where checks ran, and what became of them."""
    by_state: dict[str, list[str]] = {PASSED: [], f"**{FAILED}**": [], "not yet": []}
    cards = set()
    for name in names:
        if name not in NUMBER:
            raise ReportError(f"README.md names a check {name!r}, which there is not")
        result = report.result(name)
        if result is None or result["state"] not in (PASSED, FAILED):
            by_state["not yet"].append(f"`{name}`")
            continue
        cards.add(_cards(report.environments[result["environment"]]))
        by_state[PASSED if result["state"] == PASSED else f"**{FAILED}**"].append(f"`{name}`")
    if not cards:
        return "not yet"
    said = [f"{state}: {', '.join(which)}" for state, which in by_state.items() if which]
    return f"{' and '.join(sorted(cards))}: {'; '.join(said)}"


def main(argv: list[str] | None = None) -> int:
    """Write both."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.page", description=__doc__)
    parser.add_argument(
        "report", nargs="?", type=Path, help="default docs/gpu-report.json, where it is there"
    )
    path = parser.parse_args(argv).report or (REPORT if REPORT.exists() else None)
    try:
        report = None if path is None else read_report(path)
        write_whole(README, readme(README.read_text(), report))
    except ReportError as error:
        print(f"tests.gpu.page: {error}", file=sys.stderr)
        return 2
    write_whole(PAGE, page(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
