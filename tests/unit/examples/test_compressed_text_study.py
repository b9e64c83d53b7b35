"""Which runs the compressed text study asks for, and what its report says of made ledgers."""

import gzip
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tst_megatron.corpora import small_corpora
from tst_megatron.corpora.manifest import read_manifest
from tst_megatron.experiments.kept import Kept

LEVELS = {1: 0.02, 2: -0.03, 3: 0.01}
"""What a seed has in common in all of its runs."""
BITS = {
    "bytes": 2.0,
    "bytes-ngrams": 1.7,
    "subwords": 1.8,
    "windows-12": 1.9,
    "windows-16-in-8": 2.3,
    "ac-8": 2.5,
}
BYTES_AN_ID = {"bytes": 1.0, "bytes-ngrams": 1.0, "subwords": 3.1, "windows-12": 3.0}


@pytest.fixture(scope="module")
def example(modules_of) -> SimpleNamespace:
    return modules_of("compressed-text-study", "study", "report")


def keep(ledgers: Path, run: Any, bits: float) -> None:
    """A ledger of a run that ended so."""
    mean = BYTES_AN_ID.get(run.text.name, 1.5)
    header = {"kind": "header", "schema_version": 3, "run_id": run.name, "step": 0}
    end = {
        "kind": "validation",
        "step": run.steps,
        "next_token_loss": bits * mean * math.log(2),
        "flops": run.steps * run.text.flops_a_step,
        "data_tokens": 512 * run.steps,
        "tokens": 1_000,
        "bytes": 1_000 * mean,
    }
    text = "".join(json.dumps(line) + "\n" for line in (header, end))
    (ledgers / f"{run.name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), 1))


def true_bits(run: Any) -> float:
    if run.part == "rate":
        return 2.0 + {2.5e-4: 0.02, 5e-4: 0.0, 1e-3: 0.02}.get(run.rate, 0.1)
    return BITS[run.text.name] + LEVELS[run.seed] - 0.1 * bool(run.bags)


def trained(example: SimpleNamespace, ledgers: Path) -> Any:
    """All of it, as it becomes known."""
    while left := example.study.Study(Kept(ledgers)).left():
        for run in left:
            keep(ledgers, run, true_bits(run))
    return example.study.Study(Kept(ledgers))


def test_every_run_has_a_name_and_the_budget(example: SimpleNamespace, tmp_path: Path) -> None:
    runs = trained(example, tmp_path).runs()
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    assert sum(not name.startswith("rate") for name in names) == 3 * (6 + 4)
    for run in runs:
        spent = run.steps * run.text.flops_a_step
        assert spent == pytest.approx(run.length * example.study.BUDGET, rel=1e-3)
        assert run.part != "rate" or run.seed not in example.study.SEEDS
        flags = run.cell(tmp_path).flags
        # The corpora bring the tokenizer and are split already.
        assert not any(flag.startswith(("--tokenizer", "--split")) for flag in flags)


def test_the_report_gives_the_differences_that_ledgers_were_made_with(
    example: SimpleNamespace, tmp_path: Path, monkeypatch, capsys
) -> None:
    ledgers, out = tmp_path / "ledgers", tmp_path / "out"
    ledgers.mkdir()
    study = trained(example, ledgers)
    words = ["report.py", "--ledgers", str(ledgers), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    assert example.report.main() == 0
    figures = json.loads((out / "figures.json").read_text())
    apart = {one["question"]: one for one in figures["differences"]}
    for question, value in (
        ("windows less subwords, the same number of ids", 0.1),
        ("subwords less bytes", -0.2),
        ("bytes: bags less none", -0.1),
        ("bytes in bags less subwords", 0.1),
        ("bytes with n-grams less bytes", -0.3),
        ("bytes with n-grams in bags less subwords in bags", -0.1),
    ):
        found = apart[question]
        assert found["seeds"] == [1, 2, 3]
        assert (found["value"], found["low"], found["high"]) == pytest.approx((value,) * 3)
    assert not figures["missing"]
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    (run,) = [one for one in study.runs() if one.name == "ac-8-seed3"]
    (ledgers / f"{run.name}.jsonl.gz").unlink()
    capsys.readouterr()
    assert example.report.main() == 0
    assert "Missing: ac-8, seeds 3." in capsys.readouterr().out


def test_all_texts_are_of_the_same_documents(
    example: SimpleNamespace, tmp_path: Path, monkeypatch
) -> None:
    study = example.study
    files = small_corpora.bundled_files()[:60]
    monkeypatch.setattr(small_corpora, "environment_files", lambda: files)
    monkeypatch.setattr(study, "VOCAB_SIZE", 1_000)
    monkeypatch.setattr(study, "_HELD_OUT_BYTES", 30_000)
    study.make_texts(tmp_path, Console(quiet=True))
    for part in ("train", "held-out"):
        manifests = [read_manifest(tmp_path / "data" / text.name / part) for text in study.TEXTS]
        assert len({(one.documents, one.text_bytes) for one in manifests if one}) == 1
    names = {text.name for text in study.TEXTS}
    assert study.NGRAMS.same_as in names
    for text in study.TEXTS:
        found = read_manifest(tmp_path / "data" / text.name / "held-out")
        assert found is not None
        assert found.tokenizer.vocab_size == (1_000 if text.settings is None else text.vocab_size)
        ids = np.fromfile(tmp_path / "data" / text.name / "held-out.bin", found.dtype)
        assert ids.max() < text.vocab_size
