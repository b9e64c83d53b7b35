"""What stands in ``PREFIX.manifest.json``: where an indexed corpus came from, and that it is whole.

The one idea: everything that a later step would otherwise have to be told again (the tokenizer, the
end of a document, the vocabulary) or to believe (sizes, checksums) is written down once, here.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.files import write_whole

SCHEMA_VERSION = 2
_WITHOUT_LEFT_OUT = 1

CHECKSUM_BLOCK = 8 << 20
"""Bytes of a file that each entry of ``block_sha256`` is of."""


@dataclass(frozen=True)
class InputRecord:
    """One file that was read.

    Attributes:
        path: as it was given or found.
        size: in bytes.
        sha256: of the file as it lies on the disk, compressed or not.
        documents: that came from it.
    """

    path: str
    size: int
    sha256: str
    documents: int


@dataclass(frozen=True)
class LeftOutRecord:
    """What a folder or a glob had beside the files that were read.

    Attributes:
        path: the folder or the glob, as it was given.
        kinds: how many files of each kind, by the ending of their names or by what they are.
    """

    path: str
    kinds: dict[str, int]


@dataclass(frozen=True)
class SkippedRecord:
    """A record that was left out.

    Attributes:
        path: of its file.
        record: its line (JSON lines, text), row (Parquet, Arrow, and CSV under its header) or
            element (JSON array), from 1.
        reason: what is wrong with it.
    """

    path: str
    record: int
    reason: str


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer, as training needs it.

    Attributes:
        kind: as of `tst_megatron.corpora.tokenizers.description.TokenizerDescription`.
        folder: the tokenizer's files, beside the corpus; None where there are none.
        sha256: of the file that defines it; of its description where there is none.
        vocab_size: number of ids.
        eod: the id that ends a document; None if it has none.
        megatron_flags: Megatron's flags for it; ``{folder}`` stands for the folder's path.
        encoder: the library that wrote the ids, and its version.
        checked_documents: documents that the reference encoded as well, to the same ids.
        fell_back: why the faster library was not used; None if it was, or there is none.
    """

    kind: str
    folder: str | None
    sha256: str
    vocab_size: int
    eod: int | None
    megatron_flags: list[str]
    encoder: str
    checked_documents: int
    fell_back: str | None


@dataclass(frozen=True)
class FileRecord:
    """One of the two files.

    Attributes:
        size: in bytes.
        sha256: of the whole file.
        block_sha256: of every `CHECKSUM_BLOCK` bytes of it, to say where it is bad.
    """

    size: int
    sha256: str
    block_sha256: list[str]


@dataclass(frozen=True)
class Manifest:
    """What is known of an indexed corpus.

    Attributes:
        inputs: the files, in the order of the documents.
        settings: flags that the documents depend on, by name.
        tokenizer: what wrote the ids.
        dtype: of the ids in the ``.bin`` file.
        documents: in the corpus.
        tokens: in the corpus, ends of documents among them.
        text_bytes: UTF-8 bytes of the documents' text; 0 where ids were read.
        longest_document: tokens of it.
        filtered: records that ``--where`` left out.
        skipped: how many records were left out for each reason: bad ones, if that was asked for,
            and documents without a token.
        skipped_records: the first of them.
        versions: of the packages that had a hand in it.
        bin: the tokens' file.
        idx: the index.
        left_out: what folders and globs had beside the inputs.
    """

    inputs: list[InputRecord]
    settings: dict[str, Any]
    tokenizer: TokenizerRecord
    dtype: str
    documents: int
    tokens: int
    text_bytes: int
    longest_document: int
    filtered: int
    skipped: dict[str, int]
    skipped_records: list[SkippedRecord]
    versions: dict[str, str]
    bin: FileRecord
    idx: FileRecord
    left_out: list[LeftOutRecord] = field(default_factory=list)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text a token, ends of documents among the tokens."""
        return self.text_bytes / self.tokens if self.tokens else 0.0


def manifest_path(prefix: str | Path) -> Path:
    """The manifest of a prefix: several corpora may lie in one folder."""
    return Path(f"{prefix}.manifest.json")


def tokenizer_folder(prefix: str | Path) -> Path:
    """Where the files of a corpus's tokenizer lie, for training."""
    return Path(f"{prefix}.tokenizer")


def write_manifest(prefix: str | Path, manifest: Manifest) -> None:
    """Write a corpus's manifest, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    content = {"schema_version": SCHEMA_VERSION, **asdict(manifest)}
    content["bytes_per_token"] = round(manifest.bytes_per_token, 4)
    write_whole(manifest_path(prefix), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_manifest(prefix: str | Path) -> Manifest | None:
    """The manifest of a corpus; None for one that another tool has indexed.

    Raises:
        UserError: there is one, and it cannot be understood.
    """
    path = manifest_path(prefix)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        version = content.pop("schema_version")
        if version == _WITHOUT_LEFT_OUT:
            content["left_out"] = []
        elif version != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version} and this tst-megatron reads "
                f"{SCHEMA_VERSION}: use the version that wrote it, or index the corpus again"
            )
        del content["bytes_per_token"]
        return Manifest(
            **content
            | {
                "inputs": [InputRecord(**one) for one in content["inputs"]],
                "left_out": [LeftOutRecord(**one) for one in content["left_out"]],
                "tokenizer": TokenizerRecord(**content["tokenizer"]),
                "skipped_records": [SkippedRecord(**one) for one in content["skipped_records"]],
                "bin": FileRecord(**content["bin"]),
                "idx": FileRecord(**content["idx"]),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a manifest of tst-megatron's: {error!r}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def megatron_flags(prefix: str | Path, tokenizer: TokenizerRecord) -> list[str]:
    """Megatron's flags for the tokenizer of a corpus, with the folder where it lies now."""
    folder = "" if tokenizer.folder is None else str(Path(prefix).parent / tokenizer.folder)
    return [flag.replace("{folder}", folder) for flag in tokenizer.megatron_flags]
