"""Byte models in folders: ``m1.json`` says what one is, beside its files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tst_megatron.corpora.compression.counts import CountModel
from tst_megatron.corpora.compression.growing import ByteModel
from tst_megatron.errors import UserError

FORMAT = 1
MODEL_FILE = "m1.json"
COUNTS_FILE = "counts.safetensors"
COUNTS, TRANSFORMER = "counts", "transformer"


@dataclass(frozen=True)
class ByteModelRecord:
    """What is known of a byte model.

    Attributes:
        kind: ``counts`` or ``transformer``.
        context: bytes that it looks back at most.
        parameters: of a transformer; 0 of counts.
        flops: that its training took, as its ledger counts them; 0 of counts.
        documents: it was trained on.
        text_bytes: in them.
        bits_a_byte: of held-out text, without resets; None where there was too little to hold out.
        files: SHA-256 by name.
        gpu_hours: that its training took, as its ledger counts them; None where not known.
    """

    kind: str
    context: int
    parameters: int
    flops: float
    documents: int
    text_bytes: int
    bits_a_byte: float | None
    files: Mapping[str, str]
    gpu_hours: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"format": FORMAT, **asdict(self)}

    @property
    def is_exact(self) -> bool:
        """Whether it gives the same frequencies on every machine."""
        return self.kind == COUNTS


@dataclass(frozen=True)
class StoredByteModel:
    """A byte model as a folder has it.

    Attributes:
        record: what is known of it.
        content: its files, by name, ``m1.json`` not among them.
        model: that gives frequencies.
    """

    record: ByteModelRecord
    content: Mapping[str, bytes] = field(repr=False)
    model: ByteModel = field(repr=False)

    @property
    def files(self) -> dict[str, bytes]:
        """All files, by name."""
        return {MODEL_FILE: as_file(self.record.as_json()), **self.content}


def as_file(value: Any) -> bytes:
    """A value as the files of this room have it."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def counts_content(model: CountModel) -> dict[str, bytes]:
    """The file of a count model, the same for the same counts."""
    names = ("orders", "contexts", "begins", "symbols", "counts")
    return {COUNTS_FILE: save(dict(zip(names, model.arrays, strict=True)))}


def first_bytes_content(counts: npt.NDArray[np.int64]) -> bytes:
    """The file of a transformer's first bytes, ``[256]``."""
    return save({"counts": counts})


def hashes(content: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 by name."""
    return {name: sha256(one).hexdigest() for name, one in content.items()}


def read_byte_model(folder: Path, on_gpu: bool = False) -> StoredByteModel:
    """Read a byte model.

    Args:
        folder: of it.
        on_gpu: whether a transformer may be put on a GPU, see `TransformerModel.of`.

    Raises:
        UserError: the folder holds none, or not the one that its record is of.
    """
    record = _record(folder)
    try:
        content = {name: (folder / name).read_bytes() for name in sorted(record.files)}
    except OSError as error:
        raise UserError(
            f"the byte model {folder} has no {Path(str(error.filename)).name}, which its "
            f"{MODEL_FILE} names: copy the whole folder"
        ) from None
    for name, digest in hashes(content).items():
        if digest != record.files[name]:
            raise UserError(
                f"{folder / name} is not the file that {MODEL_FILE} was written for (its SHA-256 "
                "is another): copy the folder again"
            )
    if record.kind == COUNTS:
        return StoredByteModel(record, content, _counts(folder, content))
    from tst_megatron.corpora.compression.transformer import TransformerModel

    model = TransformerModel.of(folder, content, record.context, on_gpu)
    return StoredByteModel(record, content, model)


def _record(folder: Path) -> ByteModelRecord:
    path = folder / MODEL_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} is no byte model: it has no {MODEL_FILE}; make one with tst-megatron "
            "compressor train"
        )
    try:
        told = json.loads(path.read_bytes())
        if told.pop("format") != FORMAT:
            raise UserError(f"{path} is of another version of tst-megatron: make it again")
        record = ByteModelRecord(**told)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f"{path} is not what tst-megatron compressor train writes") from None
    if record.kind not in (COUNTS, TRANSFORMER):
        raise UserError(f"{path} names a kind of model that there is none of: {record.kind}")
    return record


def _counts(folder: Path, content: Mapping[str, bytes]) -> CountModel:
    try:
        arrays: dict[str, npt.NDArray[Any]] = load(content[COUNTS_FILE])
        return CountModel(**{name: np.ascontiguousarray(one) for name, one in arrays.items()})
    except (KeyError, TypeError, SafetensorError):
        raise UserError(
            f"{folder / COUNTS_FILE} is not what tst-megatron compressor train writes"
        ) from None
