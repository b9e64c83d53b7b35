"""What a build is to do, written down before it begins, so that a later call does the same."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.tokenizers.description import TokenizerDescription
from tst_megatron.corpora.tokenizers.encoders import Encoder
from tst_megatron.corpora.tokenizers.proof import Chosen
from tst_megatron.errors import UserError
from tst_megatron.files import write_whole


@dataclass(frozen=True)
class BuildSettings:
    """What is asked for.

    Attributes:
        inputs: files, folders and globs.
        format: of all inputs; None to go by their names.
        options: how they are read.
        where: the filter as it was written; None for all records.
        tokenizer: what writes the ids.
        append_eod: put the end-of-document token after every document.
        skips: leave bad records out, instead of stopping at the first.
        uses_reference: write the ids with the reference, whatever is faster.
        workers: processes; None for one a core.
        chunk_bytes: of input that a shard is made from; None to go by the size of the inputs.
    """

    inputs: tuple[str, ...]
    format: str | None
    options: ReadOptions
    where: str | None
    tokenizer: TokenizerDescription
    append_eod: bool = True
    skips: bool = False
    uses_reference: bool = False
    workers: int | None = None
    chunk_bytes: int | None = None

    @property
    def num_workers(self) -> int:
        """Worker processes: one for each core that this process may use, if nothing is said."""
        return self.workers or len(os.sched_getaffinity(0))

    def of_documents(self) -> dict[str, Any]:
        """The flags that the documents depend on, by name."""
        return {
            "format": self.format,
            "field": self.options.field,
            "where": self.where,
            "text_documents": self.options.text_documents,
            "max_document_bytes": self.options.max_document_bytes,
            "append_eod": self.append_eod,
            "eod": self.tokenizer.eod,
            "tokenizer": self.tokenizer.sha256,
        }


@dataclass(frozen=True)
class BuildPlan:
    """What the finished shards of a build depend on.

    Attributes:
        settings: flags, by name.
        inputs: path, size and time of change (ns) of every input.
        chunk_bytes: of input that a shard is made from.
        encoder: name and version of the library that writes the ids.
        fell_back: why it is the reference; None if it is not, or there is no other.
    """

    settings: dict[str, Any]
    inputs: list[list[str | int]]
    chunk_bytes: int
    encoder: str
    fell_back: str | None


def make_plan(
    settings: BuildSettings, files: list[InputFile], chunk_bytes: int, chosen: Chosen
) -> BuildPlan:
    """The plan of a build."""
    return BuildPlan(
        settings=settings.of_documents(),
        inputs=[[str(file.path), file.size, file.mtime_ns] for file in files],
        chunk_bytes=chunk_bytes,
        encoder=encoder_in_words(chosen.encoder),
        fell_back=chosen.fell_back,
    )


def encoder_in_words(encoder: Encoder) -> str:
    """Name and version of an encoder's library."""
    return f"{encoder.name} {encoder.version}"


def read_plan(folder: Path) -> BuildPlan | None:
    """The plan of an unfinished build; None where none was begun."""
    file = folder / _FILE
    return BuildPlan(**json.loads(file.read_bytes())) if file.exists() else None


def write_plan(folder: Path, plan: BuildPlan) -> None:
    """Write a plan down.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(folder / _FILE, json.dumps(asdict(plan), indent=1))


_FILE = "plan.json"


def check_same(begun: BuildPlan, now: BuildPlan, folder: Path) -> None:
    """Check that an unfinished build can be gone on with.

    Raises:
        UserError: it was begun with other settings, inputs, or another library.
    """
    remedy = f"use the same, or delete {folder} to begin anew"
    for name, value in begun.settings.items():
        if now.settings.get(name) != value:
            raise UserError(
                f"{folder} holds an unfinished build with {name.replace('_', '-')} "
                f"{_in_words(value)}, and this one has {_in_words(now.settings.get(name))}: "
                f"{remedy}"
            )
    if begun.chunk_bytes != now.chunk_bytes:
        raise UserError(
            f"{folder} holds an unfinished build with --chunk-bytes {begun.chunk_bytes}, and this "
            f"one has {now.chunk_bytes}: {remedy}"
        )
    if begun.encoder != now.encoder:
        raise UserError(
            f"{folder} holds an unfinished build whose ids {begun.encoder} wrote, and this one has "
            f"{now.encoder}: {remedy}"
        )
    if begun.inputs != now.inputs:
        before = {str(one[0]): one for one in begun.inputs}
        changed = [str(one[0]) for one in now.inputs if before.get(str(one[0])) != one]
        gone = set(before) - {str(one[0]) for one in now.inputs}
        which = next(iter([*changed, *sorted(gone)]), "their order")
        raise UserError(
            f"{folder} holds an unfinished build of other inputs ({which} has changed since): "
            f"{remedy}"
        )


def _in_words(value: Any) -> str:
    return "none" if value is None else str(value)
