"""Bags of Megatron's mock data, against the mock documents themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from counted_corpora import SCHEDULE, build, parse, tokens_of
from megatron.core.datasets.gpt_dataset import MockGPTLowLevelDataset

from tst_megatron.methods.registry import run_of
from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.phased_dataset import BAGS, build_validation_dataset
from tst_megatron.stock.datasets import dataset_config

BOUNDARIES = pytest.mark.parametrize("boundary", ["any", "document"])


def run(*flags: str):
    return parse("--mock-data", SCHEDULE, "--seq-length=32", *flags)


@BOUNDARIES
def test_every_stage_has_bags_of_mock_text(tmp_path: Path, boundary: str) -> None:
    args = run(f"--tst-bag-boundary={boundary}", f"--data-cache-path={tmp_path}")
    dataset = build(args)
    eod = dataset_config(args).tokenizer.eod
    sizes = []
    for index in range(dataset.schedule.num_samples):
        sample = dataset[index]
        if BAGS in sample:
            assert sample[BAGS].shape[0] == 33
            sizes.append(sample[BAGS].shape[1])
            if boundary == "document":
                ends = (sample[BAGS][:-1] == eod).nonzero()
                # Nothing of another document behind the end of one.
                assert all((sample[BAGS][bag, place + 1 :] == EMPTY).all() for bag, place in ends)
        tokens = tokens_of(sample)
        tokens = tokens[tokens != EMPTY]
        # Mock documents count up from 1 and end.
        for now, following in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True):
            assert following in ((1, eod) if now == eod else (now + 1, eod))
    assert sizes == [4] * 48 + [2] * 32


@BOUNDARIES
def test_no_document_is_read_in_two_stages(boundary: str) -> None:
    dataset = build(run(f"--tst-bag-boundary={boundary}"))
    own = [set(dataset.of_bag_size[size].document_index.tolist()) for size in (4, 2, 1)]
    assert sum(map(len, own)) == len(set.union(*own)) > 30_000


@BOUNDARIES
def test_held_out_bags_are_of_other_documents(boundary: str) -> None:
    args = run()
    trained = build(args)
    held_out = build_validation_dataset(4, dataset_config(args), 10, lambda: True, boundary)
    assert held_out[0][BAGS].shape == (33, 4)
    read = {int(one) for kind in trained.of_bag_size.values() for one in kind.document_index}
    assert read.isdisjoint(held_out.document_index.tolist())


def test_a_run_says_what_it_would_read() -> None:
    args = run()
    text = run_of(args).text(40, 32)
    assert [part.samples for part in text] == [48, 32, 80]
    # Megatron's mock data are as long as they are: enough to count on here.
    lengths = MockGPTLowLevelDataset(dataset_config(args).tokenizer).sequence_lengths
    assert int(np.sum(lengths)) > 10 * sum(part.needed for part in text)
    assert torch.equal(build(args)[0][BAGS], build(args)[0][BAGS])
