"""Several validation sets (``--multiple-validation-sets``): what they are called, and all of them.

The one idea: a run has one held-out loss, whatever it is measured on: of several sets that of all
their text together, each token counting once. So whatever asks for the held-out loss needs not to
know how many sets there are, and each is told beside it.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from tst_megatron.corpora.sources import blends, sources_of_split
from tst_megatron.errors import UserError
from tst_megatron.methods.events import ValidationSet

_FLAG = "--multiple-validation-sets"


def check_sets(args: argparse.Namespace) -> None:
    """Check that Megatron can validate on each set by itself.

    Args:
        args: Megatron's flags.

    Raises:
        UserError: it would fail over it as it builds them, or at the first validation.
    """
    names = args.validation_set_names
    if not args.multiple_validation_sets:
        if names:
            raise UserError(f"--validation-set-names without {_FLAG}: give both, or neither")
        return
    _, of_splits = blends(args)
    sources = [] if of_splits is None else sources_of_split(args, "valid")
    if not sources:
        raise UserError(
            f"{_FLAG} needs corpora that are for validation alone: name them with "
            "--valid-data-path, and those to train on with --train-data-path"
        )
    if any(one.weight is not None for one in sources):
        raise UserError(
            f"{_FLAG} reads each corpus of --valid-data-path by itself: leave its weights out"
        )
    if not args.full_validation:
        raise UserError(f"{_FLAG} is of whole sets in Megatron: add --full-validation")
    if names and len(names) != len(sources):
        raise UserError(
            f"--validation-set-names names {len(names)}, and --valid-data-path has {len(sources)}: "
            "give each a name"
        )
    if names and (twice := [name for name, number in Counter(names).items() if number > 1]):
        raise UserError(f"--validation-set-names has {twice[0]} twice: give each a name of its own")


def name_sets(args: argparse.Namespace) -> None:
    """Give sets without names those of their corpora where these differ, for Megatron's log, too.

    Args:
        args: Megatron's validated arguments, whose ``validation_set_names`` are set.
    """
    if not args.multiple_validation_sets or args.validation_set_names:
        return
    found = [PurePath(one.prefix).name for one in sources_of_split(args, "valid")]
    args.validation_set_names = (
        found if len(set(found)) == len(found) else [str(number) for number in range(len(found))]
    )


def together(sets: Sequence[ValidationSet]) -> tuple[dict[str, Any], dict[str, float]]:
    """The losses of all sets' text and their standard errors, by name.

    Args:
        sets: of one validation; a loss that one of them lacks is of none together.
    """
    if len(sets) == 1:
        return sets[0].losses, sets[0].stderrs
    weights = _weights(sets)
    losses = {
        name: sum(weight * one.losses[name] for weight, one in zip(weights, sets, strict=True))
        for name in sets[0].losses
        if all(name in one.losses for one in sets)
    }
    stderrs = {
        name: math.hypot(*(w * one.stderrs[name] for w, one in zip(weights, sets, strict=True)))
        for name in losses
        if all(name in one.stderrs for one in sets)
    }
    return losses, stderrs


def text_together(sets: Sequence[ValidationSet]) -> dict[str, int]:
    """Tokens and bytes of all sets; empty where one's were not counted."""
    if not all(one.text for one in sets):
        return {}
    return {name: sum(one.text[name] for one in sets) for name in sets[0].text}


def _weights(sets: Sequence[ValidationSet]) -> list[float]:
    """Of each set its share of the tokens; where they were not counted, of the batches."""
    counted = all(one.text for one in sets)
    sizes = [one.text["tokens"] if counted else one.batches for one in sets]
    return [size / sum(sizes) for size in sizes]


@contextmanager
def as_one_set(args: argparse.Namespace, iters: int) -> Iterator[None]:
    """For the test set, which Megatron takes for several if the validation has several.

    Args:
        args: Megatron's, changed for as long.
        iters: batches of the test set.
    """
    names = ("multiple_validation_sets", "validation_set_names", "eval_iters")
    before = {name: getattr(args, name) for name in names}
    args.multiple_validation_sets = False
    args.validation_set_names = None
    # Of a full validation it sends round a list of numbers, and puts the number in its place
    # (megatron/training/training.py, after "we need to distribute eval_iters").
    args.eval_iters = [iters] if args.full_validation else iters
    try:
        yield
    finally:
        vars(args).update(before)
