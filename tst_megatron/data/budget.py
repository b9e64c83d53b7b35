"""Whether a corpus has the text that a schedule reads, from the index alone.

The one idea: count with the same functions that build the data sets, so that what is promised here
is what is read there.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import _INDEX_HEADER, DType, IndexedDataset

from tst_megatron.data.phases import (
    document_parts,
    documents_of_part,
    places_needed,
    places_of_documents,
)
from tst_megatron.errors import UserError
from tst_megatron.superposition.schedule import BagSchedule


@dataclass(frozen=True)
class Source:
    """One indexed corpus of a blend.

    Attributes:
        prefix: path of the ``.bin`` and ``.idx`` files without their ending.
        weight: share of the samples that come from it; the weights of a blend sum to 1.
        documents: (begin, end) of a split's documents, as shares of all its documents.
    """

    prefix: str
    weight: float
    documents: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class StageBudget:
    """What one bag size reads from one source.

    Attributes:
        source: the corpus.
        bag_size: s.
        needed: places that its samples read: tokens, and the empty places of bags.
        available: places that the documents which are its own take up.
    """

    source: Source
    bag_size: int
    needed: int
    available: int

    @property
    def is_met(self) -> bool:
        """Whether no text is read twice."""
        return self.needed <= self.available


def check_files(prefixes: Sequence[str]) -> None:
    """Check that every corpus is there and has tokens in it.

    Raises:
        UserError: an index or its tokens are missing, broken or empty.
    """
    for prefix in prefixes:
        for ending in (".idx", ".bin"):
            if not Path(prefix + ending).is_file():
                raise UserError(
                    f"the corpus {prefix} is missing: there is no file {prefix + ending}"
                )
        _check_whole(Path(prefix + ".idx"), Path(prefix + ".bin"))
        if not int(document_lengths(prefix).sum(dtype=np.int64)):
            raise UserError(f"the corpus {prefix} is empty: its index holds no tokens")


def _check_whole(index: Path, tokens: Path) -> None:
    """Check that neither file was cut short, which Megatron would notice when it reads there.

    The index (megatron/core/datasets/indexed_dataset.py): header, version, dtype, the numbers of
    sequences and of documents and their arrays, int32 lengths first.

    Raises:
        UserError: one was, or the index is none of Megatron's.
    """
    fixed = struct.Struct("<9sQBQQ")
    with index.open("rb") as file:
        head = file.read(fixed.size)
        if len(head) < fixed.size or not head.startswith(_INDEX_HEADER):
            raise UserError(f"the corpus index {index} is broken: it is not an index of Megatron's")
        _, _, dtype_code, num_sequences, num_documents = fixed.unpack(head)
        _check_size(index, fixed.size + num_sequences * (4 + 8) + num_documents * 8)
        lengths = np.frombuffer(file.read(num_sequences * 4), dtype=np.int32)
    token_size = np.dtype(DType.dtype_from_code(dtype_code)).itemsize
    _check_size(tokens, int(lengths.sum(dtype=np.int64)) * token_size)


def _check_size(path: Path, least: int) -> None:
    size = path.stat().st_size
    if size < least:
        raise UserError(
            f"the corpus file {path} is cut short: it has {size:,} bytes of {least:,}; "
            "index the corpus again"
        )


def open_index(prefix: str) -> IndexedDataset:
    """Megatron's reader of one corpus.

    Raises:
        UserError: the index is not one of Megatron's.
    """
    try:
        return IndexedDataset(prefix)
    except (AssertionError, ValueError, OSError) as error:
        raise UserError(
            f"the corpus {prefix} cannot be read: {str(error) or 'its index is broken'}"
        ) from None


def document_lengths(prefix: str) -> npt.NDArray[np.int32]:
    """Tokens of every document of a corpus; a copy, since the index unmaps its file when it goes.

    Raises:
        UserError: the index is not one of Megatron's.
    """
    index = open_index(prefix)
    return np.array(index.sequence_lengths)


def largest_id(prefix: str, num_tokens: int = 1_000_000) -> int:
    """The largest of the first token ids: a tokenizer that does not match shows early."""
    index = open_index(prefix)
    dtype = index.index.dtype
    with Path(prefix + ".bin").open("rb") as file:
        ids = np.frombuffer(file.read(num_tokens * np.dtype(dtype).itemsize), dtype=dtype)
    return int(ids.max(initial=0))


def split_documents(source: Source) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Lengths of all documents, and indices of the split's (rounded as Megatron's builder does)."""
    lengths = document_lengths(source.prefix)
    begin, end = (round(bound * float(len(lengths))) for bound in source.documents)
    return lengths, np.arange(begin, end, dtype=np.int32)


