"""The subcommand ``sweep``: run a grid of s and r, or a search in it, and say what to take."""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tst_megatron.errors import INTERRUPTED_EXIT_CODE, UserError
from tst_megatron.sweep.grid import (
    BASELINE,
    Config,
    Grid,
    check_stages,
    grid_from_words,
    seeds_from_words,
)

if TYPE_CHECKING:
    from tst_megatron.sweep.recommendation import Limit
    from tst_megatron.sweep.report import Found
    from tst_megatron.sweep.results import Result
    from tst_megatron.sweep.search import Sweep
    from tst_megatron.sweep.settings import SweepSettings
    from tst_megatron.sweep.text import Text
    from tst_megatron.sweep.training import Machine

EXAMPLES = """\
examples:
  tst-megatron sweep --recipe smollm2-270m-baseline --bag-sizes 4 8 16 --step-ratios 0.2 0.3 0.4 \\
      --tokenizer-model meta-llama/Meta-Llama-3-8B --data-path data/dclm --out runs/sweep
  tst-megatron sweep --recipe mine.yaml --bag-sizes 4 8 16 --step-ratios 0.2,0.3,0.4 --seeds 1,2 \\
      --budget-hours 500 --tokens-available 60e9 --data-path data/dclm
  tst-megatron sweep ... --halving               a cheaper search, in the same folder or in its own
  tst-megatron sweep --from-csv examples/sweep/paper-270m.csv --out runs/paper

Every other flag is pretrain's, Megatron's or ours, and goes to every run. The same command goes on
where it was cut off.
"""

_WIDTH_OF_A_LOG = 120
_DEFAULT_OUT = Path("runs/sweep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``sweep``; Megatron's follow them."""
    parser.add_argument("--recipe", help="flags from a recipe, or a .yaml file of your own")
    parser.add_argument(
        "--bag-sizes", nargs="*", metavar="S", help="to try; the baseline is always run beside them"
    )
    parser.add_argument(
        "--step-ratios", nargs="*", metavar="R", help="shares of the steps in bags, to try"
    )
    parser.add_argument(
        "--seeds", nargs="*", metavar="N", help="run everything once with each (default: one)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"output folder (default {_DEFAULT_OUT}; of --from-csv FILE, {_DEFAULT_OUT}-FILE)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default 1)")
    parser.add_argument(
        "--nproc-per-node",
        type=int,
        metavar="N",
        help="processes of a run (default: this machine's GPUs over the jobs; 1 on a CPU)",
    )
    parser.add_argument(
        "--budget-hours",
        type=float,
        metavar="H",
        help="start no run that would take all of them past so many GPU hours (core hours on a "
        "CPU), as measured on the first",
    )
    parser.add_argument(
        "--tokens-available",
        type=float,
        metavar="N",
        help="recommend only what reads no more text than this",
    )
    parser.add_argument(
        "--halving",
        action="store_true",
        help="short runs of all, longer ones of the better half, and so on, instead of the grid",
    )
    parser.add_argument(
        "--from-csv",
        type=Path,
        metavar="FILE",
        help="run nothing: report on a table of results (bag_size, step_ratio, loss; perhaps seed "
        "and data_tokens)",
    )


def main(args: argparse.Namespace, others: list[str]) -> int:
    """Run a sweep and report on it.

    Args:
        args: of `add_arguments`.
        others: the rest of the command line, for every run.

    Returns:
        The exit code: 0, or 130 after Ctrl-C, with a report of what there is.

    Raises:
        UserError: the grid, a flag, the corpus or the folder cannot be used, or a run failed.
    """
    _check_numbers(args)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_LOG, highlight=False)
    if args.from_csv is not None:
        return _report_table(args, others, console)
    for flag in ("recipe", "bag_sizes", "step_ratios"):
        if getattr(args, flag) is None:
            raise UserError(f"a sweep needs --{flag.replace('_', '-')}: see sweep --help")
    grid = grid_from_words(args.bag_sizes, args.step_ratios)
    # Ending otherwise than by Ctrl-C must not leave runs behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(args, others, grid, console)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE


