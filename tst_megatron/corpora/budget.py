"""Whether a corpus has the text that a schedule reads, from the index alone.

The one idea: count with the same functions that build the data sets, so that what is promised here
is what is read there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.index_file import bin_path, index_path, read_index
from tst_megatron.corpora.parts import (
    DocumentPart,
    DrawnDocuments,
    cuts_of_parts,
    document_parts,
    places_of_documents,
    sample_tokens,
    shared_tokens,
)
from tst_megatron.corpora.sources import Source, normalized
from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.schedule import BagSchedule


@dataclass(frozen=True)
class Reading:
    """What decides which text a run reads.

    Attributes:
        seq_length: L.
        train_iters: steps of the run.
        schedule: bag size of every sample, as the data see it, as a function of the steps; raises
            UserError where a stage rounds to 0 steps.
        sources: the blend.
        seed: Megatron's data seed.
        surplus: Megatron's ``--mid-level-dataset-surplus``.
        bag_boundary: whether a bag ends with its document.
    """

    seq_length: int
    train_iters: int
    schedule: Callable[[int], BagSchedule]
    sources: tuple[Source, ...]
    seed: int
    surplus: float
    bag_boundary: str = "any"


@dataclass(frozen=True)
class StageBudget:
    """What one bag size reads from one source.

    Attributes:
        source: the corpus.
        bag_size: s.
        samples: that are drawn from it, at most.
        needed: places that Megatron lays out for them (tokens, and the empty places of bags); for a
            blend with weights, with its surplus.
        available: places that the documents which are its own take up.
        documents: how many these are.
        least: places without which it cannot be built at all.
    """

    source: Source
    bag_size: int
    samples: int
    needed: int
    available: int
    documents: int
    least: int

    @property
    def epochs(self) -> float:
        """How often it reads its documents."""
        return self.needed / self.available if self.available else float("inf")

    @property
    def is_met(self) -> bool:
        """Whether no text is read more often than the source allows, which is once by default."""
        return not self.is_empty and self.needed <= self.source.max_epochs * self.available

    @property
    def is_empty(self) -> bool:
        """Whether it has too little to be read from, however often."""
        return self.available < self.least


class Budget:
    """What every stage of a run reads from every source, and what is there for it.

    The documents of a source are counted once, so that many numbers of steps can be tried.

    Args:
        reading: what decides it.

    Raises:
        UserError: an index is missing or broken, or the run's schedule has a stage of 0 steps.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._texts = [_Text(source, reading.seed) for source in reading.sources]
        self.stages = self.stages_of(reading.train_iters)

    @property
    def is_met(self) -> bool:
        """Whether no stage reads text more often than its source allows."""
        return all(stage.is_met for stage in self.stages)

    def stages_of(
        self, train_iters: int, sources: tuple[Source, ...] | None = None
    ) -> list[StageBudget]:
        """What a run of some length reads, by bag size in the order of training, then by source.

        Args:
            train_iters: steps.
            sources: the blend's, perhaps with other weights.

        Raises:
            UserError: a stage rounds to 0 steps.
        """
        sources = sources or self.reading.sources
        schedule = self.reading.schedule(train_iters)
        seq_length, boundary = self.reading.seq_length, self.reading.bag_boundary
        found = []
        for bag_size, part in document_parts(schedule, seq_length, boundary).items():
            owned = [text.part(part, bag_size, boundary) for text in self._texts]
            step = sample_tokens(seq_length, bag_size, boundary)
            shared = shared_tokens(bag_size, boundary)
            samples = schedule.samples_of_bag_size(bag_size)
            there = [(places - shared) // step for _, places in owned]
            drawn = self._drawn(samples, sources, there)
            for source, (documents, available), (draws, laid_out) in zip(
                sources, owned, drawn, strict=True
            ):
                by_size = source.weight is None and len(owned) > 1
                found.append(
                    StageBudget(
                        source,
                        bag_size,
                        draws,
                        laid_out * step + shared,
                        available,
                        documents,
                        # Megatron's blend takes no weight of 0, which is the samples there by size.
                        least=step + shared if by_size else 1,
                    )
                )
        return found

    def _drawn(
        self, samples: int, sources: Sequence[Source], there: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Samples drawn from every source, and laid out in it.

        As megatron.core.datasets.blended_megatron_dataset_builder sizes them: by weight, or else by
        the samples that one epoch of each has.

        Args:
            samples: of the bag size.
            sources: the blend.
            there: samples that one epoch of each source has.
        """
        if len(sources) == 1 and sources[0].weight is None:
            return [(samples, samples)]
        weights = [source.weight for source in sources if source.weight is not None]
        if weights:
            drawn = [ceil(samples * weight) for weight in normalized(weights)]
            return [(n, ceil(n * (1 + self.reading.surplus))) for n in drawn]
        there = [max(0, own) for own in there]
        total = sum(there) or 1
        return [(n, n) for n in (-(-samples * own // total) for own in there)]

    def steps_that_fit(self, at_most: int | None = None) -> int:
        """The most steps of the same schedule within what the sources allow.

        So many fit and one more does not; as stages are cut at whole documents, a few more steps
        than that may fit again.

        Args:
            at_most: where to stop; None to look as far as the text goes.
        """
        fits, too_many = 0, self.reading.train_iters if at_most is None else at_most
        while self._fits(too_many):
            if too_many == at_most:
                return too_many
            fits, too_many = too_many, 2 * too_many
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self._fits(middle) else (fits, middle)
        return fits if self._has_every_stage(fits) else 0

    def _fits(self, train_iters: int) -> bool:
        # Too short for its stages is not too long.
        if not self._has_every_stage(train_iters):
            return True
        return all(stage.is_met for stage in self.stages_of(train_iters))

    def _has_every_stage(self, train_iters: int) -> bool:
        try:
            return self.reading.schedule(train_iters).num_samples > 0
        except UserError:
            return False

    def weight_that_fits(self, source: Source) -> float | None:
        """The largest weight of a source that is read too often with which the run fits.

        The others keep theirs. None where no weight does: in a blend without weights or of one
        source, or where another source is read too often as well, or would be.
        """
        reading = self.reading
        others = sum(s.weight or 0.0 for s in reading.sources if s != source)
        if source.weight is None or not others:
            return None
        schedule = reading.schedule(reading.train_iters)
        boundary = reading.bag_boundary
        share = 1.0
        for stage in self.stages:
            if stage.source == source:
                step = sample_tokens(reading.seq_length, stage.bag_size, boundary)
                shared = shared_tokens(stage.bag_size, boundary)
                room = floor(source.max_epochs * stage.available - shared) // step
                fitting = floor(room / (1 + reading.surplus))
                share = min(share, fitting / schedule.samples_of_bag_size(stage.bag_size))
        if not 0.0 < share < 1.0:
            return None
        weight = share / (1.0 - share) * others
        # Four digits, rounded down and not up to the last bit: what is said must fit.
        unit = 10.0 ** (floor(log10(weight)) - 3)
        weight = float(f"{floor(weight / unit * (1.0 - 1e-9)) * unit:.4g}")
        sources = tuple(replace(s, weight=weight) if s == source else s for s in reading.sources)
        fits = all(stage.is_met for stage in self.stages_of(reading.train_iters, sources))
        return weight if fits else None


class _Text:
    """The documents of a source's split, in the order in which stages are cut from them."""

    def __init__(self, source: Source, seed: int) -> None:
        self._lengths, self._documents = split_documents(source)
        self._seed = seed

    @cached_property
    def _drawn(self) -> DrawnDocuments:
        return DrawnDocuments(self._lengths, self._documents, self._seed)

    def part(self, part: DocumentPart, bag_size: int, boundary: str) -> tuple[int, int]:
        """Documents of a part, and the places that they take up in bags of its size."""
        if len(part.bounds) == 2:
            lengths = self._lengths[self._documents]
            places = places_of_documents(lengths, bag_size, boundary)
            return len(lengths), int(places.sum(dtype=np.int64))
        begin, end = list(pairwise(cuts_of_parts(self._drawn, part)))[part.index]
        before = self._drawn.places_before(bag_size, boundary)
        return end - begin, int(before[end] - before[begin])


def check_files(prefixes: Sequence[str]) -> None:
    """Check that every corpus is there and has tokens in it.

    Raises:
        UserError: an index or its tokens are missing, broken or empty.
    """
    for prefix in prefixes:
        for path in (index_path(prefix), bin_path(prefix)):
            if not path.is_file():
                raise UserError(f"the corpus {prefix} is missing: there is no file {path}")
        index = read_index(prefix)
        if not index.num_tokens:
            raise UserError(f"the corpus {prefix} is empty: its index holds no tokens")
        tokens, least = bin_path(prefix), index.num_tokens * index.dtype.itemsize
        if (size := tokens.stat().st_size) < least:
            raise UserError(
                f"the corpus file {tokens} is cut short: it has {size:,} bytes of {least:,}; "
                "index the corpus again"
            )


def largest_id(prefix: str, num_tokens: int = 1_000_000) -> int:
    """The largest of the first token ids: a tokenizer that does not match shows early."""
    dtype = read_index(prefix).dtype
    with Path(f"{prefix}.bin").open("rb") as file:
        ids = np.frombuffer(file.read(num_tokens * dtype.itemsize), dtype=dtype)
    return int(ids.max(initial=0))


def split_documents(source: Source) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Lengths of all documents, and indices of the split's (rounded as Megatron's builder does)."""
    lengths = read_index(source.prefix).lengths
    begin, end = (round(bound * float(len(lengths))) for bound in source.documents)
    return lengths, np.arange(begin, end, dtype=np.int32)


def check_budget(budget: Budget) -> None:
    """Check that no stage would read its text more often than it may.

    Raises:
        UserError: one would; says how many tokens are needed and there, and what fits.
    """
    check_no_empty_stage(budget.stages)
    short = [stage for stage in budget.stages if not stage.is_met]
    if not short:
        return
    worst = max(short, key=lambda stage: stage.epochs / stage.source.max_epochs)
    allowed = worst.source.max_epochs
    steps = budget.reading.train_iters
    weight = budget.weight_that_fits(worst.source)
    raise UserError(
        f"the corpus {worst.source.prefix} is too small for the schedule: the stage with bag size "
        f"{worst.bag_size} needs {worst.needed:,} tokens and has {worst.available:,} of its own, "
        f"so it would read them {times(worst.epochs)} times of {allowed:g} allowed"
        + f"; {budget.steps_that_fit(steps):,} of {steps:,} steps fit, "
        + (f"or a weight of {weight:g} for it, " if weight else "")
        + "or add --allow-repeats"
    )


def times(epochs: float) -> str:
    """Epochs with two digits, rounded up: more than once must not read as 1.00."""
    return f"{ceil(epochs * 100) / 100:.2f}" if isfinite(epochs) else "-"


def check_no_empty_stage(stages: Sequence[StageBudget]) -> None:
    """Check that every stage has a document at all: phases are cut at whole documents.

    Raises:
        UserError: one has none.
    """
    for stage in stages:
        if stage.is_empty:
            raise UserError(
                f"the corpus {stage.source.prefix} has too few documents: {stage.available:,} "
                f"tokens are left for the stage with bag size {stage.bag_size}, which needs "
                f"{stage.least:,} or more, so index it in shorter documents or merge it with "
                "another"
            )


def tokens_of(source: Source) -> int:
    """Tokens of a source's part of the documents."""
    lengths, documents = split_documents(source)
    return int(lengths[documents].sum(dtype=np.int64))


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
