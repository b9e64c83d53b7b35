"""Modules of examples, whose names several of them have."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def modules_of() -> Iterator[Callable[..., SimpleNamespace]]:
    """``modules_of(folder, name...)``: those of one example, until the test's module ends."""
    kept: dict[str, object] = {}
    taken: list[str] = []
    paths: list[str] = []

    def load(folder: str, *names: str) -> SimpleNamespace:
        for name in names:
            if name in sys.modules:
                kept[name] = sys.modules.pop(name)
        taken.extend(names)
        paths.append(str(EXAMPLES / folder))
        sys.path.insert(0, paths[-1])
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})

    yield load
    for path in paths:
        sys.path.remove(path)
    for name in taken:
        sys.modules.pop(name, None)
    sys.modules.update(kept)
