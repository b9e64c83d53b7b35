"""The text that the checks' runs read: ``python -m tests.gpu.text FOLDER`` makes it.

Two corpora, each a tokenizer and Megatron's index, as the demo makes them: a small one of 384
pieces for the tiny models, and a large one of 8,192 for the comparison.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tests.gpu.machine import Machine
from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.reading.inputs import InputFile, find_inputs
from tst_megatron.corpora.small_corpora import bundled_files
from tst_megatron.experiments.text import PreparedText

SMALL_PIECES, LARGE_PIECES = 384, 8192
_SMALL_FILES = 300
_DRY_FILES = 60


def small_text(machine: Machine) -> PreparedText:
    """Of 384 pieces."""
    files = bundled_files()[: machine.sized(_SMALL_FILES, _DRY_FILES)]
    return _made(PreparedText(Path(machine.text) / "small"), files, SMALL_PIECES)


def large_text(machine: Machine) -> PreparedText:
    """Of 8,192 pieces; in a dry run the small one."""
    if machine.dry_run:
        return small_text(machine)
    return _made(PreparedText(Path(machine.text) / "large"), bundled_files(), LARGE_PIECES)


def _made(text: PreparedText, files: list[InputFile], pieces: int) -> PreparedText:
    if not manifest_path(text.corpus).exists():
        text.make(files, pieces, Console())
    return text


def main(argv: list[str] | None = None) -> int:
    """Make both."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.text", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--megabytes", type=float, default=0.0, metavar="N",
        help="of the large one's text, at most; Python sources of the packages that are installed "
        "here come after the standard library's",
    )  # fmt: skip
    flags = parser.parse_args(argv)
    small = bundled_files()[:_SMALL_FILES]
    _made(PreparedText(flags.folder / "small"), small, SMALL_PIECES)
    files = _up_to(flags.megabytes * 1e6) if flags.megabytes else bundled_files()
    _made(PreparedText(flags.folder / "large"), files, LARGE_PIECES)
    return 0


def _up_to(num_bytes: float) -> list[InputFile]:
    """Sources of the standard library, and of installed packages in the order of their names."""
    chosen, total = [], 0
    packages = sorted(str(path) for path in Path(sys.prefix).rglob("site-packages/**/*.py"))
    for file in [*bundled_files(), *find_inputs(packages, "text").files]:
        if total < num_bytes:
            chosen.append(file)
            total += file.size
    return chosen


if __name__ == "__main__":
    sys.exit(main())
