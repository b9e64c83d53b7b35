"""Old spellings of flags, read as the new ones, and one line that says so.

The one idea: they are rewritten where they enter, a command line in `tst_megatron.cli` and a file
in `tst_megatron.recipes`, so that no parser knows two names of a flag.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from tst_megatron.errors import UserError

OLD_NAMES: Mapping[str, str] = {
    name: f"tst-{name}"
    for name in (
        "blend",
        "allow-repeats",
        "allow-schedule-change",
        "fixed-validation",
        "ledger",
        "ledger-fsync-interval",
        "compare-with",
    )
}
"""By the new name, without dashes in front: flags of any run, from when one method was all."""
NEW_NAMES: Mapping[str, str] = {old: new for new, old in OLD_NAMES.items()}


def name_now(key: str) -> str:
    """A flag's name, as a file may spell it, in the spelling of now: with dashes inside."""
    dashed = key.replace("_", "-")
    return NEW_NAMES.get(dashed, dashed)


def with_new_names(words: Sequence[str]) -> list[str]:
    """A command line in the new spelling; a line of warning names what it has in the old one.

    Raises:
        UserError: a flag is given in both spellings.
    """
    given = {word.partition("=")[0] for word in words}
    new_names = {f"--{old}": f"--{new}" for old, new in NEW_NAMES.items() if f"--{old}" in given}
    for old, new in new_names.items():
        if new in given:
            raise UserError(
                f"the command line has {old} and {new}, two spellings of one flag: leave {old} out"
            )
    warn_of_old_names("the command line", [old.removeprefix("--") for old in new_names], "--")
    renamed = []
    for word in words:
        name, equals, value = word.partition("=")
        renamed.append(f"{new_names.get(name, name)}{equals}{value}")
    return renamed


def warn_of_old_names(where: str, old_names: Iterable[str], dashes: str = "") -> None:
    """Say in one line, on the first rank, how flags are spelled now.

    Args:
        where: what has them, such as ``the recipe mine.yaml``.
        old_names: as there, without dashes in front.
        dashes: to show in front of each.
    """
    changes = ", ".join(
        f"{dashes}{old} is now {dashes}{NEW_NAMES[old]}" for old in dict.fromkeys(old_names)
    )
    if changes and os.environ.get("RANK", "0") == "0":
        _print_once(
            f"tst-megatron: warning: {where} has old spellings of flags, which go on working: "
            f"{changes}"
        )


@cache
def _print_once(line: str) -> None:
    """A recipe is read several times by one command."""
    print(line, file=sys.stderr, flush=True)
