"""Pages lead to what is there, and the commands that they show are commands.

The one idea: nothing that is shown is run here, but its verb and every flag are asked of the parser
that would read them; Megatron's flags are those of the table, so that torch is not imported.
"""

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tst_megatron import cli
from tst_megatron.methods.registry import add_arguments
from tst_megatron.stock.megatron_flags import add_megatron_flags

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ = [*PAGES, REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
ENDS = "|&;<>()"  # What a shell's command ends at.
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Shown:
    """A command in a page or in a command's examples.

    Attributes:
        where: file and what it says.
        words: after the program's name, up to a pipe or a comment.
        is_whole: whether it stands as one types it, and is not a part within a sentence.
    """

    where: str
    words: tuple[str, ...]
    is_whole: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.words)}"


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def parts(text: str) -> tuple[list[str], str]:
    """The fenced blocks of a page, and all that is outside them."""
    pieces = re.split(r"^ *```.*\n", text, flags=re.MULTILINE)
    return pieces[1::2], "".join(pieces[::2])


def anchors(page: Path) -> Counter[str]:
    """Of a page's headings, named as GitHub and mkdocs.yml name them."""
    _, prose = parts(page.read_text())
    headings = re.findall(r"^#+ +(.*?)\s*$", prose, re.MULTILINE)
    without_links = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings)
    return Counter(
        re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in without_links
    )


def links(page: Path) -> list[str]:
    _, prose = parts(page.read_text())
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))


def commands_in(text: str) -> Iterator[tuple[str, ...]]:
    """Command lines of the program within a shell's lines."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=ENDS)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # A quote that is not closed: no shell's line.
            continue
        yield from _of_the_program(words)


def _of_the_program(words: list[str]) -> Iterator[tuple[str, ...]]:
    for place, word in enumerate(words):
        is_module = word == "tst_megatron" and words[place - 1 : place] == ["-m"]
        if not is_module and word.rpartition("/")[2] != "tst-megatron":
            continue
        rest = words[place + 1 :]
        end = next((at for at, one in enumerate(rest) if set(one) <= set(ENDS)), len(rest))
        yield tuple(rest[:end])


@cache
def shown() -> tuple[Shown, ...]:
    """Every command in a fenced block or between backticks, and in the examples of a command."""
    found = []
    for page in READ:
        blocks, prose = parts(page.read_text())
        for block in blocks:
            found += [Shown(name(page), words) for words in commands_in(block)]
        for span in re.findall(r"`([^`]+)`", prose):
            words_of_all = commands_in(" ".join(span.split()))
            found += [Shown(name(page), words, is_whole=False) for words in words_of_all]
    for command in cli.COMMANDS:
        examples = import_module(command.module).EXAMPLES
        found += [Shown(f"{command.module}.EXAMPLES", words) for words in commands_in(examples)]
    return tuple(found)


def command_of(words: tuple[str, ...]) -> cli.Command | None:
    return next((one for one in cli.COMMANDS if words[: len(one.words)] == one.words), None)


@cache
def flags_of(command: cli.Command) -> Mapping[str, argparse.Action]:
    """By their names: a command's own, its jobs', and a run's where it takes those."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    import_module(command.module).add_arguments(parser)
    found, takes_a_run_s = _within(parser)
    is_a_run_s = takes_a_run_s or command.takes is not cli.Takes.ITS_FLAGS
    return {**(flags_of_a_run() if is_a_run_s else {}), **found}