def _run(args: argparse.Namespace, others: list[str], grid: Grid, console: Console) -> int:
    from tst_megatron.sweep.halving import rungs_of
    from tst_megatron.sweep.recommendation import Limit
    from tst_megatron.sweep.report import Found
    from tst_megatron.sweep.search import Sweep, run_grid, run_halving
    from tst_megatron.sweep.settings import begin, settings_from_flags
    from tst_megatron.sweep.text import text_of_grid

    settings = settings_from_flags(args.recipe, others)
    grid = dataclasses.replace(grid, seeds=_seeds(args, others, settings.seed))
    check_stages(grid, settings.num_steps)
    text = text_of_grid(settings, grid)
    limit = None
    configs = grid.configs
    if args.tokens_available is not None:
        positions = text[BASELINE].data_tokens
        limit = Limit(int(args.tokens_available), positions, settings.reads_bags)
        configs = tuple(config for config in configs if limit.holds(config))
    if args.halving:
        if not configs:
            raise UserError(
                f"--tokens-available {args.tokens_available:g} is too little text for every pair: "
                "add a smaller bag size or step ratio, or leave --halving out"
            )
        check_stages(grid, rungs_of(len(configs), settings.num_steps)[0].steps)
    machine = _machine(args)
    _check_flags(args.recipe, others, settings, grid)
    out = (args.out or _DEFAULT_OUT).resolve()
    begin(out, settings)
    sweep = Sweep(out / "cells", settings, grid, machine, args.budget_hours)
    _say_what_is_run(sweep, text, args.halving, console)
    search = None
    if args.halving:
        trained, search = run_halving(sweep, configs, console)
    else:
        trained = run_grid(sweep, console)
    _report(
        out,
        Found(
            name=args.recipe,
            num_steps=settings.num_steps,
            results=tuple(sweep.results(trained.failed)),
            wanted=len(grid.seeds) * (1 + len(grid.configs)),
            left_out=tuple(cell.name for cell in trained.left_out),
            text=text,
            limit=limit,
            budget_hours=args.budget_hours,
            spent_hours=trained.spent_hours,
            search=search,
            failed=trained.failed,
        ),
        console,
    )
    if trained.finished and trained.failed:
        raise UserError(
            f"{len(trained.failed)} of the runs failed and the report is of the others: see it for "
            "the reasons; the same command tries them again"
        )
    return 0 if trained.finished else INTERRUPTED_EXIT_CODE


def _report(out: Path, found: "Found", console: Console) -> None:
    from tst_megatron.sweep.report import print_report, write_report

    try:
        report = write_report(out, found)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    print_report(report, console)
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)


def _report_table(args: argparse.Namespace, others: list[str], console: Console) -> int:
    from tst_megatron.sweep.report import Found
    from tst_megatron.sweep.results import read_csv
    from tst_megatron.sweep.settings import SETTINGS_FILE

    for flag in ("recipe", "bag_sizes", "step_ratios", "seeds", "budget_hours"):
        if getattr(args, flag) is not None:
            raise UserError(
                f"--from-csv runs nothing, so it takes no --{flag.replace('_', '-')}: leave one out"
            )
    if args.halving or others:
        flag = "--halving" if args.halving else others[0]
        raise UserError(f"--from-csv runs nothing, so it takes no {flag}: leave one out")
    results = read_csv(args.from_csv)
    out = args.out or Path(f"{_DEFAULT_OUT}-{args.from_csv.stem}")
    if (out / SETTINGS_FILE).exists():
        raise UserError(f"{out} holds a sweep with a report of its own: choose another --out")
    limit = None
    if args.tokens_available is not None:
        limit = _limit_of_table(args, results)
    steps = next((result.steps for result in results if result.steps), None)
    found = Found(args.from_csv.stem, steps, tuple(results), len(results), limit=limit)
    _report(out, found, console)
    return 0


