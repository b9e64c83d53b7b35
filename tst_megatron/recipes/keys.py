"""Are a recipe's keys and a command line's words flags, and do they take their values?

Answered before torch is imported, by a table of Megatron's flags and by our own. The one idea: the
parser is argparse's and has the flags of the run's own, so what is refused here the run would
refuse as well, some seconds later and in a thousand lines.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from tst_megatron.corpora.blend import expand_blend
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import add_arguments, check_flags
from tst_megatron.recipes.files import nearest
from tst_megatron.recipes.recipe import COMMAND_LINE, Recipe, expand_recipe, flags
from tst_megatron.stock.megatron_flags import Flags, NotKnownError, add_megatron_flags, known


def check_keys(recipe: Recipe) -> None:
    """Check every value that a recipe gives, those that a later one takes the place of as well.

    Raises:
        UserError: a key is no flag of Megatron's or ours, or does not take its value.
    """
    for key, settings in recipe.settings.items():
        for setting in settings:
            is_ours = setting.source != COMMAND_LINE
            check_flag(
                key,
                setting.value,
                f"the recipe {setting.source}" if is_ours else "the command line",
            )


def check_together(words: Sequence[str]) -> None:
    """Check whether the flags of a run go together, as the run itself will.

    Args:
        words: the command line after ``pretrain``, of flags that `check_keys` knows.

    Raises:
        UserError: they contradict one another.
    """
    with suppress(NotKnownError):  # The run itself will know.
        check_flags(read_words(expand_blend(expand_recipe(list(words)))))


def read_words(words: Sequence[str], others: Iterable[str] = ()) -> Flags:
    """The flags of a run's command line, as Megatron's parser will read them.

    Args:
        words: without ``--recipe``, which `expand_recipe` takes the place of.
        others: flags that stand beside them, for a word that is a slip in one of these.

    Raises:
        UserError: a word is no flag, or a flag does not take its value.
        NotKnownError: help is asked for, which only Megatron can give.
    """
    try:
        args, unknown = _parser().parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise UserError(f"the command line cannot be read: {error}") from None
    if unknown:
        raise UserError(no_flag(unknown[0], [*_parser()._option_string_actions, *others]))
    return known(args)


def no_flag(word: str, flags_there_are: Iterable[str]) -> str:
    """What is said of a word of a command line that belongs to no flag."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return f"the word {word!r} belongs to no flag: leave it out, or put its flag in front of it"
    near = nearest(name, sorted(set(flags_there_are)), "leave it out")
    return f"{name} is no flag of Megatron's or ours: {near}"


def main_name(key: str) -> str:
    """The first of the names that a flag has in its parser; of an unknown flag, the name itself."""
    action = _option(key)
    return key if action is None else action.option_strings[0].removeprefix("--")


def _option(key: str) -> argparse.Action | None:
    return None if key == "help" else _parser()._option_string_actions.get(f"--{key}")


def check_flag(key: str, value: Any, where: str) -> None:
    """Check one value of a file or a command line.

    Args:
        key: the flag, without dashes in front.
        value: as in a recipe.
        where: what has it, such as ``the recipe mine.yaml``.

    Raises:
        UserError: it is no flag of Megatron's or ours, or does not take its value.
    """
    action = _option(key)
    if action is None:
        known_keys = sorted(name.removeprefix("--") for name in _parser()._option_string_actions)
        raise UserError(
            f"{where} has the key {key}, which is no flag of Megatron's or ours: "
            f"{nearest(key, known_keys, 'take it out')}"
        )
    given = f"{where} has {key}: {'true' if value is True else value}"
    try:
        _, others = _parser().parse_known_args(flags({key: value}))
    except argparse.ArgumentError as error:
        raise UserError(f"{given}, and the flag does not take that: {error.message}") from None
    if others:
        takes = "no value: write true" if action.nargs == 0 else "one value"
        raise UserError(f"{given}, and the flag takes {takes}")


@cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    return add_arguments(add_megatron_flags(parser))
