"""What of Megatron we rely on: read from our source, and looked up in a Megatron.

The one idea: a seam is a name of Megatron's with what it takes. Ours are found by reading the
imports, the methods that a subclass has of a parent of Megatron's, the functions that are wrapped
by name, and the flags that are asked for; each with the line that meets it. Run as a program it
looks seams up in the Megatron that Python finds, so that two of them can be compared.
"""

import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GONE = "not there"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MEGATRON = "megatron."


@dataclass(frozen=True, order=True)
class Seam:
    """A name of Megatron's.

    Attributes:
        module: where it is; empty for a flag.
        name: in it, dotted where it is a class's; or a flag's.
        place: the first line of ours that meets it, as ``file:line``.
    """

    module: str
    name: str
    place: str

    @property
    def key(self) -> str:
        """Without the line."""
        return f"{self.module}.{self.name}" if self.module else f"--{self.name.replace('_', '-')}"


def seams_in(package: Path) -> list[Seam]:
    """All seams of a package's source, each once."""
    found: dict[str, Seam] = {}
    for file in sorted(package.rglob("*.py")):
        for seam in _of_file(file, str(file.relative_to(package.parent))):
            found.setdefault(seam.key, seam)
    return sorted(found.values())


def _of_file(file: Path, name: str) -> Iterator[Seam]:
    tree = ast.parse(file.read_text())
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_megatrons(node.module):
            assert node.module is not None, "it is Megatron's"
            for alias in node.names:
                imported[alias.asname or alias.name] = (node.module, alias.name)
                yield Seam(node.module, alias.name, f"{name}:{node.lineno}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_megatrons(alias.name):
                    yield Seam(alias.name, "", f"{name}:{node.lineno}")
    asked = [imported[one] for one in _asked_by_name(tree) if one in imported]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id in imported:
                    yield from _overridden(node, imported[base.id], name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in imported and not isinstance(node.ctx, ast.Store):
                module, parent = imported[node.value.id]
                yield Seam(module, f"{parent}.{node.attr}", f"{name}:{node.lineno}")
            elif node.value.id in ("args", "a"):
                yield Seam("", node.attr, f"{name}:{node.lineno}")
        elif isinstance(node, ast.Dict | ast.Assign | ast.AnnAssign):
            yield from _wrapped(node, imported, asked, name)


def _is_megatrons(module: str | None) -> bool:
    return module is not None and (module == "megatron" or module.startswith(_MEGATRON))


def _overridden(node: ast.ClassDef, base: tuple[str, str], name: str) -> Iterator[Seam]:
    for method in node.body:
        if isinstance(method, ast.FunctionDef):
            yield Seam(base[0], f"{base[1]}.{method.name}", f"{name}:{method.lineno}")


def _asked_by_name(tree: ast.AST) -> set[str]:
    """What a file asks for attributes whose names it has in a table: ``getattr(trainer, name)``."""
    return {
        node.args[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and isinstance(node.args[0], ast.Name)
    }


def _wrapped(
    node: ast.Dict | ast.Assign | ast.AnnAssign,
    imported: dict[str, tuple[str, str]],
    asked: list[tuple[str, str]],
    name: str,
) -> Iterator[Seam]:
    """Tables of functions that are wrapped, by name, or by module and name.

    Args:
        node: which may be one.
        imported: the file's names of Megatron's.
        asked: those of them that are asked for attributes by name.
        name: of the file.
    """
    if isinstance(node, ast.Dict):
        for key in node.keys:
            if isinstance(key, ast.Tuple) and len(key.elts) == 2:
                module, attribute = key.elts
                if (
                    isinstance(module, ast.Name)
                    and module.id in imported
                    and isinstance(attribute, ast.Constant)
                ):
                    package, last = imported[module.id]
                    yield Seam(f"{package}.{last}", str(attribute.value), f"{name}:{key.lineno}")
        return
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    if names & {"HOOKED", "WRAPPED"} and isinstance(node.value, ast.Dict):
        for key in node.value.keys:
            if isinstance(key, ast.Constant):
                for module in map(".".join, asked):
                    yield Seam(module, str(key.value), f"{name}:{key.lineno}")


def looked_up(seams: list[tuple[str, str]]) -> dict[str, list[str]]:
    """What each seam is in the Megatron that is installed: its arguments, or its kind."""
    from tst_megatron.backends import prepare_backend

    prepare_backend()
    flags = _flags()
    found = {}
    for module, name in seams:
        if not module:
            if name in flags:
                found[Seam(module, name, "").key] = flags[name]
            continue
        found[Seam(module, name, "").key] = _of_name(module, name)
    return found


def _of_name(module: str, name: str) -> list[str]:
    try:
        here: Any = importlib.import_module(module)
    except ImportError as error:
        return [f"{GONE}: {error}"]
    for part in filter(None, name.split(".")):
        if not hasattr(here, part):
            try:
                here = importlib.import_module(f"{module}.{name}")
            except ImportError:
                return [GONE]
            break
        here = getattr(here, part)
    return _described(here)


def _described(one: Any) -> list[str]:
    if inspect.ismodule(one):
        return ["module"]
    if callable(one):
        try:
            takes = inspect.signature(one).parameters.values()
        except (TypeError, ValueError):
            return ["callable"]
        return [_ADDRESS.sub("", str(argument)) for argument in takes]
    return [type(one).__name__]


def _flags() -> dict[str, list[str]]:
    """Megatron's flags by their destination: how each is read, and its default."""
    import argparse

    from megatron.training.arguments import add_megatron_arguments

    parser = add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))
    return {
        action.dest: [f"{type(action).__name__}, default {action.default!r}"]
        for action in parser._actions
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    answers = looked_up([tuple(one) for one in asked])
    Path(sys.argv[1]).write_text(json.dumps(answers))
