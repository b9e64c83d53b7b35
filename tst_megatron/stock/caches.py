"""The order of samples that Megatron keeps on the disk: named by what it follows from, and whole.

Megatron names these files by the corpus's path and trusts whatever has the name. The steps here:

1. the lengths of the corpus's documents enter the name. With the seed and the settings, which are
   in it already, they are all that an order follows from, so a corpus that is indexed anew under
   its path has files of its own, and nothing about a manifest or a time stamp is believed;
2. a file is read where it is as long as its header says, and no pickle is run;
3. what is not there or not whole is laid out by Megatron's own code, and takes its name when it is
   on the disk.

The one idea: a name stands for its bytes. So ranks, starts and hosts that use one folder at once
may each lay out what they do not see; a file that is whole is left as it is.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core.datasets import blended_dataset, gpt_dataset
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, MockGPTDataset
from megatron.training.datasets.fim_dataset import GPTFIMDataset

from tst_megatron.errors import UserError
from tst_megatron.files import put_when_whole, sync_folder

logger = logging.getLogger(__name__)

_INTEGERS = "iu"

type Indices = tuple[npt.NDArray[Any] | None, ...]
"""An order in arrays; None for each where they are read when they are first asked for."""


class CorpusDataset(GPTDataset):
    """``GPTDataset`` with its samples, whose order is kept under the name of its corpus."""

    document_index: Any
    sample_index: Any
    shuffle_index: Any

    def _build_document_sample_shuffle_indices(self) -> Any:
        # 4 bytes a document, those that the budget has read on this node already.
        lengths = np.ascontiguousarray(self.dataset.sequence_lengths)
        self.unique_identifiers["lengths_sha256"] = hashlib.sha256(lengths.data).hexdigest()
        _describe(self, json.dumps(self.unique_identifiers, indent=4, default=_identifiers))
        folder = self.config.path_to_cache
        if folder is None and not self.config.mock:
            # Where Megatron keeps it, beside the corpus.
            folder = Path(self.dataset.path_prefix, "cache", f"{type(self).__name__}_indices")
        self._kept = _Kept(self, folder, self.index_split, _ORDER_OF_CORPUS)
        return self._kept.order(self, super()._build_document_sample_shuffle_indices)

    def _query_document_sample_shuffle_indices(self, idx: int) -> Any:
        if self.shuffle_index is None:
            self.document_index, self.sample_index, self.shuffle_index = self._kept.read_late()
        return super()._query_document_sample_shuffle_indices(idx)


class MockDataset(CorpusDataset, MockGPTDataset):
    """``MockGPTDataset``, likewise."""


class FIMDataset(CorpusDataset, GPTFIMDataset):
    """``GPTFIMDataset``, likewise."""


class CorpusBlend(BlendedDataset):
    """``BlendedDataset``, likewise; Megatron names it by the names of its data sets."""

    dataset_index: Any
    dataset_sample_index: Any

    def _build_indices(self) -> Any:
        self._kept = _Kept(self, self.config.path_to_cache, self.split, _ORDER_OF_BLEND)
        return self._kept.order(self, super()._build_indices)

    def __getitem__(self, idx: int) -> Any:
        """Megatron's sample, with the ``dataset_id`` of its source."""
        if self.dataset_index is None:
            self.dataset_index, self.dataset_sample_index = self._kept.read_late()
        return super().__getitem__(idx)


class DatasetBuilder(BlendedMegatronDatasetBuilder):
    """``BlendedMegatronDatasetBuilder`` of blends whose order is kept likewise."""

    @staticmethod
    def build_generic_dataset(cls: Any, *arguments: Any) -> Any:
        """A data set of the class that is asked for; Megatron's builder names that of blends."""
        built = CorpusBlend if cls is BlendedDataset else cls
        return BlendedMegatronDatasetBuilder.build_generic_dataset(built, *arguments)


# Megatron's names of the files, each with the number of its array's dimensions.
_ORDER_OF_CORPUS = (("document_index", 1), ("sample_index", 2), ("shuffle_index", 1))
_ORDER_OF_BLEND = (("dataset_index", 1), ("dataset_sample_index", 1))


