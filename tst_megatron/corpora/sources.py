"""Which corpora each split is drawn from: Megatron's data flags, read without Megatron.

The one idea: the budget is there before a GPU is rented, so it reads the flags as Megatron does
(``get_blend_and_blend_per_split``, ``parse_and_normalize_split``) and answers at once.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from tst_megatron.corpora.blend import SPLITS, is_remote, load_blend
from tst_megatron.errors import UserError

_LEGACY_SPLIT = "969, 30, 1"  # megatron/training/arguments.py, for --data-path without --split

type Blend = tuple[list[str], list[float] | None]
"""Prefixes, and weights if there are any."""


@dataclass(frozen=True)
class Source:
    """One indexed corpus of a blend.

    Attributes:
        prefix: path of the ``.bin`` and ``.idx`` files without their ending.
        weight: as the user gave it; None in a blend by size, where all are None.
        documents: (begin, end) of a split's documents, as shares of all its documents.
        max_epochs: how often a stage may read its documents.
    """

    prefix: str
    weight: float | None = None
    documents: tuple[float, float] = (0.0, 1.0)
    max_epochs: float = 1.0

    @property
    def is_remote(self) -> bool:
        """Whether it is in object storage, where only Megatron looks."""
        return is_remote(self.prefix)


def sources_of_split(args: argparse.Namespace, split: str) -> list[Source]:
    """The corpora that ``train``, ``valid`` or ``test`` is drawn from; none where it has none.

    Args:
        args: Megatron's data flags and ``blend``.

    Raises:
        UserError: a flag or a file it names cannot be understood.
    """
    blend, blend_per_split = blends(args)
    documents = (0.0, 1.0)
    if blend is not None:
        documents = split_bounds(_split_text(args))[SPLITS.index(split)] or (0.0, 0.0)
    elif blend_per_split is not None:
        blend = blend_per_split[SPLITS.index(split)]
        if blend is not None and len(blend[0]) == 1:
            # Megatron's builder leaves a single corpus of a split unblended, whatever its weight.
            blend = (blend[0], None)
    if blend is None:
        return []
    prefixes, weights = blend
    max_epochs = {}
    if split == "train" and args.blend is not None:
        max_epochs = load_blend(args.blend).max_epochs
    return [
        Source(
            prefix,
            None if weights is None else weights[i],
            documents,
            max_epochs.get(prefix, 1.0),
        )
        for i, prefix in enumerate(prefixes)
    ]


def all_prefixes(args: argparse.Namespace) -> list[str]:
    """The corpora of every split.

    Raises:
        UserError: a flag or a file it names cannot be understood.
    """
    blend, blend_per_split = blends(args)
    found = [one for one in (blend, *(blend_per_split or [])) if one is not None]
    return list(dict.fromkeys(prefix for prefixes, _ in found for prefix in prefixes))


def check_sources(sources: Sequence[Source]) -> None:
    """Check that a blend is one: no corpus twice, and every weight a share of the samples.

    Raises:
        UserError: it is not.
    """
    places = Counter(s.prefix if s.is_remote else str(Path(s.prefix).resolve()) for s in sources)
    place, times = places.most_common(1)[0]
    if times > 1:
        raise UserError(
            f"the corpus {place} is named {times} times in one blend: name it once, with the sum "
            "of the weights"
        )
    for source in sources:
        if source.weight is not None and not 0.0 < source.weight < float("inf"):
            raise UserError(
                f"the corpus {source.prefix} has the weight {source.weight:g}: give it one above "
                "0, or leave it out"
            )


def normalized(weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1, rounded as Megatron's (megatron/core/datasets/utils.py)."""
    array = np.array(weights, dtype=np.float64)
    shares: list[float] = (array / np.sum(array)).tolist()
    return shares


def blends(args: argparse.Namespace) -> tuple[Blend | None, list[Blend | None] | None]:
    """One blend for all splits, or one for each (Megatron's ``get_blend_and_blend_per_split``).

    Raises:
        UserError: a list or a file of one cannot be understood.
    """
    if args.data_args_path is not None:
        return _blend("--data-args-path", _read(args.data_args_path).split()), None
    if args.data_path is not None:
        return _blend("--data-path", args.data_path), None
    if args.per_split_data_args_path is not None:
        return None, _blends_of_file(args.per_split_data_args_path)
    lists = [(f"--{split}-data-path", getattr(args, f"{split}_data_path")) for split in SPLITS]
    if all(words is None for _, words in lists):
        return None, None
    return None, [None if words is None else _blend(flag, words) for flag, words in lists]


def _blends_of_file(path: str) -> list[Blend | None]:
    flag = f"--per-split-data-args-path {path}"
    try:
        lists = json.loads(_read(path))
        words = [lists[split] for split in SPLITS]
    except json.JSONDecodeError as error:
        raise UserError(f"{flag} is not JSON: {error}") from None
    except (KeyError, TypeError):
        raise UserError(
            f"{flag} is not a mapping of train, valid and test to paths: name all three"
        ) from None
    return [
        None if one is None else _blend(flag, one.split() if isinstance(one, str) else one)
        for one in words
    ]


def _blend(flag: str, words: Sequence[str]) -> Blend:
    """``WEIGHT PREFIX ...`` or ``PREFIX ...`` (megatron/core/datasets/utils.py)."""
    if not words:
        raise UserError(f"{flag} names no corpus: give it one, or leave it out")
    weights = [_weight(word) for word in words[::2]]
    if len(words) % 2 or all(weight is None for weight in weights):
        return [word.strip() for word in words], None
    given = [weight for weight in weights if weight is not None]
    if len(given) < len(weights):
        raise UserError(
            f"{flag} has weights for some of its corpora: write WEIGHT PREFIX for all, or none"
        )
    return [word.strip() for word in words[1::2]], given


def _weight(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _read(path: str) -> str:
    try:
        if is_remote(path):
            from megatron.core.msc_utils import maybe_msc

            with maybe_msc.open(path, "r") as file:
                return str(file.read())
        return Path(path).read_text()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _split_text(args: argparse.Namespace) -> str:
    if args.split is None and args.data_path is None:
        raise UserError("--data-args-path needs a --split: add one, for example --split 99,1,0")
    return _LEGACY_SPLIT if args.split is None else args.split


def split_bounds(split: str) -> list[tuple[float, float] | None]:
    """Where each split's documents begin and end, as shares (Megatron's ``split_matrix``).

    Raises:
        UserError: the text is not three shares.
    """
    try:
        shares = [float(number) for number in re.findall(r"[.0-9]+", split)]
    except ValueError:
        shares = []
    shares += [0.0] * (len(SPLITS) - len(shares))
    if len(shares) > len(SPLITS) or not sum(shares):
        raise UserError(f"--split {split!r} is not three shares: write for example 969,30,1")
    ends = list(accumulate(normalized(shares), initial=0.0))
    return [(begin, end) if begin < end else None for begin, end in pairwise(ends)]
