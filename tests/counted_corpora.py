"""Corpora in which every token is its own place, and runs over them from flags to samples."""

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from megatron.training.arguments import add_megatron_arguments

from tst_megatron.corpora.blend import expand_blend
from tst_megatron.corpora.budget import Budget
from tst_megatron.methods.registry import add_arguments, run_of
from tst_megatron.methods.superposition.phased_dataset import BAGS, PhasedDataset
from tst_megatron.stock.datasets import dataset_config
from tst_megatron.trainer.reading import reading_from_args

VOCAB_SIZE = 1_000_000
SCHEDULE = "--tst-schedule=4:0.3,2:0.2"


def write_corpus(prefix: Path, lengths, start: int = 0) -> str:
    """Documents of the given lengths that count up from ``start``, through Megatron's builder."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for length in lengths:
        builder.add_document(torch.arange(start, start + int(length)), [int(length)])
        start += int(length)
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


@cache
def _parser() -> argparse.ArgumentParser:
    return add_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))


def parse(*flags: str) -> argparse.Namespace:
    """A command line of ``pretrain``, as its checks see it."""
    usual = (
        *("--seq-length=8", "--global-batch-size=4", "--train-iters=40"),
        *("--tokenizer-type=NullTokenizer", f"--vocab-size={VOCAB_SIZE}", "--eval-iters=0"),
        "--no-create-attention-mask-in-dataloader",
    )
    args = _parser().parse_args(expand_blend([*usual, *flags]))
    args.rank, args.data_parallel_size = 0, 1
    return args


def build(args: argparse.Namespace) -> PhasedDataset:
    """The run's training data."""
    return run_of(args).training_data(dataset_config(args), lambda: True)


def budget_of(args: argparse.Namespace) -> Budget:
    return Budget(reading_from_args(args))


def tokens_of(sample) -> np.ndarray:
    """``[(L + 1)·s]``, as they stand in the text."""
    if BAGS in sample:
        return sample[BAGS].flatten().numpy()
    return torch.cat([sample["tokens"][:1], sample["labels"]]).numpy()


def mid_level_datasets(dataset: PhasedDataset, bag_size: int) -> list:
    """Megatron's data set of every source, at one bag size."""
    built = dataset.of_bag_size[bag_size]
    return getattr(built, "datasets", [built])
