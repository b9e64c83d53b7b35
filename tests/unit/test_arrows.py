"""Rooms import only what stands below them in the table of docs/architecture.md.

Imports are read from the source, also inside functions and under TYPE_CHECKING; a text that is the
name of a module of ours counts as an import, since it is there to be imported by.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "tst_megatron"
PAGE = REPOSITORY / "docs/architecture.md"
MODULES = {
    ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((REPOSITORY / PACKAGE).rglob("*.py"))
}
REGISTRY = f"{PACKAGE}.methods.registry"


@dataclass(frozen=True)
class Room:
    """A row of the table.

    Attributes:
        level: how many rows stand above.
        places: its files and folders, below the package.
    """

    level: int
    places: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.places)


@cache
def rooms() -> tuple[Room, ...]:
    """The table, the top first."""
    lines = PAGE.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    found = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        places = tuple(re.findall(r"`([^`]+)`", line.split("|")[1]))
        found.append(Room(len(found), places))
    return tuple(found)


def matches(place: str, path: str) -> bool:
    """Whether a place of the table holds a file; ``*`` stands for any one name."""
    pattern = re.escape(place).replace(r"\*", "[^/]+")
    return re.match(pattern if place.endswith("/") else f"{pattern}$", path) is not None


@cache
def room_of(module: str) -> Room | None:
    """The room with the place that says most of the module's file."""
    path = MODULES[module].relative_to(REPOSITORY / PACKAGE).as_posix()
    fitting = [
        (len(place.split("/")), len(place), room)
        for room in rooms()
        for place in room.places
        if matches(place, path)
    ]
    return max(fitting, key=lambda one: one[:2])[2] if fitting else None


def method_of(module: str) -> str | None:
    """The method that a module is of; a folder at the top with its name is the method's face."""
    parts = module.split(".")[1:]
    folders = {
        name.split(".")[2] for name in MODULES if re.match(rf"{PACKAGE}\.methods\.\w+\.", name)
    }
    if parts[:1] == ["methods"]:
        parts = parts[1:]
    return parts[0] if parts and parts[0] in folders else None


def imported_names(source: str, module_of_source: str = "") -> Iterator[str]:
    """Dotted names of all that is imported, down to the names that are taken from a module."""
    room, _, own_name = module_of_source.rpartition(".")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                # Files that an export lays beside a model find one another there.
                travels = own_name.startswith("modeling_")
                assert not level or (travels and level == 1), "imports name the whole path"
                module = f"{room}.{module}" if level else module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Constant(value=str(text)) if re.fullmatch(rf"{PACKAGE}(\.\w+)+", text):
                yield text


def module_named(name: str) -> str | None:
    """The module of ours that a dotted name is, or is from."""
    if name.split(".")[0] != PACKAGE:
        return None
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of ours that a module imports."""
    names = imported_names(MODULES[module].read_text(), module)
    return frozenset(found for name in names if (found := module_named(name))) - {PACKAGE, module}


@cache
def others_needed_by(module: str) -> frozenset[str]:
    """Packages of others that it imports."""
    names = {name.split(".")[0] for name in imported_names(MODULES[module].read_text(), module)}
    return frozenset(names - sys.stdlib_module_names - {PACKAGE})


def reached_from(modules: Iterable[str]) -> set[str]:
    """They, and all of ours that they import, directly or not."""
    reached: set[str] = set()
    wanted = list(modules)
    while wanted:
        module = wanted.pop()
        if module not in reached:
            reached.add(module)
            wanted.extend(imports_of(module))
    return reached


@cache
def modules_in(place: str) -> tuple[str, ...]:
    """Modules of the room that has the place."""
    (room,) = (one for one in rooms() if place in one.places)
    return tuple(module for module in MODULES if room_of(module) is room)


def test_every_module_belongs_to_a_room_and_every_room_has_some() -> None:
    assert [module for module in MODULES if room_of(module) is None] == []
    paths = [file.relative_to(REPOSITORY / PACKAGE).as_posix() for file in MODULES.values()]
    places = [place for room in rooms() for place in room.places]
    assert [place for place in places if not any(matches(place, path) for path in paths)] == []


def test_imports_go_down() -> None:
    up = []
    for module in MODULES:
        here = room_of(module)
        for other in sorted(imports_of(module)):
            there = room_of(other)
            if here is not None and there is not None and there.level < here.level:
                up.append(f"{module} ({here}) imports {other} ({there})")
    assert not up, "\n".join(up)


def test_nobody_but_the_registry_names_a_method() -> None:
    naming = [
        f"{module} imports {other}"
        for module in MODULES
        for other in sorted(imports_of(module))
        if (method := method_of(other)) is not None
        and method_of(module) != method
        and module != REGISTRY
    ]
    assert not naming, "\n".join(naming)


def test_the_protocol_needs_the_standard_library_alone() -> None:
    protocol = modules_in("methods/")
    assert f"{PACKAGE}.methods.method" in protocol
    needed = {module: sorted(others_needed_by(module)) for module in reached_from(protocol)}
    assert {module: others for module, others in needed.items() if others} == {}


@pytest.mark.parametrize(
    ("place", "barred"),
    [("runs/", {"torch", "megatron"}), ("report/", {"torch", "megatron"})],
)
def test_what_is_read_after_a_run_needs_no_trainer(place: str, barred: set[str]) -> None:
    reached = reached_from(modules_in(place))
    assert [module for module in sorted(reached) if others_needed_by(module) & barred] == []


def test_statistics_need_numpy_alone() -> None:
    reached = reached_from(modules_in("statistics/"))
    assert {name for module in reached for name in others_needed_by(module)} <= {"numpy"}


def test_imports_are_seen_wherever_they_stand() -> None:
    source = (
        "import os, a.b\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from tst_megatron.runs.run import Run\n"
        "def f():\n"
        "    'tst_megatron is no module that is named here'\n"
        "    from tst_megatron import errors as e\n"
        "    return g('tst_megatron.runs.clock')\n"
    )
    names = list(imported_names(source))
    assert sorted(filter(None, map(module_named, names))) == [
        f"{PACKAGE}.errors",
        f"{PACKAGE}.runs.clock",
        f"{PACKAGE}.runs.run",
    ]
    assert {"os", "a.b"} <= set(names)
