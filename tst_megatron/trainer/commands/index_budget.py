"""``tst-megatron index budget``: what a run would read, and whether it is there, without a GPU.

It takes the command line of ``pretrain`` as it is. Flags of Megatron's that say nothing about the
text are passed over; a word that is no flag of Megatron's or ours is refused.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tst_megatron.corpora import budget
from tst_megatron.corpora.blend import expand_blend
from tst_megatron.corpora.budget import Budget, StageBudget
from tst_megatron.corpora.parts import TextPart
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError
from tst_megatron.methods import registry
from tst_megatron.recipes import expand_recipe
from tst_megatron.recipes.keys import read_words
from tst_megatron.stock.megatron_flags import NotKnownError
from tst_megatron.trainer.reading import check_data_flags, check_held_out, reading_from_args

NOT_ENOUGH_EXIT_CODE = 1

EXAMPLES = """\
examples:
  tst-megatron index budget --recipe tiny --data-path data/corpus --tst-bag-size 4
  tst-megatron index budget --seq-length 4096 --global-batch-size 512 --train-iters 50000 \\
      --tst-schedule 16:0.3 --blend blend.yaml --json

It takes the whole command line of pretrain. The exit code is 0 if the text is there, 1 if not.
"""

_OF_MOCK_DATA = "Mock data are made up as they are read: there is enough of them for any run."
_LOG_WIDTH = 160  # Of a file or a pipe, which have none of their own.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add our flags and the methods', and of Megatron's those that decide what is read."""
    parser.add_argument(
        "--recipe", metavar="NAME", help="flags from a recipe, or a .yaml file of your own"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    registry.add_arguments(parser)
    megatron = parser.add_argument_group(
        "Megatron's", "All its other flags may stand beside these, and are not read."
    )
    for flag, metavar, says in (
        ("--seq-length", "L", "positions in a sample"),
        ("--global-batch-size", "B", "samples a step"),
        ("--train-iters", "N", "steps of the run"),
        ("--train-samples", "N", "samples of the run, instead of its steps"),
    ):
        megatron.add_argument(flag, type=int, metavar=metavar, help=says)
    megatron.add_argument("--step-batch-size-schedule", metavar="TOKENS:B ...")
    # To be refused: it says how much is read, and Megatron does not heed it.
    megatron.add_argument("--rampup-batch-size", nargs=3, help=argparse.SUPPRESS)
    for flag in ("--data-path", "--train-data-path", "--valid-data-path", "--test-data-path"):
        megatron.add_argument(flag, nargs="*", metavar="[WEIGHT] PREFIX")
    for flag in ("--data-args-path", "--per-split-data-args-path"):
        megatron.add_argument(flag, metavar="FILE")
    megatron.add_argument(
        "--mock-data", action="store_true", help="made-up tokens, of which there are enough"
    )
    megatron.add_argument("--split", metavar="TRAIN,VALID,TEST")
    megatron.add_argument("--seed", type=int, default=1234)
    megatron.add_argument("--mid-level-dataset-surplus", type=float, default=0.005, metavar="SHARE")
    megatron.add_argument("--eval-iters", type=int, default=100, metavar="N")


def main(argv: Sequence[str]) -> int:
    """Print the budget of a run.

    Args:
        argv: the command line after ``index budget``: that of ``pretrain``, and ``--json``.

    Returns:
        0 if the text is there, or repeats are allowed; 1 if a stage would repeat text.

    Raises:
        UserError: a flag, a recipe, a blend or a corpus cannot be used.
    """
    args = _parse(argv)
    check_data_flags(args)
    if args.mock_data:
        print(json.dumps({"mock_data": True, "problems": []}) if args.json else _OF_MOCK_DATA)
        return 0
    budget.check_files(all_prefixes(args))
    found = Budget(reading_from_args(args))
    problems = _problems(args, found)
    fitting = found.steps_that_fit()
    if args.json:
        print(json.dumps(_as_json(found, fitting, problems), indent=1))
    else:
        _show(found, fitting, problems)
        if sum(part.samples for part in _parts(found)) > _samples_of_run(args):
            print(
                "Where a stage ends is decided as the run goes: there is text for the most samples "
                "that each may have."
            )
    return NOT_ENOUGH_EXIT_CODE if problems else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tst-megatron index budget",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser)
    args, others = parser.parse_known_args(expand_blend(expand_recipe(list(argv))))
    with suppress(NotKnownError):
        read_words(others, parser._option_string_actions)
    if args.step_batch_size_schedule is not None and args.global_batch_size is not None:
        raise UserError(
            "--step-batch-size-schedule and --global-batch-size are two forms of one thing: use one"
        )
    return args


def _problems(args: argparse.Namespace, found: Budget) -> list[str]:
    """Why ``pretrain`` would refuse the run, a sentence each."""

    def train() -> None:
        if args.allow_repeats:
            budget.check_no_empty_stage(found.stages)
        else:
            budget.check_budget(found)

    problems = []
    for check in (train, lambda: check_held_out(args)):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    return problems


def _samples_of_run(args: argparse.Namespace) -> int:
    return sum(stage.samples for stage in registry.run_of(args).stages)


def _as_json(found: Budget, fitting: int, problems: list[str]) -> dict[str, Any]:
    reading = found.reading
    return {
        "train_iters": reading.train_iters,
        "seq_length": reading.seq_length,
        "seed": reading.seed,
        "stages": [
            {
                "name": part.name,
                "tokens_a_position": part.tokens_a_position,
                **part.facts,
                "samples": part.samples,
                "sources": [_line_as_json(line) for line in lines],
            }
            for part, lines in _by_part(found.stages)
        ],
        "data_tokens": sum(part.data_tokens for part in _parts(found)),
        "needed": sum(line.needed for line in found.stages),
        "available": sum(line.available for line in found.stages),
        "repeats": not found.is_met,
        "steps_that_fit": fitting,
        "problems": problems,
    }


def _line_as_json(line: StageBudget) -> dict[str, Any]:
    return {
        "path": line.source.prefix,
        "weight": line.source.weight,
        "samples": line.samples,
        "needed": line.needed,
        "available": line.available,
        "documents": line.documents,
        "epochs": line.epochs if line.available else None,
        "max_epochs": line.source.max_epochs,
        "is_met": line.is_met,
    }


def _by_part(lines: Sequence[StageBudget]) -> list[tuple[TextPart, list[StageBudget]]]:
    groups = (list(group) for _, group in groupby(lines, key=lambda line: line.part.name))
    return [(group[0].part, group) for group in groups]


def _parts(found: Budget) -> list[TextPart]:
    return [part for part, _ in _by_part(found.stages)]


def _show(found: Budget, fitting: int, problems: list[str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    table = Table(box=SIMPLE_HEAD, title=_title(found), title_justify="left", title_style="")
    table.add_column("stage")
    table.add_column("source", overflow="fold")
    for name in ("samples", "needed", "there", "documents", "epochs", "allowed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for part, lines in _by_part(found.stages):
        stage = part.name
        for line in lines:
            table.add_row(stage, Text(line.source.prefix), *_numbers([line]), *_verdict(line))
            stage = ""
        if len(lines) > 1:
            table.add_row("", "all", *_numbers(lines), "", "")
        table.add_section()
    table.add_row("run", "", *_numbers(found.stages), "", "")
    console.print(table)
    reading = found.reading
    if any(source.weight is not None for source in reading.sources):
        console.print(
            f"Needed has the {100 * reading.surplus:g} % more that Megatron lays out for a blend "
            "with weights (--mid-level-dataset-surplus)."
        )
    once = "nothing more often than allowed" if _has_caps(found) else "nothing twice"
    console.print(f"Up to {fitting:,} steps read {once}.")
    for problem in problems:
        console.print(f"Not enough: {problem}.", markup=False)
    if not problems and not found.is_met:
        console.print("Text is repeated, as --allow-repeats allows.")


def _has_caps(found: Budget) -> bool:
    return any(source.max_epochs > 1 for source in found.reading.sources)


def _title(found: Budget) -> str:
    reading = found.reading
    return (
        f"{reading.train_iters:,} steps of {reading.seq_length:,} positions a sample, seed "
        f"{reading.seed}; tokens"
    )


def _numbers(lines: Sequence[StageBudget]) -> tuple[str, ...]:
    needed, available = sum(line.needed for line in lines), sum(line.available for line in lines)
    return (
        f"{sum(line.samples for line in lines):,}",
        f"{needed:,}",
        f"{available:,}",
        f"{sum(line.documents for line in lines):,}",
        budget.times(needed / available if available else float("inf")),
    )


def _verdict(line: StageBudget) -> tuple[str, str]:
    if line.is_empty:
        return f"{line.source.max_epochs:g}", "[red]too few documents[/]"
    return f"{line.source.max_epochs:g}", "there" if line.is_met else "[red]repeats[/]"
