"""The training data of a run with phases: one data set, indexed by Megatron's global sample number.

The steps a sample takes:

1. the schedule says which stage the sample index lies in, and the bag size there;
2. every bag size has one data set of Megatron's own kind, over documents of its own, so that no
   text is read in two phases; its samples are (L + 1)·s contiguous tokens;
3. a superposed sample is cut into L + 1 bags; an ordinary one is Megatron's, untouched.

Where bags end with their documents, the corpus is seen as bags from the start (`DocumentBags`), and
Megatron's index makes samples of L + 1 of them.

The one idea: a sample is a function of its index, so there is no state to save or restore.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from torch import Tensor

from tst_megatron.corpora.parts import DocumentPart, document_parts
from tst_megatron.methods.forms import Forms
from tst_megatron.methods.method import Positions
from tst_megatron.methods.superposition.bags import EMPTY, fold
from tst_megatron.methods.superposition.document_bags import DocumentBags
from tst_megatron.methods.superposition.schedule import BagSchedule, Location
from tst_megatron.methods.superposition.text import text_of_bags, text_of_stages
from tst_megatron.stock.datasets import data_of_split
from tst_megatron.stock.parts_of_corpora import PartDataset, PartDatasetConfig, values_of

BAGS = "bags"
"""Key of a superposed sample: ``[L + 1, s]``, int64."""
DOCUMENT_BOUNDARIES = "cu_seqlens"
"""Megatron's key of where the documents among a sample's inputs begin and end: ``[L + 1]``, int32,
filled up with L."""


@dataclass
class StageDatasetConfig(PartDatasetConfig):
    """A ``GPTDatasetConfig`` for one bag size of the schedule.

    Attributes:
        bag_size: s; the parent's ``sequence_length`` is (L + 1)·s − 1 tokens, or L bags where
            bags end with their documents.
        bag_boundary: ``any``, or ``document``.
    """

    bag_size: int = 1
    bag_boundary: str = "any"

    @property
    def counts_bags(self) -> bool:
        """Whether a document takes up whole bags."""
        return self.bag_size > 1 and self.bag_boundary == "document"


class StageDataset(PartDataset):
    """``GPTDataset`` of one bag size, over its share of the documents.

    ``__getitem__`` is the parent's where the configuration's bag size is 1.
    """

    config: StageDatasetConfig
    _pad_token_id: Any

    def __init__(
        self,
        indexed_dataset: IndexedDataset,
        dataset_path: str | None,
        indexed_indices: npt.NDArray[np.int32] | None,
        num_samples: int | None,
        index_split: Split,
        config: StageDatasetConfig,
    ) -> None:
        super().__init__(
            indexed_dataset, dataset_path, indexed_indices, num_samples, index_split, config
        )
        self._padding_in_text: int | None = self._pad_token_id
        if config.counts_bags:
            # Megatron fills a split's last sample up with it.
            self._pad_token_id = [EMPTY] * config.bag_size

    def corpus_of(self, tokens: Any, config: PartDatasetConfig) -> Any:
        """In bags, where these end with their documents."""
        corpus = super().corpus_of(tokens, config)
        assert isinstance(config, StageDatasetConfig), "it is made with one"
        return DocumentBags(corpus, config.bag_size) if config.counts_bags else corpus

    @staticmethod
    def _key_config_attributes() -> list[str]:
        # Megatron names its cache files by these: two stages must not share one.
        return [*PartDataset._key_config_attributes(), "bag_size", "bag_boundary"]

    def __getitem__(self, idx: int | None) -> dict[str, Tensor]:
        """A sample: the parent's dictionary, or ``{"bags": [L + 1, s]}``, int64.

        With inter-document masking, bags come with ``cu_seqlens``.
        """
        if self.config.bag_size == 1:
            return super().__getitem__(idx)
        text, _, lengths = self._query_document_sample_shuffle_indices(0 if idx is None else idx)
        tokens = torch.from_numpy(text).flatten()
        # Padding, of a batch's or a split's end, is no token. Some tokenizers have none.
        if self._padding_in_text is not None:
            tokens = tokens.masked_fill(tokens == self._padding_in_text, EMPTY)
        if idx is None:
            tokens = torch.full_like(tokens, EMPTY)
        sample = {BAGS: fold(tokens, self.config.bag_size)}
        if self.config.inter_document_masking:
            boundaries = document_boundaries(lengths, self.config.sequence_length)
            sample[DOCUMENT_BOUNDARIES] = boundaries
        return sample


class MockStageDataset(StageDataset, MockGPTDataset):
    """The same of Megatron's mock data, whose documents count up and end."""


def document_boundaries(lengths: list[int], seq_length: int) -> Tensor:
    """Where the documents among a sample's inputs begin and end, as ``GPTDataset`` has it.

    Args:
        lengths: bags of every document in the sample; L + 1 together, or fewer where it is padded,
            which goes to its last document.
        seq_length: L.

    Returns:
        ``[L + 1]``, int32, filled up with L.
    """
    ends = torch.tensor([0, *lengths]).cumsum(dim=0).clamp_(max=seq_length)
    ends[-1] = seq_length
    ends = ends.unique_consecutive()
    boundaries = torch.full((seq_length + 1,), seq_length, dtype=torch.int32)
    boundaries[: len(ends)] = ends
    return boundaries


class PhasedDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The samples of a whole run, in the order of training.

    Args:
        schedule: bag size of every sample.
        of_bag_size: a data set for every bag size in the schedule that has samples; by form, where
            text is read in forms.
        eod: the end-of-document token, where its loss is masked.
        forms: in which form every sample reads its text; None where it is as it was indexed.
    """

    split = Split.train
    """Megatron's loader reads this to tell training from validation batches."""

    def __init__(
        self,
        schedule: BagSchedule,
        of_bag_size: dict[int, Any],
        eod: int | None = None,
        forms: Forms | None = None,
    ) -> None:
        self.schedule = schedule
        self.of_bag_size = of_bag_size
        self.eod = eod
        self.forms = forms

    def __len__(self) -> int:
        # One more than is trained on: Megatron's sampler refuses a data set with no sample left,
        # and a finished run may be started again, to be validated.
        return self.schedule.num_samples + 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The sample of a global index; of a superposed stage of bag size 1 as bags of one."""
        location = self.schedule.locate(index)
        dataset, number = self._place(index, location)
        # A blend without weights may hold fewer samples than a run with --allow-repeats reads.
        sample = dict(dataset[number % len(dataset)])
        if location.bag_size == 1 and location.stage < len(self.schedule.superposed_stages):
            return _as_bags_of_one(sample, self.eod)
        return sample

    def _place(self, index: int, location: Location) -> tuple[Any, int]:
        """The data set that a sample is drawn from, and its number in it."""
        of_bag_size = self.of_bag_size[location.bag_size]
        if self.forms is None:
            return of_bag_size, self.schedule.index_in_bag_size(location)
        form = self.forms.at(index)
        before = self.schedule.spans(location.bag_size, before=index)
        return of_bag_size[form], self.forms.count(form, before)


def _as_bags_of_one(sample: dict[str, Tensor], eod: int | None) -> dict[str, Tensor]:
    """An ordinary sample as the superposed path reads it: bags ``[L + 1, 1]``.

    Padding is no token. The loss may be masked after an end-of-document token, too; that is done
    again from the bags.
    """
    is_padding = sample["loss_mask"] == 0
    if eod is not None:
        is_padding &= sample["tokens"] != eod
    targets = sample["labels"].masked_fill(is_padding, EMPTY)
    bags = {BAGS: torch.cat([sample["tokens"][:1], targets]).unsqueeze(-1)}
    if DOCUMENT_BOUNDARIES in sample:
        bags[DOCUMENT_BOUNDARIES] = sample[DOCUMENT_BOUNDARIES]
    return bags


def stage_config(
    config: GPTDatasetConfig,
    bag_size: int,
    document_part: DocumentPart | None = None,
    bag_boundary: str = "any",
) -> StageDatasetConfig:
    """The run's data configuration for one bag size.

    Args:
        config: the run's, with sequence_length = L.
        bag_boundary: whether a bag ends with its document.
    """
    values = values_of(config)
    if bag_boundary == "any":
        values["sequence_length"] = text_of_bags(bag_size, 1, config.sequence_length).step
    return StageDatasetConfig(
        **values,
        bag_size=bag_size,
        bag_boundary=bag_boundary,
        document_part=document_part or DocumentPart(),
    )


def _stage_data(
    config: StageDatasetConfig,
    split: Split,
    num_samples: int | None,
    is_built_on_rank: Callable[[], bool],
) -> Any:
    kind = MockStageDataset if config.mock else StageDataset
    return data_of_split(kind, config, split, num_samples, is_built_on_rank)


def build_phased_dataset(
    schedule: BagSchedule,
    config: GPTDatasetConfig,
    is_built_on_rank: Callable[[], bool],
    bag_boundary: str = "any",
    forms: Forms | None = None,
) -> PhasedDataset | None:
    """The training data of a run; must be called on all ranks, as Megatron's builder must.

    Args:
        schedule: bag size of every sample, as the data see it.
        config: the run's data configuration, with sequence_length = L.
        is_built_on_rank: whether this rank reads data.
        bag_boundary: whether a bag ends with its document.
        forms: in which form every sample reads its text; None where it is as it was indexed.

    Returns:
        None on ranks that read no data.
    """
    built: dict[int, dict[str, Any]] = {}
    parts = text_of_stages(schedule, config.sequence_length, bag_boundary, forms)
    for part, documents in zip(parts, document_parts(parts), strict=True):
        bag_size = part.tokens_a_position
        of_stage = stage_config(config, bag_size, documents, bag_boundary)
        dataset = _stage_data(of_stage, Split.train, part.samples, is_built_on_rank)
        built.setdefault(bag_size, {})[part.form] = dataset
    if any(dataset is None for of_forms in built.values() for dataset in of_forms.values()):
        return None
    eod = config.tokenizer.eod if config.eod_mask_loss else None
    if forms is None:
        return PhasedDataset(schedule, {size: of[""] for size, of in built.items()}, eod)
    return PhasedDataset(schedule, built, eod, forms)


def in_positions(sample: Mapping[str, Tensor]) -> tuple[Positions, Positions] | None:
    """Inputs and targets of a sample of bags, for the eye: ``[L][s]``, None where no token is.

    None for a sample of single tokens, which is Megatron's own.
    """
    if BAGS not in sample:
        return None
    bags = [[None if one == EMPTY else one for one in bag] for bag in sample[BAGS].tolist()]
    return bags[:-1], bags[1:]


def build_validation_dataset(
    bag_size: int,
    config: GPTDatasetConfig,
    num_samples: int | None,
    is_built_on_rank: Callable[[], bool],
    bag_boundary: str = "any",
) -> Any:
    """The validation split in bags, or with bag size 1 as Megatron has it.

    Args:
        num_samples: None for one pass over the split.
        bag_boundary: whether a bag ends with its document.

    Returns:
        None on ranks that read no data.
    """
    of_stage = stage_config(config, bag_size, bag_boundary=bag_boundary)
    return _stage_data(of_stage, Split.valid, num_samples, is_built_on_rank)
