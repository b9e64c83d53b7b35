"""Megatron's flags without Megatron: a table of them, from which a parser is made at once.

Megatron's own parser is made of its configurations, so that building it imports torch, which takes
ten seconds or more; a slip in a flag should not wait for that. The one idea: the table is that
parser written down, and it holds for the files it was made from and for no others. With another
Megatron, or one that was edited, Megatron's own parser is asked, and only the time is lost.

``python -m tst_megatron.stock.megatron_flags`` writes the table of the installed Megatron; a test
fails when the two differ.
"""

import argparse
import enum
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from tst_megatron.backends import prepare_backend
from tst_megatron.files import write_whole

TABLE = Path(str(files("tst_megatron") / "stock" / "megatron_flags.json"))
_PACKAGE = "megatron-core"
_TYPES: Mapping[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": bool}
# What a row calls a type that is a function of Megatron's.
_OWN_TYPE = "Megatron's"
_ACTIONS = {
    "_StoreAction": "store",
    "_StoreTrueAction": "store_true",
    "_StoreFalseAction": "store_false",
    "BooleanOptionalAction": "boolean_optional",
}


class NotKnownError(Exception):
    """What is asked for cannot be told without Megatron."""


class Flags(argparse.Namespace):
    """Parsed flags, of which some are not known.

    Asking for one of these is no ``AttributeError``, or it would be taken for one that is not
    there.
    """

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(name) if name.startswith("__") else NotKnownError(name)


class _Unread(str):
    """The text of a value that Megatron makes something else of."""


class _Help(argparse.Action):
    """Megatron shows its flags where it meets this one, whatever is wrong behind it."""

    def __call__(self, *_: Any) -> NoReturn:
        raise NotKnownError("help")


_NOT_PLAIN = object()
"""In the place of a default that is no plain value, or that is read from the environment."""


@cache
def is_of_installed_megatron() -> bool:
    """Whether the table was made from the Megatron that would be imported."""
    table = _table()
    try:
        if version(_PACKAGE) != table["version"]:
            return False
    except PackageNotFoundError:
        return False
    return all(_digest(name) == digest for name, digest in table["files"].items())


def add_megatron_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add Megatron's flags to a parser without help: from the table, or where it is another's from
    Megatron, which is imported then.

    What the parser makes of a command line goes through `known`.

    Raises:
        NotKnownError: by the parser, where help is asked for.
    """
    parser.add_argument("-h", "--help", nargs=0, action=_Help, default=argparse.SUPPRESS)
    if is_of_installed_megatron():
        for row in _table()["flags"]:
            _add(parser, row)
        return parser
    prepare_backend()
    from megatron.training.arguments import add_megatron_arguments

    added: argparse.ArgumentParser = add_megatron_arguments(parser)
    return added


def known(args: argparse.Namespace) -> Flags:
    """Parsed flags, without those that only Megatron can read and those that it adds itself."""
    return Flags(**{name: value for name, value in vars(args).items() if not _is_unread(value)})


def _is_unread(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_unread, value))
    return value is _NOT_PLAIN or isinstance(value, _Unread)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def _add(parser: argparse.ArgumentParser, row: Mapping[str, Any]) -> None:
    settings = {"default": None, **row}
    names, action = settings.pop("names"), settings.pop("action", "store")
    if settings.pop("has_another_default", False):
        settings["default"] = _NOT_PLAIN
    if action == "store":
        settings["type"] = _TYPES.get(settings.get("type", "str"), _Unread)
    elif action == "boolean_optional":
        action = argparse.BooleanOptionalAction
    parser.add_argument(*names, action=action, **settings)


def _digest(name: str) -> str | None:
    """Of a file of the installed Megatron; its package is found, and not imported."""
    spec = find_spec("megatron")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / name
        if file.is_file():
            return hashlib.sha256(file.read_bytes()).hexdigest()
    return None


# Making the table.


def text_of_table() -> str:
    """The table of the installed Megatron as its file has it, a line for each flag."""
    parser, modules = _megatrons_parser(world_size=1)
    other, _ = _megatrons_parser(world_size=2)
    rows = [
        json.dumps(_row(action, depends=action.default != there.default))
        for action, there in zip(parser._actions, other._actions, strict=True)
    ]
    for action in parser._actions:
        for value in (action.default, *(action.choices or ())):
            if isinstance(value, enum.Enum):
                modules.add(type(value).__module__)
    megatrons = sorted(_file_of(name) for name in modules if name.startswith("megatron."))
    digests = {name: _digest(name) for name in megatrons}
    return "\n".join(
        [
            f'{{"version": {json.dumps(version(_PACKAGE))},',
            f'"files": {json.dumps(digests, indent=1)},',
            '"flags": [',
            ",\n".join(rows),
            "]}",
            "",
        ]
    )


def _megatrons_parser(world_size: int) -> tuple[argparse.ArgumentParser, set[str]]:
    """Megatron's parser, and the modules that its flags stand in."""
    prepare_backend()
    from megatron.training import argument_utils, arguments

    made_from = {arguments.__name__, argument_utils.__name__}
    factory = argument_utils.ArgumentGroupFactory
    read_class = factory._get_field_docstrings

    def noted(self: Any, configuration: type) -> Any:
        # It is called with each configuration that becomes flags, and with what that extends.
        made_from.add(configuration.__module__)
        return read_class(self, configuration)

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    with (
        patch.object(factory, "_get_field_docstrings", noted),
        patch.dict(os.environ, {"WORLD_SIZE": str(world_size)}),
    ):
        return arguments.add_megatron_arguments(parser), made_from


def _row(action: argparse.Action, depends: bool) -> dict[str, Any]:
    """A flag as `_add` takes it; what is as usual is left out."""
    kind = _ACTIONS[type(action).__name__]
    names = list(action.option_strings)
    if kind == "boolean_optional":
        # It makes the other one itself.
        names = [name for name in names if f"--{name.removeprefix('--no-')}" not in names]
    row: dict[str, Any] = {"names": names, "dest": action.dest}
    if kind != "store":
        row["action"] = kind
    elif action.type is not None:
        name = getattr(action.type, "__name__", "")
        row["type"] = name if _TYPES.get(name) is action.type else _OWN_TYPE
    if kind == "store" and action.nargs is not None:
        row["nargs"] = action.nargs
    if kind == "store" and action.choices is not None:
        row |= _choices(list(action.choices))
    if depends or not _is_plain(action.default):
        row["has_another_default"] = True
    elif action.default is not None:
        row["default"] = action.default
    return row


def _choices(values: list[Any]) -> dict[str, Any]:
    """Of a flag with choices: they, and the names of those that are members of an enumeration."""
    if not isinstance(values[0], enum.Enum):
        return {"choices": values}
    enumeration = type(values[0])
    if not enumeration.__module__.startswith("megatron."):
        return {}  # Such as signals, which are other ones on other machines.
    members = enumeration.__members__.items()
    return {"choices": [name for name, member in members if member in values]}


def _is_plain(value: Any) -> bool:
    """Whether JSON gives it back as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value) and not isinstance(value, enum.Enum)
    except TypeError:
        return False


def _file_of(module: str) -> str:
    """Of a module, below the package ``megatron``."""
    *folders, name = module.split(".")[1:]
    is_package = hasattr(sys.modules[module], "__path__")
    return "/".join([*folders, name, "__init__.py"] if is_package else [*folders, f"{name}.py"])


if __name__ == "__main__":
    write_whole(TABLE, text_of_table())
