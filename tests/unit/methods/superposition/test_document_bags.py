"""Bags that end with their documents, against a slow reading of the same text."""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from megatron.core.datasets.utils import Split

from tst_megatron.corpora.budget import Budget, Reading
from tst_megatron.corpora.parts import DocumentPart
from tst_megatron.corpora.sources import Source
from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.phased_dataset import (
    BAGS,
    DOCUMENT_BOUNDARIES,
    StageDataset,
    build_phased_dataset,
    build_validation_dataset,
    stage_config,
)
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.text import text_of_stages
from tst_megatron.stock.datasets import data_of_split

EOD = 0
SEQ_LENGTH = st.integers(1, 9)
BAG_SIZE = st.integers(2, 9)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
# Files are made for every example.
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def text_of(lengths: list[int], with_eod: bool) -> list[list[int]]:
    """Documents in which no token stands twice, but for the one that ends each."""
    documents, token = [], 1
    for length in lengths:
        document = list(range(token, token + length))
        token += length
        if with_eod:
            document[-1] = EOD
        documents.append(document)
    return documents


def write(prefix: Path, documents: list[list[int]]) -> str:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for document in documents:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


def config_of(prefix: str, seq_length: int, split: str = "100,0,0", **more) -> GPTDatasetConfig:
    tokenizer = SimpleNamespace(
        vocab_size=20_000, eod=EOD, pad=-7, unique_identifiers={}, special_tokens_dict={}
    )
    settings = {"reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False}
    return GPTDatasetConfig(
        random_seed=1234,
        sequence_length=seq_length,
        blend=([prefix], None),
        split=split,
        path_to_cache=f"{prefix}-cache",
        tokenizer=tokenizer,
        create_attention_mask=False,
        **settings | more,
    )


def everywhere() -> bool:
    return True


def build(config: GPTDatasetConfig, bag_size: int, num_samples: int | None) -> StageDataset:
    made = stage_config(config, bag_size, DocumentPart(), "document")
    return data_of_split(StageDataset, made, Split.train, num_samples, everywhere)


def bags_of(document: list[int], bag_size: int) -> list[list[int]]:
    """One token after the other."""
    bags: list[list[int]] = []
    for token in document:
        if not bags or len(bags[-1]) == bag_size:
            bags.append([])
        bags[-1].append(token)
    return [bag + [EMPTY] * (bag_size - len(bag)) for bag in bags]


@SLOW
@given(LENGTHS, SEQ_LENGTH, BAG_SIZE, st.booleans(), st.integers(1, 60), st.booleans())
def test_samples_are_the_documents_bags_in_a_row(
    lengths: list[int],
    seq_length: int,
    bag_size: int,
    with_eod: bool,
    num_samples: int,
    mapped: bool,
) -> None:
    documents = text_of(lengths, with_eod)
    if sum(len(bags_of(d, bag_size)) for d in documents) <= seq_length:
        return  # Megatron cannot index a split of less than one sample either.
    with TemporaryDirectory() as folder:
        config = config_of(
            write(Path(folder) / "text", documents),
            seq_length,
            inter_document_masking=True,
            mmap_bin_files=mapped,
        )
        dataset = build(config, bag_size, num_samples)
        samples = [dataset[index] for index in range(len(dataset))]
        order = dataset.document_index.tolist()
        places = dataset.shuffle_index.tolist()

    # Every epoch has every document once.
    epochs = [order[i : i + len(documents)] for i in range(0, len(order), len(documents))]
    assert sorted(order) == sorted(list(range(len(documents))) * len(epochs))
    row = [(bag, nth) for nth, d in enumerate(order) for bag in bags_of(documents[d], bag_size)]
    assert len(samples) == (len(row) - 1) // seq_length >= num_samples
    assert sorted(places) == list(range(len(samples)))
    for sample, place in zip(samples, places, strict=True):
        # Neighbours share a bag, as they share a token in GPTDataset.
        begin = place * seq_length
        wanted = row[begin : begin + seq_length + 1]
        assert sample[BAGS].dtype == torch.int64
        assert sample[BAGS].tolist() == [bag for bag, _ in wanted]
        begins = [i for i in range(seq_length) if i == 0 or wanted[i][1] != wanted[i - 1][1]]
        filled_up = begins + [seq_length] * (seq_length + 1 - len(begins))
        assert sample[DOCUMENT_BOUNDARIES].tolist() == filled_up


@SLOW
@given(LENGTHS, SEQ_LENGTH, st.booleans())
def test_documents_begin_and_end_where_megatron_has_them(
    lengths: list[int], seq_length: int, with_eod: bool
) -> None:
    """Of documents that are cut into bags of 1 in one view and are tokens in the other."""
    documents = text_of(lengths, with_eod)
    if sum(lengths) <= seq_length:
        return
    with TemporaryDirectory() as folder:
        twice = [[token for token in d for _ in range(2)] for d in documents]
        tokens = write(Path(folder) / "tokens", documents)
        pairs = write(Path(folder) / "pairs", twice)
        stock = BlendedMegatronDatasetBuilder(
            GPTDataset,
            [None, 0, 0],
            everywhere,
            config_of(tokens, seq_length, inter_document_masking=True),
        ).build()[0]
        ours = build(config_of(pairs, seq_length, inter_document_masking=True), 2, None)
        assert len(ours) == len(stock)
        for index in range(len(stock)):
            mine, theirs = ours[index], stock[index]
            assert torch.equal(mine[BAGS][:-1, 0], theirs["tokens"])
            assert torch.equal(mine[BAGS][1:, 0], theirs["labels"])
            assert torch.equal(mine[DOCUMENT_BOUNDARIES], theirs["cu_seqlens"])


@SLOW
@given(LENGTHS, SEQ_LENGTH, BAG_SIZE)
def test_a_validation_split_may_end_in_padding(
    lengths: list[int], seq_length: int, bag_size: int
) -> None:
    documents = text_of(lengths, with_eod=True)
    row = [bag for d in documents for bag in bags_of(d, bag_size)]
    if len(row) < 2:
        return
    with TemporaryDirectory() as folder:
        config = config_of(
            write(Path(folder) / "text", documents),
            seq_length,
            split="0,100,0",
            inter_document_masking=True,
            drop_last_partial_validation_sequence=False,
        )
        dataset = build_validation_dataset(bag_size, config, None, everywhere, "document")
        read = [dataset[index] for index in range(len(dataset))]
        padding = dataset[None]
    empty = [EMPTY] * bag_size
    assert padding[BAGS].tolist() == [empty] * (seq_length + 1)
    tokens = [bag for sample in read for bag in sample[BAGS].tolist() if bag != empty]
    # Shared ones twice.
    assert sorted(set(map(tuple, tokens))) == sorted(set(map(tuple, row)))
    for sample in read:
        assert sample[BAGS].shape == (seq_length + 1, bag_size)
        assert sample[DOCUMENT_BOUNDARIES][-1] == seq_length


def test_padding_in_the_text_is_empty(tmp_path: Path) -> None:
    """As in an ordinary sample, whose loss is masked there."""
    prefix = write(tmp_path / "text", [[5, 6, 9, 7, 8, 9, 9], [5, 9]] * 20)
    config = config_of(prefix, 4)
    config.tokenizer.pad = 9
    tokens = {t for index in range(5) for t in build(config, 3, 5)[index][BAGS].flatten().tolist()}
    assert tokens == {5, 6, 7, 8, EMPTY}


def test_stages_share_no_document_and_boundaries_no_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = text_of(rng.integers(1, 40, size=400).tolist(), with_eod=False)
    config = config_of(write(tmp_path / "text", documents), 8)
    schedule = BagSchedule.from_shares([(4, 0.3), (2, 0.2)], 20, lambda steps: steps * 4)
    of_document = {token: i for i, document in enumerate(documents) for token in document}
    read: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    datasets = {
        boundary: build_phased_dataset(schedule, config, everywhere, boundary)
        for boundary in ("any", "document", "any", "document")
    }
    for index in range(schedule.num_samples):
        sample = datasets["document"][index]
        bags = sample.get(BAGS, sample.get("tokens")).tolist()
        stage = schedule.locate(index).stage
        for bag in bags if stage < 2 else [[token] for token in bags]:
            own = {of_document[token] for token in bag if token != EMPTY}
            assert len(own) == 1
            read[stage] |= own
        assert EMPTY not in datasets["any"][index].get(BAGS, torch.zeros(1)).flatten().tolist()
    assert read[0].isdisjoint(read[1])
    assert (read[0] | read[1]).isdisjoint(read[2])


@pytest.mark.parametrize("longest", [3, 40])
def test_the_budget_counts_what_the_data_sets_read(tmp_path: Path, longest: int) -> None:
    lengths = np.random.default_rng(longest).integers(1, longest + 1, size=400).tolist()
    prefix = write(tmp_path / "text", text_of(lengths, with_eod=True))
    config = config_of(prefix, 8)
    for steps in (4, 10, 40, 90):
        schedule = BagSchedule.from_shares([(4, 0.3), (2, 0.2)], steps, lambda n: n * 4)
        dataset = build_phased_dataset(schedule, config, everywhere, "document")
        parts = text_of_stages(schedule, 8, "document")
        reading = Reading(8, steps, lambda _, parts=parts: parts, (Source(prefix),), 1234, 0)
        for stage in Budget(reading).stages:
            bag_size = stage.part.tokens_a_position
            built = dataset.of_bag_size[bag_size]
            bags = int(built.dataset.sequence_lengths[built.indices].sum())
            assert stage.available == bags * bag_size
            epochs = built._get_num_epochs(built._get_num_tokens_per_epoch())
            assert stage.is_met == (epochs == 1)


@pytest.mark.parametrize("eod_mask_loss", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_superposed_stage_of_bags_of_one_reads_every_token(
    tmp_path: Path, eod_mask_loss: bool, packed: bool
) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, size=200).tolist()
    prefix = write(tmp_path / "text", text_of(lengths, with_eod=True))
    config = config_of(prefix, 8, eod_mask_loss=eod_mask_loss, inter_document_masking=packed)
    schedule = BagSchedule.from_shares([(1, 0.5)], 20, lambda steps: steps * 4)
    ours = build_phased_dataset(schedule, config, everywhere, "document")
    stock = BlendedMegatronDatasetBuilder(
        GPTDataset, [schedule.num_samples, 0, 0], everywhere, config
    ).build()[0]
    for index in range(schedule.stages[0].num_samples):
        mine, theirs = ours[index], stock[index]
        assert torch.equal(mine[BAGS][:-1, 0], theirs["tokens"])
        assert torch.equal(mine[BAGS][1:, 0], theirs["labels"])
        assert (DOCUMENT_BOUNDARIES in mine) == packed
        if packed:
            assert torch.equal(mine[DOCUMENT_BOUNDARIES], theirs["cu_seqlens"])
