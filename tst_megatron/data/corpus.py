"""Documents to train on: the user's text files, or the text that every Python brings along."""

import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tst_megatron.errors import UserError

SUFFIXES = (".txt", ".md", ".py", ".jsonl")
_JSONL_FIELD = "text"

# The held-out documents are the last ones: in an order drawn once, they are like the others.
_ORDER_SEED = 1234


def bundled_files() -> list[Path]:
    """The source files of this Python's standard library, read in place.

    Raises:
        UserError: this Python has been installed without them.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in root.rglob("*.py") if "site-packages" not in path.parts]
    if not found:
        raise UserError(
            f"{root} holds no source files to train on: give a corpus of your own with --corpus"
        )
    return _in_drawn_order(found, root)


def corpus_files(corpus: Path) -> list[Path]:
    """The text files of a corpus: one file, or a folder of them.

    Raises:
        UserError: the corpus is missing or holds no file that can be read.
    """
    if corpus.is_file():
        if corpus.suffix not in SUFFIXES:
            raise UserError(f"the corpus {corpus} is not one of {', '.join(SUFFIXES)}")
        return [corpus]
    if not corpus.is_dir():
        raise UserError(f"the corpus {corpus} is missing: there is no such file or folder")
    found = [path for path in corpus.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    if not found:
        raise UserError(f"the corpus {corpus} holds no {', '.join(SUFFIXES)} file")
    return _in_drawn_order(found, corpus)


def read_documents(files: list[Path]) -> Iterator[str]:
    """The documents of text files: a file each, or a line each of ``.jsonl`` (its ``text`` field).

    Files that are not UTF-8 are left out: a standard library has some on purpose.

    Raises:
        UserError: a line of a ``.jsonl`` file is not an object with a ``text`` field.
    """
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        documents = _lines_of_jsonl(path, text) if path.suffix == ".jsonl" else iter([text])
        yield from (document for document in documents if document.strip())


def at_least(number: int, documents: list[str]) -> list[str]:
    """The documents, cut at line ends into pieces if there are fewer than ``number``.

    Phases and held-out text are cut at whole documents, so a corpus of one long file needs this.
    """
    if len(documents) >= number:
        return documents
    size = max(1, sum(map(len, documents)) // number)
    pieces = [piece for document in documents for piece in _cut(document, size)]
    random.Random(_ORDER_SEED).shuffle(pieces)
    return pieces


def _cut(document: str, size: int) -> Iterator[str]:
    """Pieces of whole lines, of ``size`` characters or a line more."""
    lines: list[str] = []
    length = 0
    for line in document.splitlines(keepends=True):
        lines.append(line)
        length += len(line)
        if length >= size:
            yield "".join(lines)
            lines, length = [], 0
    if lines:
        yield "".join(lines)


def _lines_of_jsonl(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)[_JSONL_FIELD]
        except (ValueError, TypeError, KeyError):
            document = None
        if not isinstance(document, str):
            raise UserError(
                f"{path}, line {number}: not a JSON object with a string in its "
                f'"{_JSONL_FIELD}" field'
            )
        yield document


def _in_drawn_order(found: list[Path], root: Path) -> list[Path]:
    ordered = sorted(found, key=lambda path: path.relative_to(root).as_posix())
    random.Random(_ORDER_SEED).shuffle(ordered)
    return ordered
