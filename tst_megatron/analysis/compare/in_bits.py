"""Held-out losses in bits a byte, the one unit that runs of several tokenizers share.

The one idea: a token is other text for every tokenizer, and a byte is not. So where tokenizers
differ, losses are told a byte, of held-out text that is known to be the same, and sides are held
against each other at equal FLOPs: equal steps or tokens would be unequal text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations

import numpy as np

from tst_megatron.errors import UserError
from tst_megatron.runs.facts import HeldOut, differences
from tst_megatron.runs.run import LossUnit, RecordedRun

_ALIKE = 0.02
"""Share of the held-out text that two runs' losses may not have in common: Megatron leaves out a
text's last sequence where it is not full, lets ranks with a sequence less read one again, and
tokenizers count a space in front of a document."""
_WHAT_TO_DO = (
    "validate all runs on the whole of one text (--full-validation, corpora of the same files and "
    "the same --split), or ask their models of one text with evaluate --held-out or --evaluate-at"
)


def tokenizers_differ(runs: Sequence[RecordedRun]) -> bool:
    """Whether any two runs are known to be of two tokenizers."""
    pairs = combinations([run.facts for run in runs], 2)
    return any(differences("tokenizer", *pair) for pair in pairs)


def steps_compare(runs: Sequence[RecordedRun]) -> bool:
    """Whether equal steps and tokens are equal work, as of one tokenizer and batch they are.

    Runs in nats a token have been held to that, or forced.
    """
    if not runs or unit_of(runs) is LossUnit.NATS:
        return True
    pairs = list(combinations([run.facts for run in runs], 2))
    return not any(differences(topic, *pair) for topic in ("tokenizer", "batch") for pair in pairs)


def unit_of(runs: Sequence[RecordedRun]) -> LossUnit:
    """Of the losses of some runs, which have one."""
    return runs[0].curve.unit if runs else LossUnit.NATS


def in_one_unit(
    baseline: Sequence[RecordedRun],
    candidate: Sequence[RecordedRun],
    asks_bits: bool,
    force: bool,
) -> tuple[list[RecordedRun], list[RecordedRun]]:
    """Both sides in bits a byte, where that is asked for or their tokenizers differ.

    Sides of several tokenizers that do not compare in bits a byte either are left as they are, to
    be refused (`why_no_bits`), unless their bytes are known and the comparison is forced.

    Args:
        baseline: of a side.
        candidate: of the other.
        asks_bits: whether it is asked for.
        force: whether what means nothing is compared all the same.

    Raises:
        UserError: it is asked for, and a run does not tell its bytes.
    """
    runs = [*baseline, *candidate]
    differ = tokenizers_differ(runs)
    untold = next(_untold(runs), None)
    if asks_bits and not differ and untold is not None:
        raise UserError(f"--bits-a-byte: {untold}; without it losses are in nats a token")
    wanted = asks_bits or (differ and (force or why_no_bits(runs) is None))
    if not wanted or untold is not None:
        return list(baseline), list(candidate)
    of_baseline, of_candidate = (
        [replace(run, curve=run.curve.in_bits()) for run in side] for side in (baseline, candidate)
    )
    return of_baseline, of_candidate


def why_no_bits(runs: Sequence[RecordedRun]) -> str | None:
    """Why runs of several tokenizers do not compare in bits a byte, and what to do.

    Returns:
        None where they do.
    """
    reason = next(chain(_untold(runs), _of_text(runs)), None)
    return None if reason is None else f"{reason}: {_WHAT_TO_DO}"


def bits_notes(runs: Sequence[RecordedRun]) -> list[str]:
    """What a reader of losses in bits a byte must know, where tokenizers differ."""
    if unit_of(runs) is LossUnit.NATS or not tokenizers_differ(runs):
        return []
    told = dict.fromkeys(one.bytes for run in runs if (one := run.facts.held_out) is not None)
    counts = sorted(count for count in told if count is not None)
    sizes = " to ".join(dict.fromkeys(f"{count:,}" for count in (*counts[:1], *counts[-1:])))
    return [
        "The tokenizers differ: losses are in bits a byte of one held-out text"
        + (f" of {sizes} bytes" if sizes else "")
        + ", and the sides are compared at equal FLOPs, never at equal steps or tokens, which are "
        "other text for each."
    ]


def _untold(runs: Sequence[RecordedRun]) -> Iterator[str]:
    """Runs whose losses have no bytes, or whose FLOPs are not known."""
    for run in runs:
        known = np.isfinite(run.curve.losses)
        if not np.isfinite(run.curve.bits_a_byte[known]).all():
            yield f"{run.name} does not tell how many bytes of text its held-out losses are of"
        if not np.isfinite(run.curve.flops[known]).all():
            yield f"{run.name} does not tell its FLOPs"


def _of_text(runs: Sequence[RecordedRun]) -> Iterator[str]:
    """Runs whose losses are not known to be of the same bytes."""
    texts: list[tuple[RecordedRun, HeldOut]] = []
    for run in runs:
        text = run.facts.held_out
        if text is None:
            yield f"{run.name} does not tell which text it held out"
        elif not text.is_whole:
            yield (
                f"{run.name} validated on some sequences of its held-out text, and those of "
                "another tokenizer hold other bytes"
            )
        elif not text.is_of_all:
            yield f"{run.name} held out another text, or did not tell which, before it was resumed"
        elif text.bytes is None:
            yield f"{run.name} does not tell how many bytes its held-out text has"
        elif (left_out := _left_out(run, text)) > _ALIKE:
            yield (
                f"up to {left_out:.0%} of the held-out text of {run.name} is in a last sequence "
                "that is not full, which Megatron leaves out, so hold out more text"
            )
        elif (uneven := _read_again(run, text)) > _ALIKE:
            yield (
                f"up to {uneven:.0%} of the held-out text of {run.name} counts twice, as its "
                f"{text.ranks} data-parallel ranks validate on as many sequences each, some on "
                "one of theirs again, so hold out more text or validate on fewer ranks"
            )
        elif not _are_alike(counted := _counted(run, text), text.bytes):
            yield (
                f"{run.name} counts {counted:,} bytes in its held-out text of {text.bytes:,}, as "
                "its tokenizer leaves text out or adds some (spaces in a row, other forms of "
                "characters), so its losses are of other bytes"
            )
        else:
            texts.append((run, text))
    for (run, ours), (other, theirs) in combinations(texts, 2):
        if ours.sha256 != theirs.sha256 or not _are_alike(ours.bytes, theirs.bytes):
            yield (
                f"{run.name} and {other.name} held out other text ({_shown(ours)} and "
                f"{_shown(theirs)})"
            )


def _left_out(run: RecordedRun, text: HeldOut) -> float:
    """The largest share of a text that is in no full sequence."""
    length = run.facts.flags.get("seq_length")
    return text.corpora * length / text.tokens if isinstance(length, int) else 0.0


def _read_again(run: RecordedRun, text: HeldOut) -> float:
    """The largest share of a text that is left out, or read again by ranks that have less of it.

    Megatron lets all ranks validate for as many steps as the one with most sequences needs, and a
    rank that is through with its own begins anew.
    """
    return text.ranks * _left_out(run, text)


def _counted(run: RecordedRun, text: HeldOut) -> int:
    """Bytes of a whole text as the last loss has them, which go by what its ids stand for."""
    told = run.curve.bytes_a_token[np.isfinite(run.curve.bytes_a_token)]
    return round(told[-1] * text.tokens) if told.size else 0


def _are_alike(one: int | None, other: int | None) -> bool:
    return bool(one and other) and abs((one or 0) / (other or 1) - 1) <= _ALIKE


def _shown(text: HeldOut) -> str:
    return f"{text.documents:,} documents of {text.bytes or 0:,} bytes, {text.sha256[:8]}"
