"""The command ``tst-megatron``: one subcommand a job.

Subcommands import what they need when they run, so that ``--help`` answers at once.
"""

import argparse
import importlib
import sys
import warnings
from typing import Any

from tst_megatron.errors import user_errors_exit

_PRETRAIN_EXAMPLES = """\
examples:
  torchrun --nproc-per-node 8 -m tst_megatron pretrain $YOUR_MEGATRON_FLAGS \\
      --tst-bag-size 6 --tst-step-ratio 0.3
  torchrun --nproc-per-node 1 -m tst_megatron pretrain --recipe tiny-tst \\
      --tokenizer-model tokenizer.model --data-path corpus --tst-schedule 4:0.2,2:0.1

Every other flag is Megatron's, and keeps its meaning.
"""
_DEMO_EXAMPLES = """\
examples:
  tst-megatron demo                              both runs and the report, in runs/demo
  tst-megatron demo --quick --out runs/quick     a first look
  tst-megatron demo --corpus notes/ --steps 4000 --tst-bag-size 4 --tst-step-ratio 0.25
  tst-megatron demo --out runs/seed-2 --seed 2   any flag of Megatron's goes to both runs
"""
# Jobs of a group: (name, what it does). Each is a module, GROUP_NAME, of the folder.
_FOLDERS = {
    "tokenizer": "tst_megatron.corpora.commands",
    "index": "tst_megatron.corpora.commands",
    "recipe": "tst_megatron.recipes.commands",
}
# These ask the methods of a run.
_ELSEWHERE = {
    ("index", "budget"): "tst_megatron.trainer.commands",
    ("index", "inspect"): "tst_megatron.trainer.commands",
}
_RECIPE_JOBS = (
    ("list", "list the recipes, their layouts and precisions"),
    ("show", "show a recipe's flags, and where each value comes from"),
    ("diff", "show the flags in which two recipes differ"),
    ("flags", "print a recipe as a command line of Megatron's"),
)
_TOKENIZER_JOBS = (
    ("train", "train a SentencePiece tokenizer on text files"),
    ("inspect", "show what a tokenizer is, and what it makes of a text"),
)
_INDEX_JOBS = (
    ("build", "turn text files into Megatron's .bin and .idx"),
    ("merge", "join indexed corpora into one"),
    ("inspect", "show a corpus: its documents, its samples, its lengths"),
    ("verify", "check that a corpus is whole, to the last byte"),
    ("budget", "say what every stage of a schedule will read, and whether it is there"),
)


def main() -> None:
    """Run the subcommand on the command line."""
    if sys.argv[1:3] == ["index", "budget"] and not {"-h", "--help"} & set(sys.argv[3:]):
        # It takes pretrain's whole command line, of which most is not for it.
        with user_errors_exit():
            sys.exit(_command("index", "budget").main(sys.argv[3:]))
    helps_with_pretrain = sys.argv[1:] in (["pretrain"], ["pretrain", "-h"], ["pretrain", "--help"])
    # Megatron parses what follows: it has some thousand flags of its own.
    if sys.argv[1:2] == ["pretrain"] and not helps_with_pretrain:
        from tst_megatron.trainer.pretrain import main as pretrain

        pretrain(sys.argv[2:])
        return
    parser = _parser(helps_with_pretrain)
    if sys.argv[1:] == ["pretrain"]:
        parser.parse_args(["pretrain", "--help"])
    args, others = parser.parse_known_args()
    # Megatron says as it is imported what this machine lacks to train; these commands do not.
    warnings.simplefilter("ignore")
    with user_errors_exit():
        if args.command == "demo":
            from tst_megatron.demo import main as demo

            sys.exit(demo(args, others))
        if args.command == "plan":
            from tst_megatron.planner.command import main as plan

            plan(args, others)
            return
        if args.command == "sweep":
            from tst_megatron.sweep.command import main as sweep

            sys.exit(sweep(args, others))
        if others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        if args.command == "compare":
            from tst_megatron.analysis.compare.command import main as compare

            sys.exit(compare(args))
        if args.command in _FOLDERS:
            sys.exit(_command(args.command, args.job).main(args))


def _parser(with_tst_flags: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tst-megatron",
        description="Token-superposition training on Megatron-Core: the same loss for fewer GPU "
        "hours.",
        epilog="tst-megatron COMMAND --help shows a command's flags and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pretrain = _add(
        commands,
        "pretrain",
        "train with Megatron's pretrain, superposed where the --tst- flags say so",
        _PRETRAIN_EXAMPLES,
    )
    if with_tst_flags:
        # Only where they are shown: they import Megatron, which takes seconds.
        from tst_megatron.methods.registry import add_arguments as add_own_arguments

        pretrain.add_argument("--recipe", help="flags from a recipe, or a .yaml file of your own")
        add_own_arguments(pretrain)
    demo = _add(
        commands,
        "demo",
        "train a small baseline and TST run on a CPU and compare them",
        _DEMO_EXAMPLES,
    )
    if sys.argv[1:2] == ["demo"]:
        from tst_megatron.demo import add_arguments

        add_arguments(demo)
    _add_lazily(
        commands,
        "plan",
        "say what a run needs: memory, operations, bytes on the wire, hours",
        "tst_megatron.planner.command",
    )
    _add_lazily(
        commands,
        "compare",
        "say what superposed runs saved against ordinary ones, from their logs",
        "tst_megatron.analysis.compare.command",
    )
    _add_lazily(
        commands,
        "sweep",
        "choose the bag size and the share of the steps in bags from a grid of runs",
        "tst_megatron.sweep.command",
    )
    _add_group(commands, "recipe", "look at whole training recipes", _RECIPE_JOBS)
    _add_group(commands, "tokenizer", "make and look at tokenizers", _TOKENIZER_JOBS)
    _add_group(commands, "index", "make, check and look at indexed corpora", _INDEX_JOBS)
    return parser


def _add_lazily(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    purpose: str,
    module: str,
) -> None:
    """A command whose module has its flags and examples, and is imported only to run or show it."""
    if sys.argv[1:2] != [name]:
        commands.add_parser(name, help=purpose)
        return
    command = importlib.import_module(module)
    command.add_arguments(_add(commands, name, purpose, command.EXAMPLES))


def _add_group(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    group: str,
    purpose: str,
    jobs: tuple[tuple[str, str], ...],
) -> None:
    parser = _add(commands, group, purpose, f"tst-megatron {group} JOB --help shows a job's flags.")
    added = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    # Flags are added for the one that is asked for: the others need not be imported.
    asked_for = sys.argv[2:3] if sys.argv[1:2] == [group] else []
    for job, what in jobs:
        if asked_for == [job]:
            command = _command(group, job)
            command.add_arguments(_add(added, job, what, command.EXAMPLES))
        else:
            added.add_parser(job, help=what)


def _command(group: str, job: str) -> Any:
    folder = _ELSEWHERE.get((group, job), _FOLDERS[group])
    return importlib.import_module(f"{folder}.{group}_{job}")


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    purpose: str,
    examples: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