def budget(
    schedule: BagSchedule,
    seq_length: int,
    sources: Sequence[Source],
    seed: int,
    surplus: float | None,
    bag_boundary: str = "any",
) -> list[StageBudget]:
    """What every bag size reads from every source, and what is there for it.

    Args:
        schedule: bag size of every sample, as the data see it.
        seq_length: L.
        sources: the blend.
        seed: Megatron's data seed.
        surplus: Megatron's ``--mid-level-dataset-surplus``; None for a blend without weights.
        bag_boundary: whether a bag ends with its document.
    """
    found = []
    for source in sources:
        lengths, documents = split_documents(source)
        for bag_size, part in document_parts(schedule, seq_length, bag_boundary).items():
            own = documents_of_part(lengths, documents, part, seed)
            samples = schedule.samples_of_bag_size(bag_size)
            if surplus is None:
                samples = ceil(samples * source.weight)
            else:
                # As megatron.core.datasets.blended_megatron_dataset_builder sizes a source.
                samples = ceil(ceil(samples * source.weight) * (1.0 + surplus))
            found.append(
                StageBudget(
                    source,
                    bag_size,
                    needed=places_needed(samples, seq_length, bag_size, bag_boundary),
                    available=int(
                        places_of_documents(lengths[own], bag_size, bag_boundary).sum(
                            dtype=np.int64
                        )
                    ),
                )
            )
    return found


def check_budget(stages: Sequence[StageBudget], train_iters: int) -> None:
    """Check that no stage would read its text twice.

    Raises:
        UserError: one would; says how many tokens are needed and there, and how many steps fit.
    """
    check_no_empty_stage(stages)
    short = [stage for stage in stages if not stage.is_met]
    if not short:
        return
    worst = min(short, key=lambda stage: stage.available / stage.needed)
    needed = sum(s.needed for s in stages if s.source == worst.source)
    available = sum(s.available for s in stages if s.source == worst.source)
    fitting = steps_that_fit(stages, train_iters)
    raise UserError(
        f"the corpus {worst.source.prefix} is too small for the schedule: it has {available:,} "
        f"training tokens of {needed:,} needed, and the stage with bag size {worst.bag_size} would "
        f"read its own {worst.available:,} more than once; about {fitting:,} of {train_iters:,} "
        "steps fit, or add --tst-allow-repeats"
    )


def check_no_empty_stage(stages: Sequence[StageBudget]) -> None:
    """Check that every stage has a document at all: phases are cut at whole documents.

    Raises:
        UserError: one has none.
    """
    for stage in stages:
        if stage.needed > 1 and not stage.available:
            raise UserError(
                f"the corpus {stage.source.prefix} has too few documents: none is left for the "
                f"stage with bag size {stage.bag_size}, so index it in shorter documents"
            )


def check_validation(
    source: Source, needed: int, bag_size: int = 1, bag_boundary: str = "any"
) -> None:
    """Check that a validation split has tokens for its smallest use.

    Args:
        source: with the split's part of the documents.
        needed: places of one sample of the largest bag.
        bag_size: s of that bag.
        bag_boundary: whether it ends with its document.

    Raises:
        UserError: it has not.
    """
    lengths, documents = split_documents(source)
    places = places_of_documents(lengths[documents], bag_size, bag_boundary)
    available = int(places.sum(dtype=np.int64))
    if available < needed:
        raise UserError(
            f"the validation split of {source.prefix} has {available:,} tokens and one sample "
            f"needs {needed:,}: give --split more of it, or --eval-iters 0"
        )


def steps_that_fit(stages: Sequence[StageBudget], train_iters: int) -> int:
    """About how many steps of the same schedule read nothing twice."""
    return int(train_iters * min(min(1.0, s.available / s.needed) for s in stages))
