"""Megatron's data set over a part of a corpus's documents, in one form of the corpus.

The one idea: a part is a choice of documents, and a form is other tokens for each of them; what
Megatron makes of documents and tokens (shuffling, epochs, cutting, caching) holds as it stands.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split

from tst_megatron.corpora.forms import (
    COMPRESSED,
    PAIRED,
    LengthsInForms,
    begins_compressed,
    compressed_prefix,
)
from tst_megatron.corpora.parts import DocumentPart, documents_of_part
from tst_megatron.stock.caches import CorpusDataset


@dataclass
class PartDatasetConfig(GPTDatasetConfig):
    """A ``GPTDatasetConfig`` for one part of a run's text.

    Attributes:
        document_part: which part of the split's documents, in which form.
    """

    document_part: DocumentPart = field(default_factory=DocumentPart)


def values_of(config: GPTDatasetConfig) -> dict[str, Any]:
    """What a data configuration was made with, to make one of a part of it."""
    return {
        name: getattr(config, name)
        for name, declared in GPTDatasetConfig.__dataclass_fields__.items()
        if declared.init
    }


class CorpusInForm:
    """What ``GPTDataset`` asks of an ``IndexedDataset``, of one form of a corpus.

    Args:
        as_indexed: the corpus.
        form: as `tst_megatron.corpora.forms` has it.
        lengths: tokens of its documents, by form.
        maps: whether the files of tokens are mapped.
    """

    def __init__(
        self, as_indexed: IndexedDataset, form: str, lengths: LengthsInForms, maps: bool
    ) -> None:
        self._as_indexed = as_indexed
        self._form = form
        self._compressed: Any = None
        if form in (COMPRESSED, PAIRED):
            other = str(compressed_prefix(as_indexed.path_prefix))
            self._compressed = IndexedDataset(other, multimodal=False, mmap=maps)
        self.sequence_lengths = lengths[form]

    @property
    def path_prefix(self) -> str:
        """Of the corpus."""
        return str(self._as_indexed.path_prefix)

    def get(self, idx: int, offset: int = 0, length: int | None = None) -> npt.NDArray[Any]:
        """Tokens of one document.

        Args:
            idx: the document.
            offset: the first that is wanted.
            length: of them; None for all that follow.
        """
        if self._form == PAIRED:
            left = int(self.sequence_lengths[idx]) - offset
            return self._pair(idx, offset, left if length is None else min(left, length))
        tokens = self._as_indexed if self._compressed is None else self._compressed
        read: npt.NDArray[Any] = tokens.get(idx, offset=offset, length=length)
        return read

    def _pair(self, idx: int, offset: int, length: int) -> npt.NDArray[np.int64]:
        """Of both forms: the end of the document that the first has is left out."""
        first, second = self._as_indexed, self._compressed
        if begins_compressed(int(idx)):
            first, second = second, first
        cut = int(first.sequence_lengths[idx]) - 1
        found = np.empty(length, np.int64)
        of_first = min(length, max(0, cut - offset))
        # Not the whole document, which may be long, for every sample of it.
        if of_first:
            found[:of_first] = first.get(idx, offset=offset, length=of_first)
        if of_first < length:
            begin = max(0, offset - cut)
            found[of_first:] = second.get(idx, offset=begin, length=length - of_first)
        return found


class PartDataset(CorpusDataset):
    """``GPTDataset`` over a part of the training documents."""

    config: PartDatasetConfig

    def __init__(
        self,
        indexed_dataset: IndexedDataset,
        dataset_path: str | None,
        indexed_indices: npt.NDArray[np.int32] | None,
        num_samples: int | None,
        index_split: Split,
        config: PartDatasetConfig,
    ) -> None:
        part, corpus = config.document_part, self.corpus_of(indexed_dataset, config)
        # With --dataloader-fast-cache-load Megatron passes no documents: the cache has been built.
        if indexed_indices is not None and index_split == Split.train:
            indexed_indices = documents_of_part(
                indexed_dataset.sequence_lengths,
                indexed_indices,
                part,
                config.random_seed,
                _lengths(indexed_dataset) if part.forms else None,
            )
        super().__init__(corpus, dataset_path, indexed_indices, num_samples, index_split, config)

    def corpus_of(self, tokens: Any, config: PartDatasetConfig) -> Any:
        """What documents are read of: an ``IndexedDataset``, or what stands for one."""
        form = config.document_part.form
        if not form:
            return tokens
        return CorpusInForm(tokens, form, _lengths(tokens), config.mmap_bin_files)

    @staticmethod
    def _key_config_attributes() -> list[str]:
        # Megatron names its cache files by these: two parts must not share one.
        return [*GPTDataset._key_config_attributes(), "document_part"]


def _lengths(tokens: IndexedDataset) -> LengthsInForms:
    return LengthsInForms(str(tokens.path_prefix), tokens.sequence_lengths)
