"""A compressor as a folder: what it is, the table that defines it, and what other libraries read.

The one idea: such a folder is a tokenizer. One window an id is a vocabulary of strings that is read
by the longest match from the left, which Hugging Face's ``tokenizer.json`` can say (WordPiece over
bytes), so that Megatron, transformers and whatever serves a model take it as it is. Other codes go
to Megatron as ids alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.corpora.compression.byte_models import (
    MODEL_FILE,
    StoredByteModel,
    as_file,
    hashes,
    read_byte_model,
)
from tst_megatron.corpora.compression.codes import (
    ByteCode,
    Code,
    GzipCode,
    SteppedCode,
    WindowCode,
)
from tst_megatron.corpora.compression.folder import RECORD_FILE, is_compressor
from tst_megatron.corpora.compression.growing import RULES
from tst_megatron.corpora.compression.hugging_face import tokenizer_files
from tst_megatron.corpora.compression.streams import Stepping
from tst_megatron.corpora.compression.windows import Windows
from tst_megatron.errors import UserError

FORMAT = 1
WINDOWS_FILE = "windows.bin"
METHODS = ("equal-info", "ac", "static-ac", "gzip", "bytes")
STEPPED = "cells"
"""The rule of windows without a table."""


@dataclass(frozen=True)
class Settings:
    """Which code.

    Attributes:
        method: one of `METHODS`.
        token_bits: of an id.
        window_bits: W; 0 where there are no windows.
        rule: which strings are windows: of a table one of `growing.RULES`, or ``cells``.
        reset_every: windows after which the model begins anew; 0 for never.
    """

    method: str
    token_bits: int
    window_bits: int = 0
    rule: str = ""
    reset_every: int = 1

    @property
    def has_table(self) -> bool:
        """Whether a table is all that it takes."""
        return self.method == "equal-info" and self.rule in RULES

    @property
    def steps(self) -> bool:
        """Whether a model takes part in encoding."""
        return self.method in ("ac", "static-ac") or self.rule == STEPPED

    @property
    def in_words(self) -> str:
        """For a line."""
        ids = f"ids of {self.token_bits} bits"
        if self.method != "equal-info":
            return f"{self.method}, {ids}"
        resets = {0: ", the model never reset", 1: ""}.get(
            self.reset_every, f", the model reset every {self.reset_every} windows"
        )
        return f"windows of {self.window_bits} bits ({self.rule}{resets}), {ids}"


@dataclass(frozen=True)
class Compressor:
    """A compressor.

    Attributes:
        settings: which code.
        windows: the table, where there is one.
        model: the byte model; None for codes without one, and where the table alone was shipped.
        model_record: what is known of the model, as JSON; None for codes without one.
    """

    settings: Settings
    windows: Windows | None = field(repr=False, default=None)
    model: StoredByteModel | None = field(repr=False, default=None)
    model_record: Mapping[str, Any] | None = None

    @cached_property
    def code(self) -> Code:
        """What encodes and decodes."""
        settings = self.settings
        if settings.method == "bytes":
            return ByteCode()
        if settings.method == "gzip":
            return GzipCode(settings.token_bits)
        if settings.has_table:
            assert self.windows is not None
            return WindowCode(self.windows, settings.window_bits, settings.token_bits)
        assert self.model is not None
        stepping = Stepping(
            self.model.model,
            self.model.record.context,
            settings.window_bits,
            settings.reset_every,
        )
        return SteppedCode(stepping, settings.token_bits)

    @property
    def vocab_size(self) -> int:
        """Ids, with the end of a document, which is the last one."""
        return self.code.num_ids + 1

    @property
    def is_a_string_an_id(self) -> bool:
        """Whether an id alone stands for some text, the same everywhere."""
        return bool(self.tokenizer_files)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a document's ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: it is no code of a document.
        """
        return self.code.decode([np.asarray(ids, np.int64)])[0].decode(errors="replace")

    @property
    def is_exact(self) -> bool:
        """Whether every machine encodes alike: integers alone take part."""
        return not self.settings.steps or (self.model is not None and self.model.record.is_exact)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """All files of the folder, by name."""
        found: dict[str, bytes] = {}
        if self.windows is not None:
            found[WINDOWS_FILE] = self.windows.content
        if self.settings.steps and self.model is not None:
            found |= self.model.files
        record = {
            "format": FORMAT,
            **asdict(self.settings),
            "vocab_size": self.vocab_size,
            "eod": self.code.num_ids,
            "model": self.model_record,
            "files": hashes(found),
        }
        return {RECORD_FILE: as_file(record), **found, **self.tokenizer_files}

    @cached_property
    def tokenizer_files(self) -> dict[str, bytes]:
        """Those that make Hugging Face's libraries read it; none where they could not."""
        if isinstance(self.code, WindowCode) and self.code.num_ids == len(self.code.windows):
            windows = self.code.windows
            return tokenizer_files([windows.string(one) for one in range(len(windows))])
        if self.settings.method == "bytes":
            return tokenizer_files([bytes([one]) for one in range(256)])
        return {}


def read_compressor(folder: Path, on_gpu: bool = False) -> Compressor:
    """Read a compressor.

    Args:
        folder: of it.
        on_gpu: as of `read_byte_model`.

    Raises:
        UserError: the folder holds none, or another table than its record is of.
    """
    told = _told(folder)
    try:
        settings = Settings(**{name: told[name] for name in Settings.__dataclass_fields__})
        files, model_record = dict(told["files"]), told["model"]
    except (KeyError, TypeError, ValueError):
        raise _unreadable(folder) from None
    if settings.method not in METHODS or settings.token_bits not in range(8, 25):
        raise _unreadable(folder)
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise UserError(f"the compressor {folder} has no {name}: copy the whole folder")
        if hashes({name: (folder / name).read_bytes()})[name] != digest:
            raise UserError(
                f"{folder / name} is not the one that {RECORD_FILE} was written for (its SHA-256 "
                "is another): text would be read as other text, so copy the folder again"
            )
    model = read_byte_model(folder, on_gpu) if MODEL_FILE in files else None
    return Compressor(settings, _windows(folder, files), model, model_record)


def _told(folder: Path) -> dict[str, Any]:
    path = folder / RECORD_FILE
    if not is_compressor(folder):
        raise UserError(
            f"{folder} is no compressor: it has no {RECORD_FILE}; make one with tst-megatron "
            "compressor build"
        )
    try:
        told = json.loads(path.read_bytes())
        version = told["format"]
    except (ValueError, TypeError, KeyError):
        raise _unreadable(folder) from None
    if version != FORMAT:
        raise UserError(f"{path} is of another version of tst-megatron: build it again")
    return dict(told)


def _unreadable(folder: Path) -> UserError:
    return UserError(f"{folder / RECORD_FILE} is not what tst-megatron compressor build writes")


def _windows(folder: Path, files: Mapping[str, str]) -> Windows | None:
    if WINDOWS_FILE not in files:
        return None
    try:
        return Windows.of((folder / WINDOWS_FILE).read_bytes())
    except ValueError as error:
        raise UserError(f"{folder / WINDOWS_FILE} is no table of windows: {error}") from None