def _limit_of_table(args: argparse.Namespace, results: "list[Result]") -> "Limit":
    """The text there is, for runs that may have read bags or, with output alone, single tokens."""
    from tst_megatron.sweep.recommendation import Limit

    baseline, superposed = (
        [r.data_tokens for r in results if r.data_tokens and r.config.is_baseline == is_baseline]
        for is_baseline in (True, False)
    )
    tokens = int(args.tokens_available)
    if baseline:
        return Limit(tokens, baseline[0], not superposed or max(superposed) > baseline[0])
    positions = next((p for result in results if (p := _positions(result))), None)
    if positions is None:
        raise UserError(
            f"--tokens-available needs to know what runs read: add a column data_tokens to "
            f"{args.from_csv}"
        )
    return Limit(tokens, positions)


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("jobs", "nproc_per_node"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is below 1: use 1 or more")
    for name in ("budget_hours", "tokens_available"):
        value = getattr(args, name)
        # Written so that NaN fails too.
        if value is not None and not 0 < value < float("inf"):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {value:g} has to be above 0: leave it out or give a number")


def _seeds(args: argparse.Namespace, others: list[str], default: int) -> tuple[int, ...]:
    if args.seeds is None:
        return (default,)
    if any(word.partition("=")[0] == "--seed" for word in others):
        raise UserError("--seeds and --seed both set the seeds: use one")
    return seeds_from_words(args.seeds)


def _machine(args: argparse.Namespace) -> "Machine":
    """Runs on all GPUs of this machine, or on its CPU where it has none."""
    import torch

    from tst_megatron.sweep.training import Machine
    from tst_megatron.trainer.cpu import DEVICE_VARIABLE

    gpus = 0 if os.environ.get(DEVICE_VARIABLE) == "cpu" else torch.cuda.device_count()
    if not gpus:
        return Machine(args.jobs, args.nproc_per_node or 1, on_gpus=False)
    processes = args.nproc_per_node or max(1, gpus // args.jobs)
    if args.jobs * processes > gpus:
        raise UserError(
            f"--jobs {args.jobs} of {processes} processes each need {args.jobs * processes} GPUs, "
            f"and there are {gpus}: lower --jobs or --nproc-per-node"
        )
    return Machine(args.jobs, processes, on_gpus=True)


def _check_flags(recipe: str, others: list[str], settings: "SweepSettings", grid: Grid) -> None:
    """Megatron would name a wrong flag only in the log of the first run that has it."""
    from tst_megatron.trainer.cpu import prepare_backend

    prepare_backend()
    from tst_megatron.recipes import read
    from tst_megatron.recipes.keys import check_keys, check_together, main_name

    check_keys(read(recipe).overridden(others, main_name))
    for config in (BASELINE, *grid.configs):
        check_together(settings.flags(config, grid.seeds[0]))


def _say_what_is_run(
    sweep: "Sweep", text: "dict[Config, Text]", halves: bool, console: Console
) -> None:
    grid, settings = sweep.grid, sweep.settings
    tokens = [one.data_tokens for one in text.values()]
    what = "searched by halving" if halves else "each run whole"
    console.print(
        f"{len(grid.configs)} pairs of s and r and the baseline, {what}, {len(grid.seeds)} "
        f"seed{'s' if len(grid.seeds) > 1 else ''}: {settings.num_steps:,} steps a run, "
        f"which reads {min(tokens):,} to {max(tokens):,} tokens. Ctrl-C leaves a report of "
        "what was done; the same command goes on from there.",
        soft_wrap=True,
    )


def _positions(result: "Result") -> int | None:
    """Positions that a run computed on, from what it read."""
    if result.data_tokens is None:
        return None
    config = result.config
    return round(result.data_tokens / (1 + config.step_ratio * (config.bag_size - 1)))
