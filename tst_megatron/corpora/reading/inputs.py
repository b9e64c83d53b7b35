"""Which files there are to read, and what each of them is.

The one idea: the order of documents is decided here, by the order of what the user named and by
names alone, so that it is the same on every machine.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tst_megatron.corpora.reading.batches import DamagedError
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, Compression, open_stream
from tst_megatron.errors import UserError

Format = Literal["jsonl", "json", "parquet", "arrow", "text"]

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
}
_FIRST_BYTES = 4096
_FORMATS = ", ".join(get_args(Format))
_KNOWN = ".jsonl, .json, .parquet, .arrow or .txt"


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


def find_inputs(specs: Sequence[str], format: str | None = None) -> list[InputFile]:
    """The files that are named: by themselves, by their folder, or by a glob.

    The order is that of ``specs``. Within a folder (and all below it) and within a glob (``**`` is
    any folders) it is that of the paths, and files whose suffix is not known are left out there, as
    are hidden ones. With ``format``, those of a folder or glob that begin with ``_``, as marks of
    success do, are left out instead.

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
    for spec in specs:
        try:
            for path in _paths(spec, format):
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
    return files


def _paths(spec: str, format: str | None) -> Iterator[Path]:
    path = Path(spec)
    if path.is_dir():
        some = [one for one in _below(path) if _wanted(one, format)]
        if not some:
            raise UserError(
                f"the folder {spec} holds no {_KNOWN} file: give --format if its files have "
                "other names"
            )
        yield from sorted(some, key=lambda one: one.relative_to(path).as_posix())
    elif path.exists():
        if not path.is_file():
            raise UserError(f"the input {spec} is neither a file nor a folder")
        if format is None and _known(path) is None:
            raise UserError(
                f"the input {spec} is none of {_KNOWN} by its name: say what it is with "
                f"--format ({_FORMATS})"
            )
        yield path
    elif glob.has_magic(spec):
        matches = [Path(one) for one in glob.glob(spec, recursive=True)]  # noqa: PTH207 — Path's knows no absolute ones
        some = [one for one in matches if _wanted(one, format) and one.is_file()]
        if not some:
            what = f"{_KNOWN} file" if matches else "file"
            raise UserError(
                f"the glob {spec} matches no {what}: write folder/**/*.jsonl for files in folders "
                "below, or give --format for other names"
            )
        yield from sorted(set(some), key=Path.as_posix)
    else:
        raise UserError(f"the input {spec} is missing: there is no such file or folder")


def _below(folder: Path) -> Iterator[Path]:
    """All files in a folder and below that are not hidden."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _wanted(path: Path, format: str | None) -> bool:
    """Whether a file that was not named itself is meant."""
    return _known(path) is not None if format is None else not path.name.startswith("_")


def _known(path: Path) -> Format | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSION_OF_SUFFIX:
        suffixes.pop()
    return _FORMAT_OF_SUFFIX.get(suffixes[-1]) if suffixes else None


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
