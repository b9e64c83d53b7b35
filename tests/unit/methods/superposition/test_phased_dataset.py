"""The data view against the text itself: what each phase reads, and that none reads another's."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from tst_megatron.corpora.parts import DocumentPart, documents_of_part
from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.phased_dataset import (
    BAGS,
    build_phased_dataset,
    build_validation_dataset,
)
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.text import text_of_bags

L = 8
GLOBAL_BATCH_SIZE = 4


@pytest.fixture
def counted(tmp_path) -> str:
    """A corpus in which every token is its own place: 0, 1, 2, … in documents of many lengths."""
    prefix = tmp_path / "counted"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    rng, token = np.random.default_rng(), 0
    for length in rng.integers(1, 40, size=400):
        builder.add_document(torch.arange(token, token + int(length)), [int(length)])
        token += int(length)
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


def config(tmp_path, *prefixes: str, weights=None, split: str = "100,0,0") -> GPTDatasetConfig:
    tokenizer = SimpleNamespace(
        vocab_size=20_000, eod=-5, pad=-7, unique_identifiers={}, special_tokens_dict={}
    )
    return GPTDatasetConfig(
        random_seed=1234,
        sequence_length=L,
        blend=(list(prefixes), weights),
        split=split,
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )


def schedule_of(shares, train_iters: int) -> BagSchedule:
    return BagSchedule.from_shares(shares, train_iters, lambda steps: steps * GLOBAL_BATCH_SIZE)


def everywhere() -> bool:
    return True


def test_samples_are_bags_of_contiguous_text(tmp_path, counted: str) -> None:
    schedule = schedule_of([(4, 0.3), (2, 0.2)], 20)
    dataset = build_phased_dataset(schedule, config(tmp_path, counted), everywhere)
    assert schedule.num_samples == 20 * GLOBAL_BATCH_SIZE < len(dataset)
    text = IndexedDataset(counted)
    starts = {int(text.get(i)[0]) for i in range(len(text.sequence_lengths))}
    for index in range(schedule.num_samples):
        sample, place = dataset[index], schedule.locate(index)
        if place.stage == 2:
            assert sample["tokens"].shape == (L,)
            flat = torch.cat([sample["tokens"][:1], sample["labels"]])
        else:
            assert sample[BAGS].shape == (L + 1, place.bag_size)
            assert sample[BAGS].dtype == torch.int64
            flat = sample[BAGS].flatten()
        # Each token is the next one of its document, or the first of another document.
        for now, following in zip(flat[:-1].tolist(), flat[1:].tolist(), strict=True):
            assert following == now + 1 or following in starts


def test_no_text_is_read_in_two_phases(tmp_path, counted: str) -> None:
    schedule = schedule_of([(4, 0.3), (2, 0.2)], 20)
    dataset = build_phased_dataset(schedule, config(tmp_path, counted), everywhere)
    read: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for index in range(schedule.num_samples):
        sample = dataset[index]
        tokens = sample[BAGS].flatten() if BAGS in sample else sample["tokens"]
        read[schedule.locate(index).stage].update(tokens.tolist())
    assert read[0].isdisjoint(read[1])
    assert read[0].isdisjoint(read[2])
    assert read[1].isdisjoint(read[2])


def test_no_token_is_read_twice_within_an_epoch(tmp_path, counted: str) -> None:
    schedule = schedule_of([(3, 0.5)], 16)
    dataset = build_phased_dataset(schedule, config(tmp_path, counted), everywhere)
    inputs = [
        token
        for index in range(schedule.stages[0].num_samples)
        # A sample's last token is its neighbour's first, as in GPTDataset.
        for token in dataset[index][BAGS].flatten()[:-1].tolist()
    ]
    assert len(inputs) == len(set(inputs))
    assert len(inputs) == schedule.stages[0].num_samples * text_of_bags(3, 1, L).step


def test_stages_of_one_bag_size_go_on_through_one_data_set(tmp_path, counted: str) -> None:
    schedule = schedule_of([(4, 0.2), (2, 0.2), (4, 0.2)], 20)
    dataset = build_phased_dataset(schedule, config(tmp_path, counted), everywhere)
    once = [
        tuple(dataset[index][BAGS].flatten().tolist())
        for index in range(schedule.num_samples)
        if schedule.locate(index).bag_size == 4
    ]
    assert len(once) == len(set(once)) == schedule.samples_of_bag_size(4)


def test_bags_of_one_are_stock_samples(tmp_path, counted: str) -> None:
    schedule = schedule_of([(1, 0.5)], 20)
    ours = build_phased_dataset(schedule, config(tmp_path, counted), everywhere)
    stock = BlendedMegatronDatasetBuilder(
        GPTDataset, [schedule.num_samples, 0, 0], everywhere, config(tmp_path, counted)
    ).build()[0]
    for index in range(schedule.num_samples):
        mine, theirs = ours[index], stock[index]
        if BAGS in mine:
            assert mine[BAGS].shape == (L + 1, 1)
            assert torch.equal(mine[BAGS][:-1, 0], theirs["tokens"])
            assert torch.equal(mine[BAGS][1:, 0], theirs["labels"])
        else:
            assert mine.keys() == theirs.keys()
            for key in theirs:
                assert torch.equal(mine[key], theirs[key])


def test_samples_depend_on_the_seed_and_nothing_else(tmp_path, counted: str) -> None:
    schedule = schedule_of([(4, 0.3)], 20)
    first = build_phased_dataset(schedule, config(tmp_path / "a", counted), everywhere)
    again = build_phased_dataset(schedule, config(tmp_path / "b", counted), everywhere)
    cached = build_phased_dataset(schedule, config(tmp_path / "a", counted), everywhere)
    for index in (0, 7, 23):
        assert torch.equal(first[index][BAGS], again[index][BAGS])
        assert torch.equal(first[index][BAGS], cached[index][BAGS])


def test_a_blend_gives_each_phase_its_own_documents_of_every_source(tmp_path, counted: str) -> None:
    schedule = schedule_of([(4, 0.4)], 20)
    blend = config(tmp_path, counted, counted, weights=[0.25, 0.75])
    dataset = build_phased_dataset(schedule, blend, everywhere)
    sources: dict[int, list[int]] = {0: [], 1: []}
    for index in range(schedule.num_samples):
        sources[schedule.locate(index).stage].append(int(dataset[index]["dataset_id"]))
    for drawn in sources.values():
        assert np.mean(drawn) == pytest.approx(0.75, abs=0.05)


def test_validation_has_the_split_in_bags(tmp_path, counted: str) -> None:
    halves = config(tmp_path, counted, split="50,50,0")
    bags = build_validation_dataset(4, halves, None, everywhere)
    lengths = IndexedDataset(counted)
    boundary = int(lengths.sequence_lengths[: len(lengths.sequence_lengths) // 2].sum())
    tokens = torch.cat([bags[index][BAGS].flatten() for index in range(len(bags))])
    assert int(tokens.min()) >= boundary
    step = text_of_bags(4, 1, L).step
    assert len(bags) == (int(lengths.sequence_lengths.sum()) - boundary - 1) // step


def test_padding_is_empty(tmp_path, counted: str) -> None:
    dataset = build_phased_dataset(
        schedule_of([(4, 0.5)], 8), config(tmp_path, counted), everywhere
    )
    padded = dataset.of_bag_size[4][None]
    assert bool((padded[BAGS] == EMPTY).all())


def test_documents_are_shared_out_whole() -> None:
    rng = np.random.default_rng()
    lengths = rng.integers(1, 1000, size=500).astype(np.int32)
    documents = np.arange(100, 450, dtype=np.int32)
    bounds = (0.0, 0.2, 0.55, 1.0)
    parts = [
        documents_of_part(lengths, documents, DocumentPart(bounds, index), seed=3)
        for index in range(3)
    ]
    assert np.array_equal(np.sort(np.concatenate(parts)), documents)
    total = lengths[documents].sum()
    for part, (low, high) in zip(parts, pairwise(bounds), strict=True):
        assert abs(lengths[part].sum() / total - (high - low)) <= 2 * 1000 / total


@pytest.mark.parametrize("bounds", [(0.0, 0.001, 1.0), (0.0, 0.999, 1.0), (0.0, 0.4, 0.4001, 1.0)])
def test_every_part_has_a_document(bounds: tuple[float, ...]) -> None:
    lengths = np.array([100, 3, 100], dtype=np.int32)
    documents = np.arange(3, dtype=np.int32)
    parts = [
        documents_of_part(lengths, documents, DocumentPart(bounds, index), seed=3)
        for index in range(len(bounds) - 1)
    ]
    assert all(len(part) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), documents)
