"""Are a recipe's keys flags, and do they take its values? The installed Megatron's parser answers.

Apart from `tst_megatron.recipes.recipe`, which corpus tools and lists read without Megatron.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from typing import Any

from megatron.training.arguments import add_megatron_arguments

from tst_megatron.corpora.blend import expand_blend
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import add_arguments, check_flags
from tst_megatron.recipes import COMMAND_LINE, Recipe, expand_recipe, flags
from tst_megatron.recipes.files import nearest


def check_keys(recipe: Recipe) -> None:
    """Check every value that a recipe gives, those that a later one takes the place of as well.

    Raises:
        UserError: a key is no flag of Megatron's or ours, or does not take its value.
    """
    for key, settings in recipe.settings.items():
        for setting in settings:
            is_ours = setting.source != COMMAND_LINE
            _check(
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
    check_flags(_parser().parse_args(expand_blend(expand_recipe(list(words)))))


def main_name(key: str) -> str:
    """The first of the names that a flag has in its parser; of an unknown flag, the name itself."""
    action = _option(key)
    return key if action is None else action.option_strings[0].removeprefix("--")


def _option(key: str) -> argparse.Action | None:
    return _parser()._option_string_actions.get(f"--{key}")


def _check(key: str, value: Any, where: str) -> None:
    action = _option(key)
    if action is None:
        known = sorted(name.removeprefix("--") for name in _parser()._option_string_actions)
        raise UserError(
            f"{where} has the key {key}, which is no flag of Megatron's or ours: "
            f"{nearest(key, known, 'take it out')}"
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
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    return add_arguments(add_megatron_arguments(parser))
