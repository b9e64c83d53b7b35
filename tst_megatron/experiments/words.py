"""Flags of runs as words: seeds, the flags that some runs have alone, and those of a length."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.search import split_values, whole_number
from tst_megatron.runs.flag_roles import Role

STEPS_OF_A_PART = tuple(name.replace("_", "-") for name in Role.SCALED.value)
"""Flags in steps, of which a shorter run has its share."""
_DECAY_SHARE = 0.1  # As the paper's (arXiv 2605.06546).


def seeds_from_words(words: Sequence[str]) -> tuple[int, ...]:
    """The seeds of ``--seeds``, in their order.

    Raises:
        UserError: the list is empty, or a seed is no number or stands twice.
    """
    seeds = [whole_number("--seeds", word) for word in split_values("--seeds", words)]
    for seed in seeds:
        if seed < 1:
            raise UserError(f"--seeds {seed} is below 1: Megatron's seeds are 1 or more")
        if seeds.count(seed) > 1:
            raise UserError(f"--seeds names {seed} twice: a run of the same seed says nothing new")
    return tuple(seeds)


def rates_from_words(words: Sequence[str]) -> tuple[float, ...]:
    """The rates of ``--learning-rates``, ascending.

    Raises:
        UserError: the list is empty, or a rate is no number above 0 or stands twice.
    """
    flag = "--learning-rates"
    rates = [_rate(flag, word) for word in split_values(flag, words)]
    # As a run's folder has them in its name.
    names = [f"{rate:g}" for rate in rates]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{flag} names {name} twice: name every rate once")
    return tuple(sorted(rates))


def _rate(flag: str, word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        raise UserError(f"{flag} {word} is no number: write for example 5e-4 1e-3") from None
    # Written so that NaN fails too.
    if not 0 < rate < math.inf:
        raise UserError(f"{flag} {word} has to be above 0: write for example 5e-4 1e-3")
    return rate


def at_rate(values: Mapping[str, Any], rate: float) -> tuple[str, ...]:
    """Flags that set a run's peak learning rate; the lowest one stays the same share of it.

    Args:
        values: of the flags that the rate takes the place of.
        rate: the peak.
    """
    peak, lowest = (_number(values.get(name)) for name in ("lr", "min-lr"))
    if not peak or not lowest:
        return (f"--lr={rate!r}",)
    return (f"--lr={rate!r}", f"--min-lr={lowest * rate / peak!r}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def parted(
    words: Sequence[str], is_own: Callable[[str], bool]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags with their values for all runs, and those for some alone.

    Args:
        words: of a command line.
        is_own: whether a flag, without its dashes, is for some alone.
    """
    shared: list[str] = []
    own: list[str] = []
    current = shared
    for word in words:
        if word.startswith("--"):
            current = own if is_own(word.partition("=")[0].removeprefix("--")) else shared
        current.append(word)
    return tuple(shared), tuple(own)


def of_length(
    num_steps: int, warmup: int, steps_a_validation: int, checkpoints: int
) -> tuple[str, ...]:
    """Flags of a run that decays over the last tenth of its steps.

    Args:
        num_steps: of the run.
        warmup: steps of it.
        steps_a_validation: from one to the next; 0 counts as 1.
        checkpoints: to be saved in all, where the steps are so many.
    """
    return (
        f"--train-iters={num_steps}",
        f"--lr-warmup-iters={warmup}",
        f"--lr-wsd-decay-iters={max(1, round(_DECAY_SHARE * num_steps))}",
        f"--eval-interval={max(1, steps_a_validation)}",
        f"--save-interval={max(1, num_steps // checkpoints)}",
    )


def shortened(values: Mapping[str, Any], num_steps: int, of_steps: int) -> tuple[str, ...]:
    """Flags that make a run shorter in all its parts.

    Args:
        values: of the whole run's flags.
        num_steps: of the shorter run.
        of_steps: of the whole one.
    """
    if num_steps == of_steps:
        return ()
    parts = (
        f"--{name}={max(1, round(int(values[name]) * num_steps / of_steps))}"
        for name in STEPS_OF_A_PART
        if values.get(name)
    )
    return (f"--train-iters={num_steps}", *parts)
