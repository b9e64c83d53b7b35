"""``make bench`` on this device: its rows are this check's figures."""

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.gpu import REPOSITORY
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import reason
from tests.gpu.machine import Machine

_MODULES = ("loss", "embedding", "step")


def speed(machine: Machine) -> Iterator[Figure | Note]:
    """Ratios with the targets of the benchmarks."""
    out = machine.folder / "benchmarks.json"
    flags = [f"--device={machine.device}", *machine.sized((), ("--quick",))]
    # Each in a process of its own, where one may meet something; together where they only walk.
    for modules in machine.sized([(module,) for module in _MODULES], [_MODULES]):
        out.unlink(missing_ok=True)
        only = [f"--only={module}" for module in modules]
        words = [sys.executable, "-W", "ignore", "-m", "benchmarks", *only, *flags]
        done = subprocess.run(
            [*words, f"--out={out}"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        if not out.exists():
            name = ", ".join(modules)
            yield Figure(f"{name}: exit code", done.returncode, "", 0)
            yield Note(f"{name}: {reason(done.stdout + done.stderr)}")
            continue
        for row in json.loads(out.read_text())["rows"]:
            what = f"{row['what']}: {row['quantity']} over {row['against']}"
            yield Figure(what, row["ratio"], "", machine.timed(row["target"]), row["at_most"])
            for name in ("ours_ms", "theirs_ms", "ours_mib", "theirs_mib"):
                if name in row["details"]:
                    side, _, unit = name.partition("_")
                    said = {"ms": "ms", "mib": "MiB"}[unit]
                    yield Figure(f"{row['what']}: {side}", row["details"][name], said)
    if machine.dry_run:
        yield Note("left to a GPU: every target; sizes are tiny here, and times a CPU's")
