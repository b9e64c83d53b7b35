"""The subcommand ``sweep``: run a grid over a method's axes, or a search in it; say what to take.

The method is the one whose axes are given: they, their words and the fit come from it.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tst_megatron.errors import INTERRUPTED_EXIT_CODE, UserError
from tst_megatron.sweep.grid import Grid, add_axes, given_axes, grid_of, searches, with_rates

if TYPE_CHECKING:
    from tst_megatron.experiments.search import Trials
    from tst_megatron.experiments.text import TextRead
    from tst_megatron.methods.search import Limit, Search
    from tst_megatron.runs.outcomes import Choice
    from tst_megatron.sweep.report import Found
    from tst_megatron.sweep.settings import SweepSettings

EXAMPLES = f"""\
examples:
{"".join(search.words.examples for search in searches())}
Every other flag is pretrain's, Megatron's or ours, and goes to every run. The same command goes on
where it was cut off.
"""

_WIDTH_OF_A_LOG = 120
_DEFAULT_OUT = Path("runs/sweep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``sweep``; Megatron's follow them."""
    columns = "; or ".join(
        ", ".join((*(axis.name for axis in search.axes), "loss")) for search in searches()
    )
    parser.add_argument("--recipe", help="flags from a recipe, or a .yaml file of your own")
    add_axes(parser)
    parser.add_argument(
        "--seeds", nargs="*", metavar="N", help="run everything once with each (default: one)"
    )
    parser.add_argument(
        "--learning-rates",
        nargs="*",
        metavar="LR",
        help="peak learning rates to try in every cell, the baseline too: best is compared with "
        "best (default: the recipe's); a min-lr stays the same share of it",
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
        "--scaling",
        type=Path,
        metavar="LAW",
        help="a law of scaling fit: adds how many times its steps the baseline needs for the gain",
    )
    parser.add_argument(
        "--from-csv",
        type=Path,
        metavar="FILE",
        help=f"run nothing: report on a table of results ({columns}; perhaps seed and data_tokens)",
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
    if args.recipe is None:
        raise UserError("a sweep needs --recipe: see sweep --help")
    grid = grid_of(args)
    from tst_megatron.experiments.launch import end_on_signals

    end_on_signals()
    try:
        return _run(args, others, grid, console)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE


def _run(args: argparse.Namespace, others: list[str], grid: Grid, console: Console) -> int:
    from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
    from tst_megatron.analysis.scaling.law_file import read_law
    from tst_megatron.experiments.begin import begin
    from tst_megatron.experiments.cells import places_here
    from tst_megatron.experiments.search import Trials, run_grid, run_halving, runs_of_grid
    from tst_megatron.sweep.by_law import finished_baseline
    from tst_megatron.sweep.rates import named_rates
    from tst_megatron.sweep.report import Found
    from tst_megatron.sweep.settings import SETTINGS_FILE, settings_from_flags, text_of_choices

    law = None if args.scaling is None else ScalingLaw(args.scaling.name, read_law(args.scaling))
    search = grid.search
    settings = settings_from_flags(search, args.recipe, others)
    seeds = _seeds(args, others, settings.seed)
    rates = _rates(args, others)
    search.check(grid.choices, settings.num_steps)
    text = text_of_choices(settings, grid.choices, seeds[0])
    limit = _limit(args, search, text, settings)
    candidates = [choice for choice in grid.choices if limit is None or limit.holds(choice)]
    if args.halving:
        _check_halving(args, grid, candidates, len(rates), settings.num_steps)
    places = places_here(args.jobs, args.nproc_per_node)
    _check_flags(args.recipe, others, settings, grid, rates, seeds[0])
    out = (args.out or _DEFAULT_OUT).resolve()
    begin(out / SETTINGS_FILE, "sweep", {"recipe": settings.recipe, "flags": settings.values})
    trials = Trials(
        out / "cells",
        grid.at_rates(rates),
        seeds,
        settings.num_steps,
        settings.cell,
        places,
        args.budget_hours,
    )
    _say_what_is_run(grid, trials, rates, text, args.halving, console)
    halving = None
    if args.halving:
        trained, halving = run_halving(trials, with_rates(candidates, rates), console)
    else:
        trained = run_grid(trials, console)
    _report(
        out,
        Found(
            search=search,
            name=args.recipe,
            num_steps=settings.num_steps,
            outcomes=tuple(named_rates(trials.outcomes(trained.failed))),
            wanted=runs_of_grid(trials.choices, len(seeds)),
            left_out=tuple(cell.name for cell in trained.left_out),
            text=text,
            limit=limit,
            num_seeds=len(seeds),
            budget_hours=args.budget_hours,
            spent_hours=trained.spent_hours,
            halving=halving,
            failed=trained.failed,
            law=law,
            baseline=finished_baseline(trials),
        ),
        console,
    )
    if trained.finished and trained.failed:
        raise UserError(
            f"{len(trained.failed)} of the runs failed and the report is of the others: see it for "
            "the reasons; the same command tries them again"
        )
    return 0 if trained.finished else INTERRUPTED_EXIT_CODE


def _limit(
    args: argparse.Namespace,
    search: "Search",
    text: Mapping["Choice", "TextRead"],
    settings: "SweepSettings",
) -> "Limit | None":
    """What the text that there is allows for, if it was told."""
    if args.tokens_available is None:
        return None
    of_baseline = text[search.baseline].data_tokens
    return search.limit(int(args.tokens_available), of_baseline, settings.values)


def _check_halving(
    args: argparse.Namespace,
    grid: Grid,
    candidates: "list[Choice]",
    num_rates: int,
    num_steps: int,
) -> None:
    """Check that there is something to choose from, and that the shortest runs can have it."""
    from tst_megatron.experiments.search import rungs_of

    words = grid.search.words
    if not candidates:
        raise UserError(
            f"--tokens-available {args.tokens_available:g} is too little text for every "
            f"{words.noun}: add {words.less_text}, or leave --halving out"
        )
    rungs = rungs_of(len(candidates) * max(1, num_rates), num_steps)
    grid.search.check(grid.choices, rungs[0].steps)


def _report(out: Path, found: "Found", console: Console) -> None:
    from tst_megatron.sweep.report import print_report, write_report

    try:
        report = write_report(out, found)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    print_report(found.search, report, console)
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)


