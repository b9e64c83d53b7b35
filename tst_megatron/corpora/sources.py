"""Which corpora each split is drawn from: Megatron's data flags, read without Megatron.

The one idea: the budget is there before a GPU is rented, so it reads the flags as Megatron does
(``get_blend_and_blend_per_split``, ``parse_and_normalize_split``) and answers at once. What
Megatron would read as something else than is written is refused, for every run.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.corpora.blend import DATA_FORMS, SPLITS, is_remote, load_blend
from tst_megatron.corpora.index_file import index_path
from tst_megatron.errors import UserError

_LEGACY_SPLIT = "969, 30, 1"  # megatron/training/arguments.py, for --data-path without --split
# Of what is written so, Megatron's [.0-9]+ finds all there is, and nothing else.
_SHARE = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")

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
    """Check that no corpus is twice in a blend.

    Raises:
        UserError: one is.
    """
    places = Counter(s.prefix if s.is_remote else str(Path(s.prefix).resolve()) for s in sources)
    place, times = places.most_common(1)[0]
    if times > 1:
        raise UserError(
            f"the corpus {place} is named {times} times in one blend: name it once, with the sum "
            "of the weights"
        )


def normalized(weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1, rounded as Megatron's (megatron/core/datasets/utils.py)."""
    array = np.array(weights, dtype=np.float64)
    shares: list[float] = (array / np.sum(array)).tolist()
    return shares


def blends(args: argparse.Namespace) -> tuple[Blend | None, list[Blend | None] | None]:
    """One blend for all splits, or one for each (Megatron's ``get_blend_and_blend_per_split``).

    Raises:
        UserError: a list or a file of one cannot be understood, there are several, or the shares of
            the splits are none.
    """
    _check_one_form(args)
    blend, per_split = None, None
    if args.data_args_path is not None:
        blend = _blend("--data-args-path", _read(args.data_args_path).split())
    elif args.data_path is not None:
        blend = _blend("--data-path", args.data_path)
    elif args.per_split_data_args_path is not None:
        per_split = _blends_of_file(args.per_split_data_args_path)
    else:
        lists = [(f"--{split}-data-path", getattr(args, f"{split}_data_path")) for split in SPLITS]
        if any(words is not None for _, words in lists):
            per_split = [None if words is None else _blend(flag, words) for flag, words in lists]
    if blend is not None:
        split_bounds(_split_text(args))
    return blend, per_split


def _check_one_form(args: argparse.Namespace) -> None:
    """Of two forms Megatron takes one and says nothing, or ends in an assertion."""
    given = [
        next(flag for flag in form if _is_given(args, flag))
        for form in DATA_FORMS
        # It has become Megatron's flags by now.
        if form != ("--blend",) and any(_is_given(args, flag) for flag in form)
    ]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two forms of one thing: use one")


def _is_given(args: argparse.Namespace, flag: str) -> bool:
    return getattr(args, flag[2:].replace("-", "_"), None) not in (None, False)


def _blends_of_file(path: str) -> list[Blend | None]:
    flag = f"--per-split-data-args-path {path}"
    try:
        lists = json.loads(_read(path), object_pairs_hook=_without_doubles)
        words = [_words(lists[split]) for split in SPLITS]
    except json.JSONDecodeError as error:
        raise UserError(f"{flag} is not JSON: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{flag} is not a mapping of train, valid and test to paths: name all three, once each"
        ) from None
    return [None if one is None else _blend(flag, one) for one in words]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's reader keeps the last of several."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _words(value: Any) -> list[str] | None:
    if value is None or isinstance(value, str):
        return value if value is None else value.split()
    if not all(isinstance(word, str | int | float) for word in value):
        raise TypeError("a path is no text")
    return [str(word) for word in value]


def _blend(flag: str, words: Sequence[str]) -> Blend:
    """``WEIGHT PREFIX ...`` or ``PREFIX ...`` (megatron/core/datasets/utils.py)."""
    if not words:
        raise UserError(f"{flag} names no corpus: give it one, or leave it out")
    read = [_weight(word) for word in words[::2]]
    weights = [weight for weight in read if weight is not None]
    is_weighted = bool(weights) and len(words) % 2 == 0
    if len(weights) < len(read) if is_weighted else any(map(_is_weight_alone, words)):
        raise UserError(
            f"{flag} has weights for some of its corpora: write WEIGHT PREFIX for all, or none"
        )
    if not is_weighted:
        return [word.strip() for word in words], None
    prefixes = [word.strip() for word in words[1::2]]
    _check_weights(flag, words[::2], weights, prefixes)
    return prefixes, weights


def _weight(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _is_weight_alone(word: str) -> bool:
    """Whether a word that Megatron takes for a corpus was meant for a weight."""
    return _weight(word) is not None and not index_path(word.strip()).is_file()


def _check_weights(
    flag: str, words: Sequence[str], weights: Sequence[float], prefixes: Sequence[str]
) -> None:
    for word, weight, prefix in zip(words, weights, prefixes, strict=True):
        if index_path(word.strip()).is_file():
            raise UserError(
                f"{flag} has {word} in the place of a weight, and there is a corpus of that name: "
                f"write ./{word} for the corpus, or {weight} for the weight"
            )
        if not 0.0 < weight < inf:
            raise UserError(
                f"the corpus {prefix} has the weight {weight:g}: give it one above 0, or leave it "
                "out"
            )
    if not isfinite(sum(weights)):
        raise UserError(f"{flag} has weights that have no sum: give it smaller ones")


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
        UserError: the text is not one to three shares between commas, which Megatron would make
            something of all the same: ``90,,10`` would be 90 and 10, ``1e-3`` 1 and 3.
    """
    # Megatron-LM's launch scripts quote it inside an array, and so send the quotes along.
    is_quoted = len(split) > 1 and split[0] == split[-1] and split[0] in "'\""
    fields = [field.strip() for field in (split[1:-1] if is_quoted else split).split(",")]
    bad = [field for field in fields if _SHARE.fullmatch(field) is None]
    shares = [] if bad else [float(field) for field in fields]
    shares += [0.0] * (len(SPLITS) - len(shares))
    if len(shares) > len(SPLITS) or not 0.0 < sum(shares) < inf:
        because = f", as {bad[0]!r} is none" if bad else ""
        raise UserError(
            f"--split {split!r} is not three shares{because}: write for example 969,30,1"
        )
    ends = list(accumulate(normalized(shares), initial=0.0))
    return [(begin, end) if begin < end else None for begin, end in pairwise(ends)]
