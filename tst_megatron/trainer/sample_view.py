"""Samples of a run as the model will see them, as text.

The one idea: nothing is imitated. The data set is the one that training builds, of Megatron's
tokenizer and with its seed; only its cache lies elsewhere. So this imports Megatron, which takes
seconds.
"""

import argparse
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from rich.text import Text

from tst_megatron.corpora.budget import Reading
from tst_megatron.corpora.token_text import TokenText
from tst_megatron.corpora.tokenizers.description import TokenizerDescription

NO_TOKEN = "·"
"""Stands in a place that holds no token, or whose target has no weight."""

_SEPARATOR = "cyan"


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        index: of it in the run, from 0.
        bag_size: s of its stage.
        is_superposed: whether it is of bags.
        inputs: ``[L][s]`` ids; None where a place holds none.
        targets: ``[L][s]``, likewise.
    """

    index: int
    bag_size: int
    is_superposed: bool
    inputs: list[list[int | None]]
    targets: list[list[int | None]]


def draw_samples(
    reading: Reading, split: str, description: TokenizerDescription | None, number: int
) -> list[Sample]:
    """Random samples of every stage of a run.

    Args:
        reading: what the run reads, of one corpus.
        split: Megatron's ``--split``.
        description: the tokenizer; None where it is not known.
        number: of samples of each stage.
    """
    with _quiet():
        return _draw_samples(reading, split, description, number)


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


def _draw_samples(
    reading: Reading, split: str, description: TokenizerDescription | None, number: int
) -> list[Sample]:
    from tst_megatron.trainer.cpu import prepare_backend

    prepare_backend()
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    from tst_megatron.methods.superposition.phased_dataset import build_phased_dataset

    schedule = reading.schedule(reading.train_iters)
    with TemporaryDirectory(prefix="tst-megatron-") as folder:
        config = GPTDatasetConfig(
            random_seed=reading.seed,
            sequence_length=reading.seq_length,
            blend=([source.prefix for source in reading.sources], None),
            split=split,
            path_to_cache=str(Path(folder) / "cache"),
            tokenizer=_megatrons_tokenizer(description, Path(folder) / "tokenizer"),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        dataset = build_phased_dataset(schedule, config, lambda: True, reading.bag_boundary)
        assert dataset is not None
        return [
            _sample(dataset[index], index, schedule.locate(index).bag_size)
            for stage, (start, one) in enumerate(zip(schedule.starts, schedule.stages, strict=True))
            for index in sorted(
                random.sample(range(start, start + one.num_samples), min(number, one.num_samples))
            )
        ]


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


def _sample(sample: dict[str, Any], index: int, bag_size: int) -> Sample:
    from tst_megatron.methods.superposition.bags import EMPTY
    from tst_megatron.methods.superposition.phased_dataset import BAGS

    def known(places: list[int]) -> list[int | None]:
        return [None if place == EMPTY else place for place in places]

    if BAGS in sample:
        bags = [known(bag) for bag in sample[BAGS].tolist()]
        return Sample(index, bag_size, True, bags[:-1], bags[1:])
    labels = sample["labels"].masked_fill(sample["loss_mask"] == 0, EMPTY).tolist()
    return Sample(
        index,
        bag_size,
        False,
        [[one] for one in sample["tokens"].tolist()],
        [known([one]) for one in labels],
    )


def as_text(sample: Sample, text: TokenText, positions: int | None = None) -> list[Text]:
    """A sample in lines: which it is, its inputs and its targets; bags as ``[the| cat| sat]``.

    Args:
        sample: of any stage.
        text: of its ids.
        positions: how many are shown; None for all.
    """
    num_positions = len(sample.inputs)
    kind = f"bags of {sample.bag_size}" if sample.is_superposed else "single tokens"
    shown = num_positions if positions is None else min(positions, num_positions)
    rest = "" if shown == num_positions else f", the first {shown:,} of them"
    head = Text(f"sample {sample.index:,}: {kind}, {num_positions:,} positions{rest}", "bold")
    lines = [head]
    for name, places in (("inputs ", sample.inputs), ("targets", sample.targets)):
        line = Text(f"  {name}  ")
        for number, bag in enumerate(places[:shown]):
            if sample.is_superposed:
                line.append("[", _SEPARATOR)
            elif number:
                line.append("|", _SEPARATOR)
            _append(line, bag, text)
            if sample.is_superposed:
                line.append("]", _SEPARATOR)
        lines.append(line)
    return lines


def _append(line: Text, bag: Sequence[int | None], text: TokenText) -> None:
    for number, one in enumerate(bag):
        if number:
            line.append("|", _SEPARATOR)
        if one is None:
            line.append(NO_TOKEN, _SEPARATOR)
        else:
            line.append(text.piece(one))
