"""A byte model that is trained as any model of this project: indexed, pre-trained, exported.

The one idea: a run's folder says how far it is, so that the same call goes on where it was cut off.
"""

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tst_megatron import recipes
from tst_megatron.corpora.compression.byte_models import (
    TRANSFORMER,
    ByteModelRecord,
    first_bytes_content,
    hashes,
)
from tst_megatron.corpora.compression.transformer import CONFIG_FILE, FIRST_FILE, WEIGHTS_FILE
from tst_megatron.corpora.index_file import bin_path
from tst_megatron.corpora.indexing.build import build
from tst_megatron.corpora.indexing.plan import BuildSettings
from tst_megatron.corpora.manifest import Manifest, read_manifest
from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell, checkpoints_of, ledger_of, places_here, train_cells
from tst_megatron.experiments.words import of_length
from tst_megatron.runs.ledger import read_ledger

SIZES = {"tiny": 3_000, "3m": 50_000}
"""Steps that are trained where nothing is said, by size."""
_WARMUP_SHARE = 0.1
_VALIDATIONS, _CHECKPOINTS = 5, 10
_FEWEST_STEPS = 20


@dataclass(frozen=True)
class TrainedByteModel:
    """What a run left.

    Attributes:
        record: of the model.
        content: its files, by name.
    """

    record: ByteModelRecord
    content: dict[str, bytes]


def train_byte_model(
    text: BuildSettings, size: str, steps: int | None, folder: Path, console: Console
) -> TrainedByteModel:
    """Train a byte model, going on from what an earlier call has done.

    Args:
        text: what is indexed, with the tokenizer ``bytes``.
        size: one of `SIZES`.
        steps: None for as many as `SIZES` has, or as the text gives.
        folder: takes index, checkpoints and ledger.
        console: where progress goes.

    Raises:
        UserError: the text is too small, or a run failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus"
    build(text, corpus, console)
    manifest = read_manifest(corpus)
    assert manifest is not None
    recipe = recipes.load(f"m1-{size}")
    steps = _steps(manifest, recipe, SIZES[size] if steps is None else steps)
    # What was begun with another size or length is another run.
    cell = Cell(f"{size}-{steps}", (*recipes.flags(recipe), *_flags(folder, recipe, steps)), steps)
    # On one GPU: the recipes' batches are one rank's.
    train_cells(folder, [cell], places_here(1, 1), console)
    content = _exported(folder, cell)
    content[FIRST_FILE] = first_bytes_content(_byte_counts(corpus, manifest))
    ledger = read_ledger(ledger_of(folder, cell))
    record = ByteModelRecord(
        kind=TRANSFORMER,
        context=int(recipe["seq-length"]),
        parameters=int(ledger.header["parameters"]["total"]),
        flops=float(ledger.steps[-1]["flops"]),
        documents=manifest.documents,
        text_bytes=manifest.text_bytes,
        bits_a_byte=float(ledger.validations[-1]["next_token_loss"]) / math.log(2),
        files=hashes(content),
        gpu_hours=(ledger.last or {}).get("gpu_hours"),
    )
    return TrainedByteModel(record, content)


def _steps(manifest: Manifest, recipe: dict[str, Any], wanted: int) -> int:
    """Those wanted, or as many as the text gives without reading any twice."""
    training = float(str(recipe["split"]).split(",")[0]) / 1_000
    positions = int(recipe["seq-length"]) * int(recipe["global-batch-size"])
    steps = min(wanted, int(manifest.tokens * training * 0.98) // positions)
    if steps < _FEWEST_STEPS:
        raise UserError(
            f"the text is too small for a byte model that is trained: {manifest.text_bytes:,} "
            f"bytes are {steps} steps; give more, or count bytes with --size counts"
        )
    return steps


def _flags(folder: Path, recipe: dict[str, Any], steps: int) -> tuple[str, ...]:
    return (
        f"--data-path={folder / 'corpus'}",
        f"--data-cache-path={folder / 'cache'}",
        *of_length(
            steps,
            warmup=min(int(recipe["lr-warmup-iters"]), round(_WARMUP_SHARE * steps)),
            steps_a_validation=steps // _VALIDATIONS,
            checkpoints=_CHECKPOINTS,
        ),
    )


def _exported(folder: Path, cell: Cell) -> dict[str, bytes]:
    out = folder / cell.name / "exported"
    if not out.exists():
        words = ["export", str(checkpoints_of(folder, cell)), "--output", str(out), "--quiet"]
        words += ["--dtype", "float32"]
        done = subprocess.run(
            [sys.executable, "-m", "tst_megatron", *words],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise UserError(f"the byte model cannot be exported: {said[-1]}")
    return {name: (out / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}


def _byte_counts(corpus: Path, manifest: Manifest) -> np.ndarray:
    """How often each byte is in the text, ``[256]``."""
    ids = np.memmap(bin_path(corpus), np.dtype(manifest.dtype), mode="r")
    return np.bincount(ids, minlength=257)[:256].astype(np.int64)
