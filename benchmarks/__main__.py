"""``python -m benchmarks``: measure, print a table, write a JSON; code 1 if a target is missed.

A module of rows has a function ``rows(report)`` that yields them; a new one is a name in `MODULES`.
"""

import argparse
import importlib
import json
import logging
import os
import platform
import socket
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODULES = ("loss", "embedding", "step", "data", "ledger", "collectives", "indexing")


def main() -> int:
    """Run, print and write; returns the process's exit code."""
    flags = _parse()
    # Read as torch is first imported.
    os.environ["OMP_NUM_THREADS"] = str(flags.threads)
    begin = time.monotonic()
    print("starting Megatron", flush=True)
    _start_megatron()

    from rich.console import Console

    from benchmarks import measure

    # A file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 160)

    def report(what: str) -> None:
        console.print(
            f"{(time.monotonic() - begin) / 60:5.1f} min  {what}", markup=False, soft_wrap=True
        )

    report("how noisy the machine is")
    noise = {"before": measure.noise()}
    rows = []
    for name in flags.only or MODULES:
        for row in importlib.import_module(f"benchmarks.{name}").rows(report):
            rows.append(row)
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row.details.items())
            report(f"  {row.quantity} {_figure(row)} ({_target(row)}): {figures}")
    noise["after"] = measure.noise()

    console.print(_table(rows))
    for when, (low, high) in noise.items():
        console.print(f"One piece of work against itself, {when}: {low:.2f} to {high:.2f}")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": flags.threads,
        "load_average": os.getloadavg()[0],
        "torch": version("torch"),
        "megatron_core": version("megatron-core"),
    }
    results = {
        "machine": machine,
        "noise": noise,
        "minutes": (time.monotonic() - begin) / 60,
        "rows": [row.as_json() for row in rows],
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(results, indent=2) + "\n")
    missed = sum(not row.met for row in rows)
    console.print(f"{len(rows) - missed} targets met, {missed} missed. Figures: {flags.out}")
    return 1 if missed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=MODULES, action="append", help="some of the modules")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"))
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="torch's threads; 1, as torchrun gives a rank, unless nothing else runs here: several "
        "wait for each other, so that any other program slows both sides, and unevenly",
    )
    return parser.parse_args()


def _start_megatron() -> None:
    """Megatron's global state over one process of gloo, without what it says about itself."""
    warnings.simplefilter("ignore")
    # Of torch's profiler, which says on standard error that it starts and that there is no GPU.
    os.environ["KINETO_LOG_LEVEL"] = "99"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    from tst_megatron.backends import DEVICE_VARIABLE, prepare_backend

    # Every row is of a CPU, on a machine with GPUs too.
    os.environ[DEVICE_VARIABLE] = "cpu"
    machine_flags = prepare_backend()
    from benchmarks.step import start_megatron

    logging.disable(logging.WARNING)
    with Path(os.devnull).open("w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            start_megatron(machine_flags)
        finally:
            sys.stdout = kept


def _figure(row: Any) -> str:
    low, high = row.spread
    spread = "" if low == high else f" [{low:.3f}, {high:.3f}]"
    return f"{row.ratio:.3f}{spread}"


def _target(row: Any) -> str:
    return f"{'at most' if row.at_most else 'at least'} {row.target:g}"


def _table(rows: list[Any]) -> Any:
    from rich.table import Table

    table = Table(
        title="Cost of superposition: ratio of medians [quartiles of the ratios turn by turn]"
    )
    for column in ("what", "against", "of", "ratio", "target", ""):
        table.add_column(column)
    for row in rows:
        verdict = "[green]met[/]" if row.met else "[red]missed[/]"
        figure = _figure(row).replace("[", r"\[")
        table.add_row(row.what, row.against, row.quantity, figure, _target(row), verdict)
    return table


if __name__ == "__main__":
    sys.exit(main())
