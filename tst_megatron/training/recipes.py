"""Recipes: whole training configurations as Megatron's flags, in YAML.

A recipe maps a flag without its dashes to its value: ``true`` for a flag that takes none, a list
for one that takes several, a blend's own mapping for ``tst-blend``. ``--recipe NAME`` stands for
its flags; flags on the command line win, and data named there replace the recipe's.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tst_megatron.data.blend import DATA_FORMS
from tst_megatron.errors import UserError

_FOLDER = files("tst_megatron") / "recipes"


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(
        Path(entry.name).stem for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml")
    )


def load(recipe: str) -> dict[str, Any]:
    """Read a recipe by its name, or from a ``.yaml`` file of the user's.

    Raises:
        UserError: there is no such recipe, or it is not a mapping of flags.
    """
    is_file = recipe.endswith((".yaml", ".yml"))
    if not is_file and recipe not in names():
        raise UserError(
            f"there is no recipe {recipe!r}: use one of {', '.join(names())}, or a .yaml file"
        )
    source = Path(recipe) if is_file else _FOLDER / f"{recipe}.yaml"
    try:
        values = yaml.safe_load(source.read_text())
    except OSError as error:
        raise UserError(f"the recipe {recipe} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(
            f"the recipe {recipe} is not YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"the recipe {recipe} is not a mapping of flags to values")
    if isinstance(values.get("tst-blend"), dict):
        values["tst-blend"] = str(source)  # Where `load_blend` finds it.
    return values


def flags(recipe: dict[str, Any]) -> list[str]:
    """A recipe as a command line; ``false`` and ``null`` leave a flag out."""
    line = []
    for name, value in recipe.items():
        if value is None or value is False:
            continue
        line.append(f"--{str(name).replace('_', '-')}")
        if value is not True:
            line.extend(str(one) for one in (value if isinstance(value, list) else [value]))
    return line


def expand_recipe(argv: list[str]) -> list[str]:
    """Replace ``--recipe NAME`` by the recipe's flags, put first so that the others win.

    Raises:
        UserError: the recipe is named twice, missing or broken.
    """
    rest, recipe = [], None
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--recipe":
            rest.append(word)
            continue
        if recipe is not None:
            raise UserError("--recipe is given twice: name one recipe")
        recipe = value if equals else next(words, None)
        if recipe is None:
            raise UserError(f"--recipe needs a name: use one of {', '.join(names())}")
    return rest if recipe is None else [*flags(_without_other_data(load(recipe), rest)), *rest]


def _without_other_data(recipe: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """A recipe whose data do not stand beside data that the command line names in another form."""
    given = {word.partition("=")[0] for word in argv}
    named = [form for form in DATA_FORMS if given.intersection(form)]
    other = {flag for form in DATA_FORMS if named and form not in named for flag in form}
    return {
        name: value
        for name, value in recipe.items()
        if f"--{str(name).replace('_', '-')}" not in other
    }
