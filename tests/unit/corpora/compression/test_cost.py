"""What the byte model behind a run's text took, from the record beside its corpus."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from corpora import random_documents, write_corpus, write_its_manifest

from tst_megatron.corpora.compression.cost import cost_of_byte_model
from tst_megatron.corpora.forms import COMPRESSED, compressed_prefix
from tst_megatron.corpora.manifest import TokenizerRecord

MODEL = {"kind": "transformer", "flops": 2.5e12, "parameters": 139_712, "gpu_hours": 0.5}


def arguments(prefix: Path | None, model: Path | None = None, **changes: Any) -> argparse.Namespace:
    flags: dict[str, Any] = {
        **dict.fromkeys(("data_args_path", "per_split_data_args_path", "blend")),
        **dict.fromkeys(f"{split}_data_path" for split in ("train", "valid", "test")),
        "data_path": None if prefix is None else [str(prefix)],
        "split": "90,10,0",
        **{"sft": False, "mock_data": False},
        "tokenizer_model": None if model is None else str(model),
    }
    return argparse.Namespace(**flags | changes)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A corpus that says that a compressor wrote it."""
    found = write_corpus(tmp_path / "corpus", random_documents(5))
    kind = TokenizerRecord("compressor", "ct", "0" * 64, 500, 3, [], "ct 1", 5, None)
    write_its_manifest(found, tokenizer=kind)
    (tmp_path / "ct").mkdir()
    return found


@pytest.fixture
def two_forms(tmp_path: Path) -> Path:
    """A corpus of a proxy whose other form a compressor of a trained model wrote."""
    raw = write_corpus(tmp_path / "text", random_documents(5))
    of_both = {"sha256": "0" * 64, "vocab_size": 500, "eod": 3, "megatron_flags": []}
    for prefix, kind in ((raw, "huggingface"), (compressed_prefix(raw), "proxy")):
        write_corpus(prefix, random_documents(5))
        named = {"encoder": "e 1", "checked_documents": 5, "fell_back": None}
        told = TokenizerRecord(kind=kind, folder=f"{prefix.name}.of", **of_both, **named)
        write_its_manifest(prefix, tokenizer=told)
    inner = tmp_path / f"{compressed_prefix(raw).name}.of/compressed/tokenizer"
    inner.mkdir(parents=True)
    record(inner, {"model": MODEL})
    return raw


def record(folder: Path, content: Any) -> None:
    (folder / "compressor.json").write_text(json.dumps(content))


def test_it_is_what_the_compressors_record_says(prefix: Path) -> None:
    folder = prefix.parent / "ct"
    record(folder, {"model": MODEL})
    cost = cost_of_byte_model(arguments(prefix))
    assert cost is not None
    assert (cost.flops, cost.gpu_hours, cost.parameters) == (2.5e12, 0.5, 139_712)
    assert cost.record == folder / "compressor.json"
    assert cost_of_byte_model(arguments(None, folder)) == cost
    assert cost_of_byte_model(arguments(prefix, mock_data=True)) is None


def test_older_records_tell_no_hours(prefix: Path) -> None:
    record(prefix.parent / "ct", {"model": {k: v for k, v in MODEL.items() if k != "gpu_hours"}})
    cost = cost_of_byte_model(arguments(prefix))
    assert cost is not None
    assert cost.gpu_hours is None


@pytest.mark.parametrize("content", [{"model": None}, {"model": MODEL | {"flops": 0.0}}, [], {}])
def test_counted_bytes_and_codes_without_a_model_cost_nothing(prefix: Path, content: Any) -> None:
    record(prefix.parent / "ct", content)
    assert cost_of_byte_model(arguments(prefix)) is None
    assert cost_of_byte_model(arguments(None, prefix.parent / "not there")) is None


def test_of_two_forms_it_is_behind_the_compressed_one(two_forms: Path) -> None:
    """Bytes alone, of the same vocabulary, need no byte model."""
    cost = cost_of_byte_model(arguments(two_forms), ("", COMPRESSED))
    assert cost is not None
    assert (cost.flops, cost.parameters) == (2.5e12, 139_712)
    assert cost_of_byte_model(arguments(two_forms)) is None
    assert cost_of_byte_model(arguments(two_forms), ("",)) is None
    assert cost_of_byte_model(arguments(compressed_prefix(two_forms))) == cost


def test_of_a_proxy_that_flags_name_likewise(two_forms: Path) -> None:
    folder = two_forms.parent / f"{compressed_prefix(two_forms).name}.of"
    cost = cost_of_byte_model(arguments(None, folder), (COMPRESSED,))
    assert cost is not None
    assert cost.flops == 2.5e12
    assert cost_of_byte_model(arguments(None, folder)) is None
