"""``python -m benchmarks``: measure, print a table, write a JSON; code 1 if a target is missed.

A module of rows has a function ``rows(bench)`` that yields them; a new one is a name in `MODULES`,
and in `ON_GPU` if a GPU has a figure of its own there.
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

ON_GPU = ("loss", "embedding", "step")
ON_CPU = ("depths", "data", "ledger", "collectives", "indexing", "scaling", "compressed_text")
MODULES = (*ON_GPU, *ON_CPU)


def main() -> int:
    """Run, print and write; returns the process's exit code."""
    flags = _parse()
    # Read as torch is first imported.
    os.environ["OMP_NUM_THREADS"] = str(flags.threads)
    begin = time.monotonic()
    device = _device(flags)
    print(f"starting Megatron on {device}", flush=True)
    _start_megatron(device, flags.quick)

    from rich.console import Console

    from benchmarks import measure

    # A file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 160)

    def say(what: str) -> None:
        console.print(
            f"{(time.monotonic() - begin) / 60:5.1f} min  {what}", markup=False, soft_wrap=True
        )

    bench = measure.Bench(say, device, flags.quick)
    say("how noisy the machine is")
    noise = {"before": measure.noise(device=device)}
    rows = []
    for name in flags.only or (ON_GPU if device == measure.CUDA else MODULES):
        for row in importlib.import_module(f"benchmarks.{name}").rows(bench):
            rows.append(row)
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row.details.items())
            say(f"  {row.quantity} {_figure(row)} ({_target(row)}): {figures}")
    noise["after"] = measure.noise(device=device)

    console.print(_table(rows, device))
    for when, (low, high) in noise.items():
        console.print(f"One piece of work against itself, {when}: {low:.2f} to {high:.2f}")
    machine = {
        "device": _name_of(device),
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
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help=f"where the rows are of; cuda, where there is one, has those of {', '.join(ON_GPU)}",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes and few turns, to see that everything runs; its figures say nothing",
    )
    return parser.parse_args()


def _device(flags: argparse.Namespace) -> str:
    """The one asked for, or the GPU where torch sees one."""
    import torch

    device = flags.device or ("cuda" if torch.cuda.is_available() else "cpu")
    left = [name for name in flags.only or () if name not in ON_GPU]
    if device == "cuda" and left:
        sys.exit(f"--only {left[0]} measures a CPU: add --device cpu")
    return str(device)


def _name_of(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else device


def be_the_only_process() -> None:
    """Make this process a job of one, as torchrun would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _start_megatron(device: str, quick: bool) -> None:
    """Megatron's global state over one process, without what it says about itself."""
    warnings.simplefilter("ignore")
    # Of torch's profiler, which says on standard error that it starts and that there is no GPU.
    os.environ["KINETO_LOG_LEVEL"] = "99"
    be_the_only_process()
    from tst_megatron.backends import DEVICE_VARIABLE, prepare_backend

    if device == "cpu":
        os.environ[DEVICE_VARIABLE] = "cpu"
    machine_flags = prepare_backend()
    from benchmarks.measure import Bench
    from benchmarks.step import flags_of, start_megatron

    logging.disable(logging.WARNING)
    with Path(os.devnull).open("w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            start_megatron(machine_flags, flags_of(Bench(print, device, quick)))
        finally:
            sys.stdout = kept


def _figure(row: Any) -> str:
    low, high = row.spread
    spread = "" if low == high else f" [{low:.3f}, {high:.3f}]"
    return f"{row.ratio:.3f}{spread}"


def _target(row: Any) -> str:
    return f"{'at most' if row.at_most else 'at least'} {row.target:g}"


def _table(rows: list[Any], device: str) -> Any:
    from rich.table import Table

    table = Table(title="Costs: ratio of medians [quartiles of the ratios turn by turn]")
    for column in ("what", "against", "of", f"ratio on {device}", "target", ""):
        table.add_column(column)
    for row in rows:
        verdict = "[green]met[/]" if row.met else "[red]missed[/]"
        figure = _figure(row).replace("[", r"\[")
        table.add_row(row.what, row.against, row.quantity, figure, _target(row), verdict)
    return table


if __name__ == "__main__":
    sys.exit(main())
