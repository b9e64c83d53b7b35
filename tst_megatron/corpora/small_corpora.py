"""Small corpora, for the demo and for runs on one machine: the user's own files, or the text that
every Python brings along, and an index of them in one call.
"""

import hashlib
import random
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
from rich.console import Console

from tst_megatron.corpora.indexing.build import build
from tst_megatron.corpora.indexing.plan import BuildSettings
from tst_megatron.corpora.manifest import Manifest
from tst_megatron.corpora.reading.chunks import read_documents
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import InputFile, find_inputs
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.errors import UserError
from tst_megatron.files import replace_when_whole

# The held-out documents are the last ones: in an order drawn once, they are like the others.
_ORDER_SEED = 1234
# Packages that came when studies had begun: with their files a study would read another text, and
# its runs of before could not be held against those of after.
_NOT_READ = ("constriction", "llvmlite", "numba")


def bundled_files() -> list[InputFile]:
    """The source files of this Python's standard library, read in place, in an order drawn once.

    Raises:
        UserError: this Python has been installed without them.
    """
    found = _standard_library()
    if not found:
        raise UserError(
            f"{sysconfig.get_path('stdlib')} holds no source files to train on: give a corpus of "
            "your own with --corpus"
        )
    return _in_drawn_order(find_inputs([str(path) for path in found], "text").files)


def environment_files() -> list[InputFile]:
    """The standard library's source files and those of this environment's packages.

    Of all but a few that came late. Read in place, in an order drawn once. Of files that hold the
    same, the first alone: packages copy from one another, and held-out text must not be what was
    trained on.
    """
    packages = Path(sysconfig.get_path("purelib"))
    seen: set[bytes] = set()
    found = []
    read = (path for path in packages.rglob("*.py") if _package_of(path, packages) not in _NOT_READ)
    for path in (*_standard_library(), *sorted(read)):
        content = hashlib.sha256(path.read_bytes()).digest()
        if content not in seen:
            seen.add(content)
            found.append(path)
    return _in_drawn_order(find_inputs([str(path) for path in found], "text").files)


def _package_of(path: Path, packages: Path) -> str:
    return path.relative_to(packages).parts[0]


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)


def corpus_files(corpus: str, console: Console) -> list[InputFile]:
    """The files of a corpus, in an order drawn once: a file, a folder of them, or a glob.

    Args:
        corpus: names it.
        console: is told what is left out.

    Raises:
        UserError: the corpus is missing or holds no file that can be read.
    """
    inputs = find_inputs([corpus])
    for left_out in inputs.left_out:
        console.print(left_out.in_words, highlight=False, markup=False, soft_wrap=True)
    return _in_drawn_order(inputs.files)


def documents_of(files: list[InputFile]) -> Iterator[str]:
    """The documents of files that have more than space in them.

    What cannot be read is left out: a standard library has files that are not UTF-8 on purpose.
    """
    documents = read_documents(files, ReadOptions(), skips=True)
    return (document for document in documents if document.strip())


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


def _in_drawn_order(files: list[InputFile]) -> list[InputFile]:
    drawn = list(files)
    random.Random(_ORDER_SEED).shuffle(drawn)
    return drawn


def index_documents(
    documents: Iterable[str], tokenizer: Path, prefix: Path, console: Console
) -> Manifest:
    """Index documents in their order, by way of a file of them, ``PREFIX.jsonl``, which stays.

    A call that was cut off is gone on with: the documents must be the same.

    Args:
        documents: none of them empty.
        tokenizer: a SentencePiece model or a ``tokenizer.json``.
        prefix: path of the corpus.
        console: for what there is to say.

    Raises:
        UserError: the corpus cannot be written, or is there already with other documents.
    """
    text = prefix.with_name(f"{prefix.name}.jsonl")
    if not text.exists():
        with replace_when_whole(text) as file:
            for document in documents:
                file.write(orjson.dumps({"text": document}) + b"\n")
    settings = BuildSettings(
        inputs=(str(text),),
        format="jsonl",
        options=ReadOptions(),
        where=None,
        tokenizer=describe(str(tokenizer)),
    )
    return build(settings, prefix, console)
