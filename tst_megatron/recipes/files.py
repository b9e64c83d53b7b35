"""One recipe file: its flags, what it extends, and its layouts and precisions.

Strict, since a slip in a file would otherwise train for weeks: what its YAML leaves in doubt
(`tst_megatron.strict_yaml`), a section that is no mapping, a parent that is missing or comes round
again are refused. Whether a key is a flag at all is Megatron's to say
(`tst_megatron.recipes.keys`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from tst_megatron import strict_yaml
from tst_megatron.errors import UserError
from tst_megatron.old_flags import name_now, warn_of_old_names

FOLDER = Path(str(files("tst_megatron") / "recipes"))
_SUFFIXES = (".yaml", ".yml")
# Such as 64xh100: how many, and of what.
_LAYOUT = re.compile(r"[1-9]\d*x[a-z0-9]+")


@dataclass(frozen=True)
class Variant:
    """A layout or a precision: flags for the machines, or for the arithmetic.

    Attributes:
        flags: as in a recipe.
        about: what it trades, in a few words.
        only_on: the GPUs that have what it needs; empty for any.
    """

    flags: dict[str, Any]
    about: str = ""
    only_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecipeFile:
    """A file as it stands, without its parents.

    Attributes:
        name: the file's, for messages and for saying where a value comes from.
        flags: Megatron's and ours, without dashes in front, with dashes inside.
        extends: the parent's name, or its path.
        about: one line for lists.
        layouts: by name, such as ``64xh100``.
        precisions: by name, such as ``fp8-blockwise``.
        layout: the layout where none is asked for.
        precision: likewise.
    """

    name: str
    flags: dict[str, Any]
    extends: str | None = None
    about: str = ""
    layouts: dict[str, Variant] = field(default_factory=dict)
    precisions: dict[str, Variant] = field(default_factory=dict)
    layout: str | None = None
    precision: str | None = None


def names() -> list[str]:
    """The recipes that come with the package; parts of others begin with an underscore."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.name.startswith("_"))


def nearest(name: str, known: list[str], otherwise: str | None = None) -> str:
    """The name probably meant, as the end of a sentence; else `otherwise`, or all names."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return otherwise or f"use one of {', '.join(known)}"


def is_path(recipe: str) -> bool:
    """Whether a recipe is named by its file."""
    return recipe.endswith(_SUFFIXES)


def read_chain(recipe: str) -> list[RecipeFile]:
    """A recipe's file after all that it extends, the furthest first.

    Args:
        recipe: a name, or the path of a ``.yaml`` file of the user's.

    Raises:
        UserError: a file is missing, broken, or extends itself.
    """
    path = _path(recipe, f"there is no recipe {recipe!r}")
    chain: list[RecipeFile] = []
    seen: list[Path] = []
    while True:
        seen.append(path.resolve())
        file = _read(path)
        chain.insert(0, file)
        if file.extends is None:
            return chain
        missing = f"the recipe {file.name} extends {file.extends!r}, which is not there"
        path = _path(file.extends, missing, beside=path.parent)
        if path.resolve() in seen:
            raise UserError(
                f"the recipe {file.name} extends {file.extends}, which extends it in turn: "
                "take one of the two extends out"
            )


def _path(recipe: str, missing: str, beside: Path | None = None) -> Path:
    """Where a recipe lies; what extends it is `beside` it."""
    if is_path(recipe):
        path = (beside or Path()) / recipe
        if beside is not None and not path.is_file():
            raise UserError(f"{missing}: {path} is no file")
        return path
    path = FOLDER / f"{recipe}.yaml"
    if not recipe or "/" in recipe or not path.is_file():
        known = names()
        otherwise = f"use one of {', '.join(known)}, or a .yaml file"
        raise UserError(f"{missing}: {nearest(recipe, known, otherwise)}")
    return path


def _read(path: Path) -> RecipeFile:
    name = path.name if path.parent == FOLDER else str(path)
    values = _mapping(name, path)

    def take(key: str) -> str | None:
        value = values.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise UserError(f"the recipe {name} has {value!r} as {key}, which is text: quote it")
        return value

    about, extends = take("about") or "", take("extends")
    layout, precision = take("layout"), take("precision")
    layouts, precisions = (_parts(name, values, key) for key in ("layouts", "precisions"))
    for given in layouts:
        if not _LAYOUT.fullmatch(given):
            raise UserError(
                f"the recipe {name} has a layout {given!r}: name it after its GPUs, such as 64xh100"
            )
    if isinstance(values.get("blend"), dict):
        values["blend"] = str(path)  # Where `load_blend` finds it.
    _check_flags(name, values)
    return RecipeFile(name, values, extends, about, layouts, precisions, layout, precision)


def _mapping(name: str, path: Path) -> dict[str, Any]:
    old_names: list[str] = []

    def spelled(key: str) -> str:
        now = name_now(key)
        if now != (dashed := key.replace("_", "-")):
            old_names.append(dashed)
        return now

    values = strict_yaml.read(path, f"the recipe {name}", spelled)
    if not isinstance(values, dict):
        raise UserError(f"the recipe {name} is not a mapping of flags to values")
    warn_of_old_names(f"the recipe {name}", old_names)
    return values


def _parts(name: str, values: dict[str, Any], key: str) -> dict[str, Variant]:
    section = values.pop(key, None) or {}
    if not isinstance(section, dict):
        raise UserError(f"the recipe {name} has {key} that are no mapping of names to flags")
    parts = {}
    for part, given in section.items():
        where = f"{name}, {key} {part},"
        if not isinstance(given, dict):
            raise UserError(f"the recipe {where} is not a mapping of flags to values")
        flags = dict(given)
        about, only_on = flags.pop("about", None) or "", flags.pop("only-on", None) or []
        if not isinstance(about, str) or not isinstance(only_on, list):
            raise UserError(
                f"the recipe {where} wants a text as about and a list of GPUs as only-on"
            )
        _check_flags(where, flags)
        parts[part] = Variant(flags, about, tuple(map(str, only_on)))
    return parts


def _check_flags(where: str, flags: Mapping[str, Any]) -> None:
    for key, value in flags.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, list | dict) for one in values):
            raise UserError(
                f"the recipe {where} has {key} with values inside values: a flag takes one, or a "
                "list"
            )
