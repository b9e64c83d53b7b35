"""Which files there are to read, and what each of them is.

The one idea: the order of documents is decided here, by the order of what the user named and by
names alone, so that it is the same on every machine.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tst_megatron.corpora.reading.batches import DamagedError
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, Compression, open_stream
from tst_megatron.errors import UserError

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "text"]

_TEXT_SUFFIXES = (
    "txt text md markdown rst adoc org tex html htm "
    "py pyi c h cc cpp cxx hpp hh cu cuh rs go java kt scala swift js jsx mjs ts tsx cs rb php pl "
    "lua r jl hs ml mli ex erl clj lisp el f90 f95 m mm sh bash sql css scss vue zig nim dart v sv "
    "vhd vhdl cmake lean"
)
_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    **dict.fromkeys((f".{name}" for name in _TEXT_SUFFIXES.split()), "text"),
}
_COMPRESSION_OF_SUFFIX: dict[str, Compression] = {
    ".gz": "gz",
    ".zst": "zst",
    ".zstd": "zst",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lz4": "lz4",
}
_FIRST_BYTES = 4096
_FORMATS = ", ".join(get_args(Format))
_KNOWN = ".jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt"
_KINDS_NAMED = 8
# The last part of a glob that asks for no names in particular.
_SAYS_NOTHING = set("*?.")


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        path: as it was given or found.
        format: of what is in it.
        compression: around that; None for none.
        size: in bytes, as it lies on the disk.
        mtime_ns: when it was last changed.
    """

    path: Path
    format: Format
    compression: Compression | None
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class LeftOut:
    """Files that a folder or a glob has beside those that are read.

    Attributes:
        spec: the folder or the glob, as the user named it.
        kinds: how many of each kind: by the ending of their names, or what they are.
    """

    spec: str
    kinds: dict[str, int]

    @property
    def in_words(self) -> str:
        """In a line."""
        return f"Left out of {self.spec}: {kinds_in_words(self.kinds)}"


def kinds_in_words(kinds: Mapping[str, int]) -> str:
    """How many files of which kind, the most of them first."""
    most = sorted(kinds.items(), key=lambda one: (-one[1], one[0]))
    named = [f"{count:,} {kind}" for kind, count in most[:_KINDS_NAMED]]
    others = sum(count for _, count in most[_KINDS_NAMED:])
    return ", ".join([*named, f"{others:,} of other kinds"] if others else named)


@dataclass(frozen=True)
class Inputs:
    """What the user's paths and globs name.

    Attributes:
        files: to read, in order.
        left_out: of every folder and glob that has more than that.
    """

    files: list[InputFile]
    left_out: list[LeftOut]


def find_inputs(specs: Sequence[str], format: str | None = None) -> Inputs:
    """The files that are named: by themselves, by their folder, or by a glob.

    The order is that of ``specs``. Within a folder (and all below it) and within a glob (``**`` is
    any folders) it is that of the paths. Of a folder, and of a glob that says nothing of names
    (``corpus/*``, ``corpus/**``), files are left out whose ending is not known, and hidden ones;
    with ``format``, those that begin with ``_``, as marks of success do, in their place. A glob
    that says something (``part-*``) names its files as if each were named by itself.

    Args:
        specs: paths and globs.
        format: of all files, whatever their names; None to tell by the names.

    Raises:
        UserError: nothing is there, it cannot be read, its format cannot be told, or a file is
            named twice: whether it should be read twice is not for us to say.
    """
    if format is not None and format not in get_args(Format):
        raise UserError(f"--format {format} is not one of {_FORMATS}")
    found: dict[Path, str] = {}
    files: list[InputFile] = []
    left_out: list[LeftOut] = []
    for spec in specs:
        kinds: Counter[str] = Counter()
        try:
            for path in _paths(spec, format, kinds):
                same = path.parent.resolve() / path.name
                if same in found:
                    raise UserError(
                        f"the input {path} is named twice, by {found[same]} and by {spec}: "
                        "name it once"
                    )
                found[same] = spec
                files.append(_input_file(path, format))
        except OSError as error:
            name = error.filename or spec
            raise UserError(f"the input {name} cannot be read: {error.strerror}") from None
        if kinds:
            left_out.append(LeftOut(spec, dict(sorted(kinds.items()))))
    return Inputs(files, left_out)