def _report_table(args: argparse.Namespace, others: list[str], console: Console) -> int:
    from tst_megatron.sweep.outcomes_csv import read_csv
    from tst_megatron.sweep.report import Found
    from tst_megatron.sweep.settings import SETTINGS_FILE

    flags = [*_given(args, "recipe"), *(axis.flag for _, axis in given_axes(args))]
    flags += [
        *_given(args, "seeds", "learning_rates", "budget_hours", "scaling"),
        *(["--halving"] if args.halving else []),
    ]
    for flag in (*flags, *others):
        raise UserError(f"--from-csv runs nothing, so it takes no {flag}: leave one out")
    search, outcomes = read_csv(args.from_csv, searches())
    out = args.out or Path(f"{_DEFAULT_OUT}-{args.from_csv.stem}")
    if (out / SETTINGS_FILE).exists():
        raise UserError(f"{out} holds a sweep with a report of its own: choose another --out")
    limit: Limit | None = None
    if args.tokens_available is not None:
        limit = search.limit_of_table(int(args.tokens_available), outcomes)
        if limit is None:
            raise UserError(
                f"--tokens-available needs to know what runs read: add a column data_tokens to "
                f"{args.from_csv}"
            )
    steps = next((outcome.steps for outcome in outcomes if outcome.steps), None)
    name = args.from_csv.stem
    _report(out, Found(search, name, steps, tuple(outcomes), len(outcomes), limit=limit), console)
    return 0


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


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
    from tst_megatron.experiments.words import seeds_from_words

    return seeds_from_words(args.seeds)


def _rates(args: argparse.Namespace, others: list[str]) -> tuple[float, ...]:
    if args.learning_rates is None:
        return ()
    if any(word.partition("=")[0] == "--lr" for word in others):
        raise UserError("--learning-rates and --lr both set the learning rate: use one")
    from tst_megatron.experiments.words import rates_from_words

    return rates_from_words(args.learning_rates)


def _check_flags(
    recipe: str,
    others: list[str],
    settings: "SweepSettings",
    grid: Grid,
    rates: tuple[float, ...],
    seed: int,
) -> None:
    """Megatron would name a wrong flag only in the log of the first run that has it."""
    from tst_megatron.backends import prepare_backend

    prepare_backend()
    from tst_megatron.recipes import read
    from tst_megatron.recipes.keys import check_keys, check_together, main_name

    check_keys(read(recipe).overridden(others, main_name))
    of_baseline = with_rates([grid.search.baseline], rates)
    for choice in (*of_baseline, *with_rates(grid.choices, rates[:1])):
        check_together(settings.flags(choice, seed))


def _say_what_is_run(
    grid: Grid,
    trials: "Trials",
    rates: tuple[float, ...],
    text: "dict[Choice, TextRead]",
    halves: bool,
    console: Console,
) -> None:
    search, seeds = grid.search, trials.seeds
    symbols = " and ".join(axis.symbol for axis in search.axes)
    tokens = [one.data_tokens for one in text.values()]
    what = "searched by halving" if halves else "each run whole"
    if rates:
        what = f"{what}, at {len(rates)} learning rates ({rates[0]:g} to {rates[-1]:g})"
    if len(rates) > 1 < len(seeds) and not halves:
        what = f"{what} with the first seed and at the best of them with the others"
    console.print(
        f"{len(grid.choices)} {search.words.noun}s of {symbols} and the baseline, {what}, "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}: {trials.num_steps:,} steps a run, "
        f"which reads {min(tokens):,} to {max(tokens):,} tokens. Ctrl-C leaves a report of "
        "what was done; the same command goes on from there.",
        soft_wrap=True,
    )
