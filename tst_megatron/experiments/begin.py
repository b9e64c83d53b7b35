"""A folder of runs belongs to one set of settings: it is begun with them, and gone on in with them.

The one idea: the settings lie in a file, whole, so that a folder is never gone on in with others.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.files import write_whole
from tst_megatron.old_flags import NEW_NAMES


def begin(
    file: Path,
    what: str,
    settings: Mapping[str, Any],
    absent: str = "not given",
    may_start_over: Callable[[], bool] = lambda: False,
) -> None:
    """Take the folder of a file, or go on in it if it was begun with the same settings.

    Args:
        file: keeps the settings.
        what: the folder is of, such as ``sweep``.
        settings: as JSON's types; tables in it are compared entry by entry.
        absent: what a setting is said to be that is None.
        may_start_over: is asked where they differ; whether others may take their place.

    Raises:
        UserError: the folder cannot be written, or was begun with others.
    """
    from tst_megatron.trainer.checks import check_writable

    check_writable(file.parent, "--out")
    wanted = json.loads(json.dumps(settings))
    if file.exists():
        difference = _difference(_read(file, what), wanted)
        if difference is None:
            return
        if not may_start_over():
            name, before, now = difference
            raise UserError(
                f"{file.parent} holds a {what} with {name} {_in_words(before, absent)}, and this "
                f"one has {_in_words(now, absent)}: choose another --out, or delete the folder"
            )
    write_whole(file, json.dumps(wanted, indent=2) + "\n")


def _read(file: Path, what: str) -> dict[str, Any]:
    try:
        begun = json.loads(file.read_text())
        if not isinstance(begun, dict):
            raise ValueError
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{file} is not a {what}'s: choose another --out") from None
    return begun


def _difference(begun: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that differs: its name, and both values; None where none does."""
    before, now = _flat(begun), _flat(wanted)
    for name in (*now, *before):
        if before.get(name) != now.get(name):
            return name, before.get(name), now.get(name)
    return None


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Entries of tables beside the others; flags in their present spelling."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= value if isinstance(value, dict) else {name: value}
    return {NEW_NAMES.get(name, name): value for name, value in found.items()}


def _in_words(value: Any, absent: str) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return absent if value is None else str(value)
