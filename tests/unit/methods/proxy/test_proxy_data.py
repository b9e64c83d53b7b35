"""What each sample reads: its form, as often as the rates say, and no document in two of them."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corpora import write_corpus
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

from tst_megatron.corpora.budget import Budget, Reading
from tst_megatron.corpora.forms import compressed_prefix
from tst_megatron.corpora.parts import TextPart
from tst_megatron.corpora.sources import Source
from tst_megatron.methods.forms import Forms
from tst_megatron.methods.proxy.data import build
from tst_megatron.methods.proxy.schedule import RateStage, forms_of
from tst_megatron.methods.superposition.phased_dataset import BAGS, build_phased_dataset
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.text import text_of_stages

L = 8
NUMBER = 300
RAW_MARK, COMPRESSED_MARK, EOD = 1, 2, 3
# A document is its number in every token, in one range for each form.
RAW, COMPRESSED = 10_000, 20_000


@pytest.fixture
def prefix(tmp_path) -> str:
    return two_forms(tmp_path / "c", 0)


def two_forms(prefix: Path, first: int) -> str:
    """A corpus of documents that are numbered from ``first``, and its compressed form."""
    rng = np.random.default_rng(5)
    raw, compressed = [], []
    for number, length in enumerate(rng.integers(4, 60, size=NUMBER).tolist(), first):
        raw.append([RAW_MARK, *[RAW + number] * length, EOD])
        compressed.append([COMPRESSED_MARK, *[COMPRESSED + number] * (length // 4), EOD])
    write_corpus(prefix, raw, np.int32)
    write_corpus(compressed_prefix(prefix), compressed, np.int32)
    return str(prefix)


def config(tmp_path, *prefixes: str, weights: list[float] | None = None) -> GPTDatasetConfig:
    tokenizer = SimpleNamespace(
        vocab_size=40_000, eod=EOD, pad=-7, unique_identifiers={}, special_tokens_dict={}
    )
    return GPTDatasetConfig(
        random_seed=1234,
        sequence_length=L,
        blend=(list(prefixes), weights),
        split="100,0,0",
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )


def parts_of(forms: Forms) -> list[TextPart]:
    spans = [(0, forms.num_samples)]
    return [TextPart(form, form, forms.count(form, spans), L, form=form) for form in forms.names]


def rates(*stages: tuple[str, bool, int]) -> Forms:
    return forms_of([RateStage(Fraction(rate), pairs, number) for rate, pairs, number in stages])


def tokens_of(sample: dict[str, Any]) -> list[int]:
    if BAGS in sample:
        return list(sample[BAGS].flatten().tolist())
    return [*sample["tokens"].tolist(), int(sample["labels"][-1])]


def read_by(dataset: Any, forms: Forms) -> dict[str, set[int]]:
    """Documents that were read, by form."""
    found: dict[str, set[int]] = {form: set() for form in forms.names}
    for index in range(forms.num_samples):
        text = {one for one in tokens_of(dataset[index]) if one >= RAW}
        form = forms.at(index)
        if form == "":
            assert all(RAW <= one < COMPRESSED for one in text)
        if form == "compressed":
            assert all(one >= COMPRESSED for one in text)
        found[form] |= {one % RAW for one in text}
    return found


def test_every_sample_is_of_its_form_and_no_document_is_of_two(tmp_path, prefix) -> None:
    forms = rates(("0.4", True, 40), ("0.75", True, 20), ("0.9", False, 60))
    dataset = build(forms, parts_of(forms), config(tmp_path, prefix), lambda: True)
    assert dataset is not None
    assert len(dataset) == 121
    read = read_by(dataset, forms)
    assert set(read) == {"paired", "", "compressed"}
    assert read["paired"].isdisjoint(read[""] | read["compressed"])
    assert read[""].isdisjoint(read["compressed"])


def test_a_blend_is_read_in_forms_as_one_corpus_is(tmp_path, prefix) -> None:
    other = two_forms(tmp_path / "other", NUMBER)
    forms = rates(("0.4", True, 40), ("0.9", False, 60))
    data = config(tmp_path, prefix, other, weights=[0.7, 0.3])
    read = read_by(build(forms, parts_of(forms), data, lambda: True), forms)
    assert all(min(found) < NUMBER <= max(found) for found in read.values())
    assert sum(map(len, read.values())) == len(set.union(*read.values()))


def test_no_token_is_read_twice(tmp_path, prefix) -> None:
    forms = rates(("0.5", False, 80))
    dataset = build(forms, parts_of(forms), config(tmp_path, prefix), lambda: True)
    lengths = {form: dataset.of_form[form].dataset.sequence_lengths for form in ("", "compressed")}
    for form, base in (("", RAW), ("compressed", COMPRESSED)):
        seen = [
            one - base
            for index in range(80)
            if forms.at(index) == form
            for one in dataset[index]["tokens"].tolist()
            if one >= base
        ]
        counts = np.bincount(seen, minlength=NUMBER)
        # But for its mark and its end.
        assert (counts <= lengths[form] - 2).all()


def test_a_pair_is_a_document_in_both_forms_with_one_end(tmp_path, prefix) -> None:
    forms = rates(("0.5", True, 40))
    dataset = build(forms, parts_of(forms), config(tmp_path, prefix), lambda: True)
    corpus = dataset.of_form["paired"].dataset
    for number in range(NUMBER):
        pair = corpus.get(number).tolist()
        assert len(pair) == corpus.sequence_lengths[number]
        marks = [one for one in pair if one < RAW]
        both = [COMPRESSED_MARK, RAW_MARK] if number % 2 == 0 else [RAW_MARK, COMPRESSED_MARK]
        assert marks == [*both, EOD]
        assert {one % RAW for one in pair if one >= RAW} == {number}
        for begin in range(len(pair)):
            end = begin + 1 + (begin * 7 + number) % 9
            assert corpus.get(number, begin, end - begin).tolist() == pair[begin:end]


def test_bags_are_of_one_form_and_documents_of_one_bag_size_and_form(tmp_path, prefix) -> None:
    forms = rates(("0.4", True, 30), ("0.9", False, 30))
    schedule = BagSchedule.from_shares([(2, 0.4)], 15, lambda steps: 4 * steps)
    data = config(tmp_path, prefix)
    dataset = build_phased_dataset(schedule, data, lambda: True, forms=forms)
    assert dataset is not None
    read: dict[tuple[int, str], set[int]] = {}
    for index in range(60):
        sample = dataset[index]
        bag_size = schedule.locate(index).bag_size
        assert (BAGS in sample) == (bag_size == 2)
        text = [one for one in tokens_of(sample) if one >= RAW]
        form = forms.at(index)
        if form != "paired":
            assert {one >= COMPRESSED for one in text} == {form == "compressed"}
        read.setdefault((bag_size, form), set()).update(one % RAW for one in text)
    assert len(read) == 5  # All of bags in the first stage and pairs, raw; both in the second.
    total = sum(map(len, read.values()))
    assert total == len(set.union(*read.values()))


def test_stages_of_a_bag_size_go_on_where_the_last_one_ended(tmp_path, prefix) -> None:
    forms = rates(("0.4", False, 30), ("0.9", False, 30))
    schedule = BagSchedule.from_shares([(2, 0.2), (1, 0.2), (2, 0.2)], 15, lambda n: 4 * n)
    dataset = build_phased_dataset(schedule, config(tmp_path, prefix), lambda: True, forms=forms)
    numbers: dict[tuple[int, str], list[int]] = {}
    for index in range(60):
        location = schedule.locate(index)
        _, number = dataset._place(index, location)
        numbers.setdefault((location.bag_size, forms.at(index)), []).append(number)
    for found in numbers.values():
        assert found == list(range(len(found)))


def test_the_budget_counts_what_is_read(tmp_path, prefix) -> None:
    forms = rates(("0.4", True, 40), ("0.9", False, 60))
    dataset = build(forms, parts_of(forms), config(tmp_path, prefix), lambda: True)
    reading = Reading(L, 25, lambda steps: parts_of(forms), (Source(prefix),), 1234, 0.005)
    budget = Budget(reading)
    assert budget.is_met
    for stage in budget.stages:
        own = dataset.of_form[stage.part.form]
        assert stage.documents == len(own.indices)
        assert stage.available == int(own.dataset.sequence_lengths[own.indices].sum())
    bags = BagSchedule.from_shares([(2, 0.4)], 25, lambda steps: 4 * steps)
    parts = text_of_stages(bags, L, forms=forms)
    assert sum(part.samples for part in parts) == 100
    assert len({(part.tokens_a_position, part.form) for part in parts}) == len(parts)


def test_one_form_alone_is_megatrons_own_data(tmp_path, prefix) -> None:
    from megatron.core.datasets.utils import Split

    from tst_megatron.stock.caches import CorpusDataset
    from tst_megatron.stock.datasets import data_of_split

    forms, data = rates(("0", False, 40)), config(tmp_path, prefix)
    dataset = build(forms, parts_of(forms), data, lambda: True)
    own = data_of_split(CorpusDataset, data, Split.train, 40, lambda: True)
    for index in range(40):
        assert torch.equal(dataset[index]["tokens"], own[index]["tokens"])