def _within(parser: argparse.ArgumentParser) -> tuple[dict[str, argparse.Action], bool]:
    """A parser's flags, its jobs' too, and whether one of them takes any words after its own."""
    flags = dict(parser._option_string_actions)
    takes_all = any(action.nargs == argparse.REMAINDER for action in parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for job in action.choices.values():
                more, takes_more = _within(job)
                flags |= more
                takes_all |= takes_more
    return flags, takes_all


@cache
def flags_of_a_run() -> Mapping[str, argparse.Action]:
    parser = add_megatron_flags(argparse.ArgumentParser(add_help=False, allow_abbrev=False))
    return add_arguments(parser)._option_string_actions


def given(words: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """Flags and the first value of each, None where none is shown."""
    for place, word in enumerate(words):
        if not re.match(r"--?[a-z]", word):
            continue
        flag, equals, value = word.partition("=")
        behind = words[place + 1] if place + 1 < len(words) else None
        yield flag, value if equals else behind


def takes(action: argparse.Action, value: str | None) -> bool:
    """Whether a flag takes a value; what is no name, such as ``X`` or ``...``, stands for one."""
    if not action.choices or not value or not re.fullmatch(r"[a-z0-9.-]*[a-z0-9]", value):
        return True
    return value in map(str, action.choices)


def has_gaps(words: tuple[str, ...]) -> bool:
    """Whether words stand for others: ``...``, a variable, or a name in capitals."""
    return any("$" in word or re.fullmatch(r"[A-Z]+|.*(\.\.\.|…)", word) for word in words)


def test_every_page_is_in_the_site_s_navigation_once() -> None:
    site = yaml.load((REPOSITORY / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)
    entries = [page for section in site["nav"] for pages in section.values() for page in pages]
    assert Counter(entries) == Counter(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", READ, ids=name)
def test_links_lead_to_files_and_headings_that_there_are(page: Path) -> None:
    dead = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.is_file() and target.is_relative_to(REPOSITORY)
        if not is_there or (heading and anchors(target)[heading] != 1):
            dead.append(link)
    assert dead == []


def test_commands_are_found_in_what_is_shown() -> None:
    text = (
        "torchrun --nproc-per-node 8 -m tst_megatron pretrain $FLAGS \\\n"
        "    --tst-bag-size 6   # bags\n"
        "A=1 .venv/bin/tst-megatron plan --json > file && tst-megatron compare a --with b | less\n"
    )
    assert list(commands_in(text)) == [
        ("pretrain", "$FLAGS", "--tst-bag-size", "6"),
        ("plan", "--json"),
        ("compare", "a", "--with", "b"),
    ]
    assert len(shown()) > 150


def test_commands_that_are_shown_are_there() -> None:
    groups = {command.words[0] for command in cli.COMMANDS}
    unknown = []
    for one in shown():
        # A group by itself, or jobs in one word: `checkpoint inspect|diff`, `index`.
        is_named = not one.words or (len(one.words) == 1 and one.words[0] in groups)
        if command_of(one.words) is None and not is_named and not one.words[0].startswith("-"):
            unknown.append(str(one))
    assert unknown == []


def test_flags_that_are_shown_are_the_command_s_and_take_their_values() -> None:
    wrong = []
    for one in shown():
        command = command_of(one.words)
        for flag, value in () if command is None else given(one.words):
            action = flags_of(command).get(flag)
            if action is None:
                wrong.append(f"{one}: there is no {flag}")
            elif not takes(action, value):
                wrong.append(f"{one}: {flag} does not take {value}")
    assert wrong == []


def test_commands_that_are_shown_whole_are_read(capsys) -> None:
    wrong = []
    for one in shown():
        command = command_of(one.words)
        if command is None or not one.is_whole or has_gaps(one.words):
            continue
        try:
            cli._given(command, list(one.words))
        except SystemExit as ended:
            if ended.code:
                wrong.append(f"{one}: {capsys.readouterr().err.splitlines()[-1]}")
    assert wrong == []


def test_targets_of_make_that_are_shown_are_there() -> None:
    unknown = []
    for page in READ:
        blocks, prose = parts(page.read_text())
        for text in (*blocks, *re.findall(r"`([^`\n]+)`", prose)):
            named = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
            unknown += [f"{name(page)}: {one}" for one in named if one not in TARGETS]
    assert unknown == []
