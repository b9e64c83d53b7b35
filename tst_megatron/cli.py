"""The command ``tst-megatron``: a verb, and the module that does it.

The one idea: a command is a row of a table. Its module has ``EXAMPLES``, ``add_arguments`` and
``main``, and is imported only to run it or to show its flags, so that ``--help`` answers at once.
"""

import argparse
import importlib
import sys
import warnings
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

from tst_megatron.errors import user_errors_exit
from tst_megatron.methods.registry import COMMANDS as METHODS_OWN
from tst_megatron.old_flags import with_new_names
from tst_megatron.stock.flags import DRY_RUN as DRY_RUN_FLAG


class Takes(Enum):
    """What a module's ``main`` is given."""

    ITS_FLAGS = "the arguments that it added"
    FLAGS_OF_A_RUN = "those, and the words that were none of them: flags for a run"
    WORDS = "the command line as it is, which somebody else parses: Megatron has a thousand flags"


@dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        words: one, or a group and its job.
        purpose: in a line, for lists.
        module: that does it.
        takes: what it is given.
    """

    words: tuple[str, ...]
    purpose: str
    module: str
    takes: Takes = Takes.ITS_FLAGS


PRETRAIN = Command(
    ("pretrain",),
    "train with Megatron's pretrain, and with the methods that flags ask for",
    "tst_megatron.trainer.pretrain",
    Takes.WORDS,
)
DRY_RUN = Command(
    ("pretrain",),
    "say what a run would do and need, and what it would be refused for",
    "tst_megatron.planner.dry_run",
    Takes.WORDS,
)
COMMANDS = (
    PRETRAIN,
    Command(
        ("demo",),
        "train a small baseline and TST run on a CPU and compare them",
        "tst_megatron.demo",
        Takes.FLAGS_OF_A_RUN,
    ),
    Command(
        ("plan",),
        "say what a run needs: memory, operations, bytes on the wire, hours",
        "tst_megatron.planner.command",
        Takes.FLAGS_OF_A_RUN,
    ),
    Command(
        ("compare",),
        "say what runs of a method saved against ordinary ones, from their logs",
        "tst_megatron.analysis.compare.command",
    ),
    Command(
        ("evaluate",),
        "say what a model scores: tasks, and bits a byte of held-out text",
        "tst_megatron.evaluation.command",
    ),
    Command(
        ("sweep",),
        "choose a method's settings from a grid of runs",
        "tst_megatron.sweep.command",
        Takes.FLAGS_OF_A_RUN,
    ),
    Command(
        ("chain", "run"),
        "train a chain of runs on this machine, each going on from the one before",
        "tst_megatron.chains.commands.run",
    ),
    Command(
        ("chain", "show"),
        "show a chain's links, or the command line of one",
        "tst_megatron.chains.commands.show",
    ),
    Command(
        ("chain", "plan"),
        "say what every link of a chain needs, and what all of them come to",
        "tst_megatron.chains.commands.plan",
    ),
    Command(
        ("export",),
        "write a checkpoint as a folder that Hugging Face's libraries load",
        "tst_megatron.huggingface.commands.export",
    ),
    Command(
        ("import",),
        "make a checkpoint of a Hugging Face folder",
        "tst_megatron.huggingface.commands.import_",
    ),
    Command(
        ("scaling", "design"),
        "say what planned runs would tell of a law, before they run",
        "tst_megatron.analysis.scaling.commands.design",
    ),
    Command(
        ("scaling", "fit"),
        "fit a law of loss over size and length to runs, and what a method's data are worth",
        "tst_megatron.analysis.scaling.commands.fit",
    ),
    Command(
        ("scaling", "predict"),
        "say what a run would end with, by a law",
        "tst_megatron.analysis.scaling.commands.predict",
    ),
    Command(
        ("scaling", "optimal"),
        "say the best size and length for a budget, or for a loss",
        "tst_megatron.analysis.scaling.commands.optimal",
    ),
    Command(
        ("scaling", "plot"),
        "draw a law and its runs: a page and pictures",
        "tst_megatron.analysis.scaling.commands.plot",
    ),
    Command(
        ("generate",),
        "go on from prompts with a trained model",
        "tst_megatron.huggingface.commands.generate",
    ),
    Command(("recipe",), "look at whole training recipes", "tst_megatron.recipes.command"),
    Command(
        ("tokenizer", "train"),
        "train a SentencePiece tokenizer on text files",
        "tst_megatron.corpora.commands.tokenizer_train",
    ),
    Command(
        ("tokenizer", "inspect"),
        "show what a tokenizer is, and what it makes of a text",
        "tst_megatron.corpora.commands.tokenizer_inspect",
    ),
    Command(
        ("compressor", "train"),
        "make a byte model of text files",
        "tst_megatron.experiments.compressor_train",
    ),
    Command(
        ("compressor", "build"),
        "make a compressor of a byte model: a tokenizer of equal information",
        "tst_megatron.corpora.commands.compressor_build",
    ),
    Command(
        ("compressor", "inspect"),
        "show what a compressor is, and the windows of a text",
        "tst_megatron.corpora.commands.compressor_inspect",
    ),
    Command(
        ("compressor", "measure"),
        "say how far a compressor gets with text, how fast, and that it is lossless",
        "tst_megatron.corpora.commands.compressor_measure",
    ),
    Command(
        ("compressor", "proxy"),
        "make a tokenizer that has text in two forms: bytes, and another one's ids",
        "tst_megatron.corpora.commands.compressor_proxy",
    ),
    Command(
        ("index", "build"),
        "turn text files into Megatron's .bin and .idx",
        "tst_megatron.corpora.commands.index_build",
    ),
    Command(
        ("index", "merge"),
        "join indexed corpora into one",
        "tst_megatron.corpora.commands.index_merge",
    ),
    Command(
        ("index", "inspect"),
        "show a corpus: its documents, its samples, its lengths",
        "tst_megatron.trainer.commands.index_inspect",
    ),
    Command(
        ("index", "verify"),
        "check that a corpus is whole, to the last byte",
        "tst_megatron.corpora.commands.index_verify",
    ),
    Command(
        ("index", "budget"),
        "say what every stage of a schedule will read, and whether it is there",
        "tst_megatron.trainer.commands.index_budget",
        Takes.WORDS,
    ),
    Command(
        ("checkpoint", "inspect"),
        "show what a checkpoint is, and whether it is whole",
        "tst_megatron.checkpoints.commands.inspect",
    ),
    Command(
        ("checkpoint", "diff"),
        "say what differs between two checkpoints: arguments, tensors, values",
        "tst_megatron.checkpoints.commands.diff",
    ),
    *(Command(*row) for row in METHODS_OWN),
)
_GROUPS = {
    "chain": "one training in links: train them, show them, plan them",
    "scaling": "fit laws of loss over size and length to runs, and ask them",
    "tokenizer": "make and look at tokenizers",
    "compressor": "text as ids of equal information: make byte models and tables, look at them",
    "index": "make, check and look at indexed corpora",
    "checkpoint": "look at checkpoints, compare them, and make a larger model's",
}


def main() -> None:
    """Run the command on the command line."""
    with user_errors_exit():
        words = with_new_names(sys.argv[1:])
        if words == ["pretrain"]:
            words.append("--help")  # No run has no flags.
        command = _named(words)
        given = _given(command, words)
        if command is PRETRAIN and any(word.partition("=")[0] == DRY_RUN_FLAG for word in words):
            command = DRY_RUN
        if command is not PRETRAIN:
            # Megatron says as it is imported what this machine lacks to train; these do not train.
            warnings.simplefilter("ignore")
        # A number, since to torch's launcher an exit without one is a failure.
        sys.exit(_module(command).main(*given) or 0)


def _named(words: list[str]) -> Command:
    """The command that words begin with; leaves with help, or with what is wrong."""
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return command
    _show_and_leave(_parser(None), words)


def _show_and_leave(parser: argparse.ArgumentParser, words: list[str]) -> NoReturn:
    parser.parse_args(words)
    raise AssertionError(f"the parser knows a command that the table does not: {words}")


def _given(command: Command, words: list[str]) -> tuple[Any, ...]:
    """What the command's ``main`` is given; leaves where help is asked for or a flag is wrong."""
    rest = words[len(command.words) :]
    if command.takes is Takes.WORDS and rest not in (["-h"], ["--help"]):
        return (rest,)
    parser = _parser(command)
    args, others = parser.parse_known_args(words)
    if command.takes is Takes.FLAGS_OF_A_RUN:
        return args, others
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return (args,)


def _module(command: Command) -> Any:
    return importlib.import_module(command.module)


def _parser(asked_for: Command | None) -> argparse.ArgumentParser:
    """The commands, and the flags of the one that is asked for."""
    parser = argparse.ArgumentParser(
        prog="tst-megatron",
        description="Ways to train for less on Megatron-Core, and what each saves.",
        epilog="tst-megatron COMMAND --help shows a command's flags and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    jobs: dict[str, Any] = {}
    for command in COMMANDS:
        *group, name = command.words
        if group and group[0] not in jobs:
            jobs[group[0]] = _add_group(commands, group[0])
        among = jobs[group[0]] if group else commands
        if command is asked_for:
            module = _module(command)
            module.add_arguments(_add(among, name, command.purpose, module.EXAMPLES))
        else:
            among.add_parser(name, help=command.purpose)
    return parser


def _add_group(commands: Any, group: str) -> Any:
    examples = f"tst-megatron {group} JOB --help shows a job's flags."
    parser = _add(commands, group, _GROUPS[group], examples)
    return parser.add_subparsers(required=True, metavar="JOB")


def _add(commands: Any, name: str, purpose: str, examples: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return added
