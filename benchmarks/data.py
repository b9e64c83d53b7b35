"""Reading superposed samples against Megatron's ``GPTDataset`` reading as many tokens a sample."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from megatron.core.datasets.utils import Split

from benchmarks.measure import Bench, Prepare, Row, Work, throughput_row
from tst_megatron.corpora.parts import DocumentPart
from tst_megatron.methods.superposition.phased_dataset import StageDataset, stage_config
from tst_megatron.methods.superposition.text import text_of_bags
from tst_megatron.stock.datasets import data_of_split

L, BAG_SIZE = 1024, 16
NUM_DOCUMENTS, MEAN_DOCUMENT = 20_000, 1000
NUM_SAMPLES = 1000


def rows(bench: Bench) -> Iterator[Row]:
    """Samples a second, the index's making or loading included."""
    tokens = (L + 1) * BAG_SIZE
    against = f"GPTDataset, {tokens} tokens a sample"
    with tempfile.TemporaryDirectory() as folder:
        prefix = write_corpus(Path(folder) / "corpus")
        for state in ("cold", "warm"):
            what = f"data: samples of {L + 1} bags of {BAG_SIZE}, {state} index"
            bench.say(what)
            ours, theirs = (
                reading(kind, prefix, Path(folder), state) for kind in (StageDataset, GPTDataset)
            )
            yield throughput_row(
                what, against, ours, theirs, turns=15, at_least=0.95, n=NUM_SAMPLES
            )


def write_corpus(prefix: Path) -> str:
    """Documents of random tokens and lengths, as Megatron indexes them."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    rng = np.random.default_rng(1)
    for length in rng.integers(1, 2 * MEAN_DOCUMENT, size=NUM_DOCUMENTS):
        builder.add_document(torch.from_numpy(rng.integers(0, 32768, size=length)), [int(length)])
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


def reading(kind: Any, prefix: str, folder: Path, state: str) -> Prepare:
    """Open the data set and read every sample of it, with an index in the cache or none."""

    def prepare() -> Work:
        cache = Path(tempfile.mkdtemp(dir=folder)) if state == "cold" else folder / "warm"
        config = config_of(kind, prefix, cache)

        def work() -> int:
            dataset = data_of_split(kind, config, Split.train, NUM_SAMPLES, lambda: True)
            return sum(len(dataset[index]) for index in range(NUM_SAMPLES))

        return work

    return prepare


def config_of(kind: Any, prefix: str, cache: Path) -> GPTDatasetConfig:
    """The same text for either; ours is one phase of two, with its part of the documents."""
    config = GPTDatasetConfig(
        random_seed=1234,
        sequence_length=L if kind is StageDataset else text_of_bags(BAG_SIZE, 1, L).step,
        blend=([prefix], None),
        split="100,0,0",
        path_to_cache=str(cache),
        tokenizer=SimpleNamespace(
            vocab_size=32768, eod=-5, pad=-7, unique_identifiers={}, special_tokens_dict={}
        ),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    if kind is StageDataset:
        part = DocumentPart((0.0, 0.95, 1.0), 0)
        return stage_config(config, BAG_SIZE, part)
    return config
