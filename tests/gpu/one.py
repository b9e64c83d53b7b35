"""One check, in this process: ``python -m tests.gpu.one FUNCTION SETTINGS RESULTS``.

Each figure is in the file as soon as it is known: a CUDA fault takes the process with it.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tests.gpu.figures import CannotRunHereError, Figure
from tests.gpu.machine import Machine

_ERROR_CHARACTERS = 3000


def main(function: str, settings: Path, results: Path) -> int:
    """Run it; returns 0 where it came to its end, whatever it found."""
    machine = Machine(**json.loads(settings.read_text()))
    with results.open("a") as file:
        try:
            machine.start_clock()
            for item in _items(function, machine):
                if isinstance(item, Figure):
                    _write(file, {"figure": item.as_json()})
                else:
                    _write(file, {"note": item.text})
        except CannotRunHereError as lacking:
            _write(file, {"skipped": str(lacking)})
        except BaseException:
            traceback.print_exc()
            _write(file, {"error": traceback.format_exc()[-_ERROR_CHARACTERS:]})
            return 1
        _write(file, {"done": True})
    return 0


def _items(function: str, machine: Machine) -> Iterator[Any]:
    module, _, name = function.partition(":")
    return iter(getattr(importlib.import_module(module), name)(machine))


def _write(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
