"""Whether a corpus has the text that a run reads, from the index alone.

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

from tst_megatron.corpora.forms import LengthsInForms
from tst_megatron.corpora.index_file import bin_path, index_path, read_index
from tst_megatron.corpora.parts import (
    DocumentPart,
    DrawnDocuments,
    TextPart,
    cuts_of_parts,
    document_parts,
    places_of_documents,
)
from tst_megatron.corpora.sources import Source, normalized
from tst_megatron.errors import UserError

# Of an epoch: what is read of the last one, for it to be shuffled by itself.
_APART_BELOW = 0.80


@dataclass(frozen=True)
class Reading:
    """What decides which text a run reads.

    Attributes:
        seq_length: L.
        train_iters: steps of the run.
        parts: of its text, in the order of training, as a function of the steps; raises UserError
            where the run cannot have so many.
        sources: the blend.
        seed: Megatron's data seed.
        surplus: Megatron's ``--mid-level-dataset-surplus``.
    """

    seq_length: int
    train_iters: int
    parts: Callable[[int], Sequence[TextPart]]
    sources: tuple[Source, ...]
    seed: int
    surplus: float


@dataclass(frozen=True)
class StageBudget:
    """What one part of a run's text takes from one source.

    Attributes:
        source: the corpus.
        part: of the text.
        samples: that are drawn from it, at most.
        needed: places that Megatron lays out for them; for a blend with weights, with its surplus.
        available: places that the documents which are its own take up.
        documents: how many these are.
        least: places without which it cannot be built at all.
    """

    source: Source
    part: TextPart
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
    def shuffles(self) -> tuple[int, bool]:
        """Epochs that are laid out, and whether the last is shuffled by itself.

        With documents and seed they decide the order of the samples (``GPTDataset`` of
        megatron/core/datasets/gpt_dataset.py).
        """
        epochs = -(-self.needed // self.available) if self.available else 1
        if epochs <= 1:
            return 1, False
        step, shared = self.part.step, self.part.shared
        before_last = ((epochs - 1) * self.available - shared) // step
        of_last = (self.needed - shared) // step - before_last
        return epochs, of_last < int(_APART_BELOW * ((self.available - shared) // step))

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
        UserError: an index is missing or broken, or the run cannot have so many steps.
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
        """What a run of some length reads, by part in the order of training, then by source.

        Args:
            train_iters: steps.
            sources: the blend's, perhaps with other weights.

        Raises:
            UserError: the run cannot have so many steps.
        """
        sources = sources or self.reading.sources
        parts = self.reading.parts(train_iters)
        found = []
        for part, of_documents in zip(parts, document_parts(parts), strict=True):
            owned = [text.part(of_documents, part.unit) for text in self._texts]
            there = [(places - part.shared) // part.step for _, places in owned]
            drawn = self._drawn(part.samples, sources, there)
            for source, (documents, available), (draws, laid_out) in zip(
                sources, owned, drawn, strict=True
            ):
                by_size = source.weight is None and len(owned) > 1
                found.append(
                    StageBudget(
                        source,
                        part,
                        draws,
                        laid_out * part.step + part.shared,
                        available,
                        documents,
                        # Megatron's blend takes no weight of 0, which is the samples there by size.
                        least=part.step + part.shared if by_size else 1,
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
            samples: of the part.
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

    def in_another_order(self, train_iters: int) -> list[StageBudget]:
        """The stages whose samples come in another order than in a run of another length.

        Args:
            train_iters: of that run, which has its documents shared out likewise.
        """
        if len(self._texts) > 1 and self.reading.sources[0].weight is None:
            # Megatron lays out one epoch of each.
            return []
        pairs = zip(self.stages_of(train_iters), self.stages, strict=True)
        return [now for other, now in pairs if other.shuffles != now.shuffles]

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
            return any(part.samples for part in self.reading.parts(train_iters))
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
        share = 1.0
        for stage in self.stages:
            if stage.source == source:
                part = stage.part
                room = floor(source.max_epochs * stage.available - part.shared) // part.step
                fitting = floor(room / (1 + reading.surplus))
                share = min(share, fitting / part.samples)
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
    """The documents of a source's split, in the order in which parts are cut from them."""

    def __init__(self, source: Source, seed: int) -> None:
        self._prefix = source.prefix
        self._lengths, self._documents = split_documents(source)
        self._seed = seed

    @cached_property
    def _in_forms(self) -> LengthsInForms:
        return LengthsInForms(self._prefix, self._lengths)

    @cached_property
    def _drawn(self) -> DrawnDocuments:
        return DrawnDocuments(self._lengths, self._documents, self._seed)

    @cached_property
    def _drawn_in_forms(self) -> DrawnDocuments:
        return DrawnDocuments(self._lengths, self._documents, self._seed, self._in_forms)

    def part(self, part: DocumentPart, unit: int) -> tuple[int, int]:
        """Documents of a part, and the places that they take up in its units."""
        if len(part.bounds) == 2:
            lengths = self._in_forms[part.form] if part.form else self._lengths
            places = places_of_documents(lengths[self._documents], unit)
            return len(places), int(places.sum(dtype=np.int64))
        drawn = self._drawn_in_forms if part.forms else self._drawn
        begin, end = list(pairwise(cuts_of_parts(drawn, part)))[part.index]
        before = drawn.places_before(unit, part.form)
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
        f"the corpus {worst.source.prefix} is too small for the schedule: {worst.part.in_words} "
        f"needs {worst.needed:,} tokens and has {worst.available:,} of its own, so it would read "
        f"them {times(worst.epochs)} times of {allowed:g} allowed"
        + f"; {budget.steps_that_fit(steps):,} of {steps:,} steps fit, "
        + (f"or a weight of {weight:g} for it, " if weight else "")
        + "or add --allow-repeats"
    )


def times(epochs: float) -> str:
    """Epochs with two digits, rounded up: more than once must not read as 1.00."""
    return f"{ceil(epochs * 100) / 100:.2f}" if isfinite(epochs) else "-"


def check_no_empty_stage(stages: Sequence[StageBudget]) -> None:
    """Check that every stage has a document at all: parts are cut at whole documents.

    Raises:
        UserError: one has none.
    """
    for stage in stages:
        if stage.is_empty:
            raise UserError(
                f"the corpus {stage.source.prefix} has too few documents: {stage.available:,} "
                f"tokens are left for {stage.part.in_words}, which needs {stage.least:,} or more, "
                "so index it in shorter documents or merge it with another"
            )


def tokens_of(source: Source) -> int:
    """Tokens of a source's part of the documents."""
    lengths, documents = split_documents(source)
    return int(lengths[documents].sum(dtype=np.int64))


def check_held_out(source: Source, split: str, needed: int, unit: int = 1) -> None:
    """Check that a split has places for its smallest use.

    Args:
        source: with the split's part of the documents.
        split: in words.
        needed: places, of the least that is read of it.
        unit: places that a document takes up whole multiples of.

    Raises:
        UserError: it has not.
    """
    lengths, documents = split_documents(source)
    available = int(places_of_documents(lengths[documents], unit).sum(dtype=np.int64))
    if available < needed:
        raise UserError(
            f"the {split} split of {source.prefix} has {available:,} tokens and what is read of it "
            f"needs {needed:,} or more: give --split more of it, or --eval-iters 0"
        )
