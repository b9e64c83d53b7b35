"""Samples of a run as the model will see them, as text.

The one idea: nothing is imitated. The data set is the one that training builds, of Megatron's
tokenizer and with its seed; only its cache lies elsewhere. So Megatron is imported to draw samples,
which takes seconds.
"""

import argparse
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from rich.text import Text

from tst_megatron.corpora.budget import Reading
from tst_megatron.corpora.token_text import TokenText
from tst_megatron.corpora.tokenizers.description import TokenizerDescription
from tst_megatron.methods.method import Positions, Run
from tst_megatron.runs.stages import starts_of

NO_TOKEN = "·"
"""Stands in a place that holds no token, or whose target has no weight."""

_SEPARATOR = "cyan"


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        index: of it in the run, from 0.
        stage: that it is of, in words.
        inputs: of a position one id or several.
        targets: likewise.
        is_grouped: whether a method made it, so that several ids belong to a position.
        begin: how many ids of its document are before its first one; None where not known.
    """

    index: int
    stage: str
    inputs: Positions
    targets: Positions
    is_grouped: bool
    begin: int | None = None


def draw_samples(
    run: Run,
    reading: Reading,
    split: str,
    description: TokenizerDescription | None,
    number: int,
) -> list[Sample]:
    """Random samples of every stage of a run.

    Args:
        run: what the run's methods make of it.
        reading: what it reads, of one corpus.
        split: Megatron's ``--split``.
        description: the tokenizer; None where it is not known.
        number: of samples of each stage.
    """
    from tst_megatron.backends import prepare_backend

    with _quiet(), TemporaryDirectory(prefix="tst-megatron-") as folder:
        prepare_backend()
        dataset = _training_data(run, _dataset_config(reading, split, description, Path(folder)))
        starts = starts_of([stage.samples for stage in run.stages])
        return [
            _drawn(run, dataset, index, stage.name)
            for start, stage in zip(starts, run.stages, strict=True)
            for index in sorted(
                random.sample(range(start, start + stage.samples), min(number, stage.samples))
            )
        ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Megatron and torch say of GPUs that are not there, and of their caches."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _dataset_config(
    reading: Reading, split: str, description: TokenizerDescription | None, folder: Path
) -> Any:
    """Megatron's ``GPTDatasetConfig``."""
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    return GPTDatasetConfig(
        random_seed=reading.seed,
        sequence_length=reading.seq_length,
        blend=([source.prefix for source in reading.sources], None),
        split=split,
        path_to_cache=str(folder / "cache"),
        tokenizer=_megatrons_tokenizer(description, folder / "tokenizer"),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )


def _training_data(run: Run, config: Any) -> Any:
    """The run's, or Megatron's own where no method makes them."""
    if run.makes_training_data:
        return run.training_data(config, lambda: True)
    from megatron.core.datasets.utils import Split

    from tst_megatron.stock.caches import CorpusDataset
    from tst_megatron.stock.datasets import data_of_split

    samples = sum(stage.samples for stage in run.stages)
    return data_of_split(CorpusDataset, config, Split.train, samples, lambda: True)


def _megatrons_tokenizer(description: TokenizerDescription | None, folder: Path) -> Any:
    """The tokenizer that training would use: its padding and end have a meaning for the data."""
    if description is None:
        return SimpleNamespace(vocab_size=None, eod=None, unique_identifiers={})
    from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer

    description.copy_to(folder)
    flags = [flag.replace("{folder}", str(folder)) for flag in description.megatron_flags]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    return build_tokenizer(_Flags(**{name[2:].replace("-", "_"): v for name, v in given.items()}))


class _Flags(argparse.Namespace):
    """Megatron's arguments of a tokenizer: numbers as numbers, and None for what is not given."""

    def __init__(self, **values: str) -> None:
        super().__init__(**{k: int(v) if v.isdecimal() else v for k, v in values.items()})

    def __getattr__(self, name: str) -> None:
        return None


def _drawn(run: Run, dataset: Any, index: int, stage: str) -> Sample:
    """A sample, and where in its document it begins: all data sets read documents by one door."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    begins: list[int] = []
    get = IndexedDataset.get

    def noted(self: Any, idx: int, offset: int = 0, length: int | None = None) -> Any:
        begins.append(offset)
        return get(self, idx, offset, length)

    with patch.object(IndexedDataset, "get", noted):
        sample = dataset[index]
    return replace(_sample(run, sample, index, stage), begin=next(iter(begins), None))


def _sample(run: Run, sample: Mapping[str, Any], index: int, stage: str) -> Sample:
    positions = run.in_positions(sample)
    if positions is not None:
        return Sample(index, stage, *positions, is_grouped=True)
    labels = sample["labels"].tolist()
    is_target = sample["loss_mask"].tolist()
    return Sample(
        index,
        stage,
        [[one] for one in sample["tokens"].tolist()],
        [[one if weight else None] for one, weight in zip(labels, is_target, strict=True)],
        is_grouped=False,
    )


def as_text(sample: Sample, text: TokenText, positions: int | None = None) -> list[Text]:
    """A sample in lines: which it is, its inputs and its targets; a position of several ids as
    ``[the| cat| sat]``.

    Args:
        sample: of any stage.
        text: of its ids.
        positions: how many are shown; None for all.
    """
    num_positions = len(sample.inputs)
    shown = num_positions if positions is None else min(positions, num_positions)
    rest = "" if shown == num_positions else f", the first {shown:,} of them"
    head = Text(
        f"sample {sample.index:,}: {sample.stage}, {num_positions:,} positions{rest}", "bold"
    )
    lines = [head]
    for name, places in (("inputs ", sample.inputs), ("targets", sample.targets)):
        line = Text(f"  {name}  ")
        words = _words(places, _begin(sample, places), text)
        for number, position in enumerate(places[:shown]):
            if sample.is_grouped:
                line.append("[", _SEPARATOR)
            elif number:
                line.append("|", _SEPARATOR)
            _append(line, [next(words) for _ in position])
            if sample.is_grouped:
                line.append("]", _SEPARATOR)
        lines.append(line)
    return lines


def _begin(sample: Sample, places: Positions) -> int | None:
    """Where places begin in the document that the inputs begin in: targets are further on."""
    inputs, ids = ([one for place in of for one in place] for of in (sample.inputs, places))
    shifts = range(len(inputs))
    shift = next((by for by in shifts if inputs[by:] == ids[: len(inputs) - by]), None)
    return None if sample.begin is None or shift is None else sample.begin + shift


def _words(places: Positions, begin: int | None, text: TokenText) -> Iterator[str | None]:
    """What stands for every id of every place, in order; None where there is none."""
    ids = [one for place in places for one in place]
    known = [one for one in ids if one is not None]
    # Behind a gap nobody knows where a document goes on.
    has_gap = ids[: len(known)] != known
    words = iter(map(text.piece, known) if has_gap else text.pieces(known, begin))
    return (None if one is None else next(words) for one in ids)


def _append(line: Text, words: Sequence[str | None]) -> None:
    for number, word in enumerate(words):
        if number:
            line.append("|", _SEPARATOR)
        if word is None:
            line.append(NO_TOKEN, _SEPARATOR)
        else:
            line.append(word)