def _paths(spec: str, format: str | None, kinds: Counter[str]) -> list[Path]:
    """The files of a spec in their order; what is left out is counted in ``kinds``."""
    path = Path(spec)
    if path.is_dir():
        some = [one for one in _below(path, kinds) if _is_wanted(one, format, kinds)]
        if not some:
            raise UserError(
                f"the folder {spec} holds no {_KNOWN} file{_but(kinds)}: give --format if "
                "its files have other names"
            )
        return sorted(some, key=lambda one: one.relative_to(path).as_posix())
    if path.exists() or not glob.has_magic(spec):
        _check_named(path, format)
        return [path]
    matches = sorted({Path(one) for one in glob.glob(spec, recursive=True)}, key=Path.as_posix)  # noqa: PTH207 — Path's knows no absolute ones
    some = _files_of_glob(spec, matches, format, kinds)
    if not some:
        what = f"{_KNOWN} file" if matches else "file"
        raise UserError(
            f"the glob {spec} matches no {what}{_but(kinds)}: write folder/**/*.jsonl for "
            "files in folders below, or give --format for other names"
        )
    return some


def _but(kinds: Mapping[str, int]) -> str:
    return f" but {kinds_in_words(kinds)}" if kinds else ""


def _files_of_glob(
    spec: str, matches: list[Path], format: str | None, kinds: Counter[str]
) -> list[Path]:
    above = {parent for one in matches for parent in one.parents}
    files = []
    for path in matches:
        if path.is_dir():
            # Of ``**`` it is on the way to others.
            kinds["folders"] += path not in above
        elif set(Path(spec).name) <= _SAYS_NOTHING:
            if _is_wanted(path, format, kinds):
                files.append(path)
        else:
            _check_named(path, format)
            files.append(path)
    kinds += Counter()  # Without what was counted as none.
    return files


def _check_named(path: Path, format: str | None) -> None:
    """Check that a file that the user has named can be read.

    Raises:
        UserError: it cannot.
    """
    if not path.exists():
        raise UserError(f"the input {path} is missing: there is no such file or folder")
    if not path.is_file():
        raise UserError(f"the input {path} is neither a file nor a folder")
    if format is None and _known(path) is None:
        raise UserError(
            f"the input {path} is none of {_KNOWN} by its name: say what it is with "
            f"--format ({_FORMATS})"
        )


def _below(folder: Path, kinds: Counter[str]) -> Iterator[Path]:
    """All files in a folder and below that are not hidden; the rest is counted."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        kinds["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        kinds["links to folders"] += sum(Path(root, name).is_symlink() for name in folders)
        yield from (Path(root, name) for name in names if not name.startswith("."))
    kinds += Counter()


def _is_wanted(path: Path, format: str | None, kinds: Counter[str]) -> bool:
    """Whether a file that was not named itself is meant; if not, it is counted."""
    if format is None and _known(path) is None:
        kinds[_kind(path)] += 1
    elif format is not None and path.name.startswith("_"):
        kinds["beginning with _"] += 1
    elif path.exists() and not path.is_file():
        kinds["pipes, sockets and devices"] += 1
    else:
        # A link to nothing as well: whoever opens it says so.
        return True
    return False


def _endings(path: Path) -> list[str]:
    """What says of a name how to read the file: that of a compression after another."""
    endings = [suffix.lower() for suffix in path.suffixes]
    is_packed = bool(endings) and endings[-1] in _COMPRESSION_OF_SUFFIX
    return endings[-2:] if is_packed else endings[-1:]


def _kind(path: Path) -> str:
    endings = _endings(path)
    if not endings:
        return "without an ending"
    return "ending in a number" if endings[0][1:].isdigit() else "".join(endings)


def _known(path: Path) -> Format | None:
    endings = [one for one in _endings(path) if one not in _COMPRESSION_OF_SUFFIX]
    return _FORMAT_OF_SUFFIX.get(endings[0]) if endings else None


def _input_file(path: Path, format: str | None) -> InputFile:
    status = path.stat()
    with path.open("rb"):
        pass
    compression = _COMPRESSION_OF_SUFFIX.get(path.suffix.lower())
    chosen = next((one for one in get_args(Format) if one == format), None) or _known(path)
    assert chosen is not None  # `_paths` has seen to it.
    file = InputFile(path, chosen, compression, status.st_size, status.st_mtime_ns)
    if format is None and chosen == "json" and not _begins_as_array(file):
        return InputFile(path, "jsonl", compression, status.st_size, status.st_mtime_ns)
    return file


def _begins_as_array(file: InputFile) -> bool:
    """Whether a ``.json`` file holds an array rather than JSON lines."""
    try:
        with open_stream(file.path, file.compression) as stream:
            while block := stream.read(_FIRST_BYTES):
                if begin := block.removeprefix(BYTE_ORDER_MARK).lstrip():
                    return begin.startswith(b"[")
    except DamagedError:
        return True  # It is found out again, and said, when the file is read.
    return False