class _Kept:
    """The files that one data set's order is kept in.

    Args:
        dataset: it has the description that they are named by.
        folder: of the files; None where nothing is kept.
        split: of the data set.
        arrays: names of its arrays, and the numbers of their dimensions.
    """

    def __init__(
        self, dataset: Any, folder: Any, split: Any, arrays: Sequence[tuple[str, int]]
    ) -> None:
        self._folder = None if not folder else Path(folder)
        name = f"{dataset.unique_description_hash}-{type(dataset).__name__}-{split.name}"
        self._description = f"{name}-description.txt"
        self._arrays = [(f"{name}-{array}.npy", dimensions) for array, dimensions in arrays]

    def order(self, dataset: Any, build: Callable[[], Any]) -> Indices:
        """The order, from its files or laid out.

        Args:
            dataset: whose it is; not held, as it holds this.
            build: Megatron's own, which lays it out.

        Raises:
            UserError: it is not kept, and cannot be laid out or written.
        """
        config = dataset.config
        if self._folder is None:
            return tuple(build())
        is_late = config.defer_npy_index_mmap
        if is_late and _rank() != 0:
            return (None,) * len(self._arrays)
        found = self._read()
        if found is None:
            if config.fast_cache_load:
                raise UserError(
                    f"--dataloader-fast-cache-load reads an order of samples that is not whole in "
                    f"{self._folder}: start once without it"
                )
            self._write(dataset.unique_description, _laid_out(dataset, build))
            found = self.read_late()
        return (None,) * len(self._arrays) if is_late else found

    def read_late(self) -> Indices:
        """The order from its files, which are there.

        Raises:
            UserError: they are not, or not whole.
        """
        found = self._read()
        if found is None:
            raise UserError(
                f"the order of samples in {self._folder} has gone: leave the folder as it is while "
                "a run reads it, and start again"
            )
        return found

    def _read(self) -> Indices | None:
        """None where they are not whole, which is said, or not there."""
        assert self._folder is not None
        paths = [self._folder / name for name, _ in self._arrays]
        found = tuple(
            _whole_array(path, dimensions)
            for path, (_, dimensions) in zip(paths, self._arrays, strict=True)
        )
        bad = [path for path, array in zip(paths, found, strict=True) if array is None]
        if not bad:
            return found
        if any(path.exists() for path in paths):
            logger.warning(
                f"{bad[0]} is missing or cut short (a job was killed, or another is writing it): "
                "the order of samples is laid out anew"
            )
        return None

    def _write(self, description: str, arrays: Sequence[npt.NDArray[Any]]) -> None:
        assert self._folder is not None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # All are written before the first takes its name.
            with ExitStack() as stack:
                described = self._folder / self._description
                if not described.exists():
                    file = stack.enter_context(put_when_whole(described, Path.exists))
                    file.write(description.encode())
                for path, is_whole, array in zip(*self._files(), arrays, strict=True):
                    # Another start may have been faster.
                    if not is_whole(path):
                        file = stack.enter_context(put_when_whole(path, is_whole))
                        np.save(file, array, allow_pickle=False)
            sync_folder(self._folder)
        except OSError as error:
            # Whatever has failed here, the other start had no need of it.
            if all(is_whole(path) for path, is_whole in zip(*self._files(), strict=True)):
                return
            reason = error.strerror or str(error)
            raise UserError(
                f"the order of samples cannot be kept in {self._folder}: {reason}; name a folder "
                "with room in it with --data-cache-path"
            ) from None

    def _files(self) -> tuple[list[Path], list[Callable[[Path], bool]]]:
        """Paths of the arrays, and what says of each whether it is whole."""
        assert self._folder is not None
        paths = [self._folder / name for name, _ in self._arrays]
        return paths, [partial(_is_whole, dimensions) for _, dimensions in self._arrays]


def _laid_out(dataset: Any, build: Callable[[], Any]) -> Sequence[npt.NDArray[Any]]:
    """The order by Megatron's own code, which in memory does it on any rank."""
    config = dataset.config
    in_memory = dataset.config = copy(config)
    # None is a folder beside the corpus.
    in_memory.path_to_cache = ""
    in_memory.defer_npy_index_mmap = False
    try:
        with _saved_by_us():
            return tuple(build())
    finally:
        dataset.config = config


def _whole_array(path: Path, dimensions: int) -> npt.NDArray[Any] | None:
    """The array of a file, mapped; None where there is no whole one."""
    try:
        # Not np.load, which takes some garbage for a pickle and some for a zip file.
        array = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception:  # Whatever a garbled header makes of numpy's reader.
        return None
    is_order = array.ndim == dimensions and array.dtype.kind in _INTEGERS
    return array if is_order and array.offset + array.nbytes == size else None


def _is_whole(dimensions: int, path: Path) -> bool:
    return _whole_array(path, dimensions) is not None


def _describe(dataset: Any, description: str) -> None:
    """Give a data set the description that its files are named by, as ``MegatronDataset`` does."""
    dataset.unique_description = description
    digest = hashlib.md5(description.encode(), usedforsecurity=False)
    dataset.unique_description_hash = digest.hexdigest()


def _identifiers(value: Any) -> Any:
    return value.unique_identifiers


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


@contextmanager
def _saved_by_us() -> Iterator[None]:
    """Without Megatron's warning that nothing is saved."""

    def is_news(record: logging.LogRecord) -> bool:
        return "path_to_cache is None" not in record.getMessage()

    loggers = (gpt_dataset.logger, blended_dataset.logger)
    for one in loggers:
        one.addFilter(is_news)
    try:
        yield
    finally:
        for one in loggers:
            one.removeFilter(is_news)
