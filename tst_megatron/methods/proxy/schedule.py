"""``--proxy-schedule``: which share of the samples is compressed, over the run.

The rules are those of the paper's code (LZhengisme/proxy-compression, ``lingua/data.py`` and
``apps/evabyte/train.py``): a rate r of the documents is compressed; and while there are pairs, what
is of the rarer form comes with the same text in the other one, so that of all forms that are read a
share r is compressed. It draws documents by chance; here samples are counted, of which a document
takes up as many as its form has tokens, K times as many as bytes.

The one idea: a rate that moves is a stair of rates that stand, each a stage of the run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

from tst_megatron.corpora.forms import AS_INDEXED, COMPRESSED, PAIRED
from tst_megatron.methods.forms import Forms, FormStage

STAIR = Fraction(5, 100)
"""By how much the rate rises at once, at most, where it moves."""
_STEPS = "steps"


class ScheduleError(ValueError):
    """A schedule that cannot be; the message says why."""


@dataclass(frozen=True)
class Length:
    """How long a piece is.

    Attributes:
        amount: a share of the run's steps, or steps.
        in_steps: which of the two.
    """

    amount: Fraction
    in_steps: bool

    def of(self, train_iters: int) -> Fraction:
        """In steps of a run."""
        return self.amount if self.in_steps else self.amount * train_iters


@dataclass(frozen=True)
class Piece:
    """A part of the schedule as it is written.

    Attributes:
        begin: the rate at its beginning.
        end: at its end.
        length: None for the rest of the run.
        text: as it is written.
    """

    begin: Fraction
    end: Fraction
    length: Length | None
    text: str


@dataclass(frozen=True)
class RateStage:
    """Consecutive samples of one rate.

    Attributes:
        rate: share of the documents that is compressed, a pair being one of either form.
        is_paired: whether the rarer form comes in pairs.
        samples: in the stage.
        ratio: K, tokens of a document as bytes for one of it compressed.
    """

    rate: Fraction
    is_paired: bool
    samples: int
    ratio: Fraction = Fraction(1)

    @property
    def paired_share(self) -> Fraction:
        """Of the documents, those of pairs, y: the commoner form is to the rarer as 1 to y."""
        rarer = min(self.rate, 1 - self.rate)
        return rarer / (1 - rarer) if self.is_paired else Fraction(0)

    @property
    def forms(self) -> FormStage:
        """Which forms its samples read."""
        tokens = {COMPRESSED: Fraction(1), AS_INDEXED: self.ratio, PAIRED: 1 + self.ratio}
        form, share, other = COMPRESSED, self.rate, AS_INDEXED
        if self.is_paired:
            form, share = PAIRED, self.paired_share
            other = COMPRESSED if self.rate > Fraction(1, 2) else AS_INDEXED
        of_form, of_other = share * tokens[form], (1 - share) * tokens[other]
        return FormStage(self.samples, form, of_form / (of_form + of_other), other)


def parse_schedule(text: str) -> tuple[Piece, ...]:
    """What ``--proxy-schedule`` says.

    Raises:
        ScheduleError: it says nothing that could be understood.
    """
    words = text.split(",")
    pieces = tuple(_piece(word.strip(), is_last=word is words[-1]) for word in words)
    shares = sum(p.length.amount for p in pieces if p.length and not p.length.in_steps)
    if shares > 1:
        raise ScheduleError(f"its shares sum to {float(shares):g}, which is more than the run")
    return pieces


def parse_length(text: str) -> Length:
    """A share of the steps such as ``0.2``, or steps such as ``10000steps``.

    Raises:
        ScheduleError: it is neither.
    """
    in_steps = text.endswith(_STEPS)
    amount = _number(text.removesuffix(_STEPS), text)
    if in_steps and (amount.denominator != 1 or amount < 1):
        raise ScheduleError(f"{text} is no number of steps: give 1 or more")
    if not in_steps and not 0 < amount <= 1:
        raise ScheduleError(
            f"{text} is no share of the steps: give one above 0 and up to 1, or steps such as "
            "10000steps"
        )
    return Length(amount, in_steps)


def parse_ratio(text: str) -> Fraction:
    """How many tokens a document has as bytes for one of it compressed.

    Raises:
        ScheduleError: it is no such number.
    """
    ratio = _number(text, text)
    if ratio <= 0:
        raise ScheduleError(f"{text} is no ratio: give bytes a compressed token, above 0")
    return ratio


def _piece(text: str, is_last: bool) -> Piece:
    rates, colon, length = text.partition(":")
    if not colon and not is_last:
        raise ScheduleError(f"{text} has no length, which the last alone goes without: 0.4:0.1")
    begin, dash, end = rates.partition("-")
    if dash and not colon:
        raise ScheduleError(f"{text} moves, over a length that it does not say: write 0.4-0.9:0.2")
    low = _rate(begin, text)
    return Piece(
        low, _rate(end, text) if dash else low, parse_length(length) if colon else None, text
    )


def _rate(text: str, piece: str) -> Fraction:
    rate = _number(text, piece)
    if not 0 <= rate <= 1:
        raise ScheduleError(f"{piece} has the rate {text}, and a rate is from 0 to 1")
    return rate


def _number(text: str, written: str) -> Fraction:
    try:
        # Not of "1/3", which floats of a ledger do not say.
        return Fraction(text if "/" not in text else "")
    except ValueError:
        raise ScheduleError(
            f"{written} is not of the form RATE:LENGTH: write for example 0.4-0.9:0.2,0.9"
        ) from None


def stages_of(
    pieces: Sequence[Piece],
    pairs: Length | None,
    train_iters: int,
    samples_of_steps: Callable[[int], int],
    ratio: Fraction = Fraction(1),
) -> tuple[RateStage, ...]:
    """The stages of a run.

    Args:
        pieces: the schedule.
        pairs: how long the rarer form comes in pairs, from the beginning; None for never.
        train_iters: steps of the run.
        samples_of_steps: samples consumed in the first n steps.
        ratio: K.

    Raises:
        ScheduleError: a piece rounds to 0 steps, or does not fit.
    """
    with_pairs = 0 if pairs is None else _step(pairs.of(train_iters))
    if pairs is not None and not 0 < with_pairs <= train_iters:
        raise ScheduleError(f"its pairs would be for {with_pairs:,} of {train_iters:,} steps")
    found = []
    for rate, begin, end in _stairs(pieces, train_iters):
        cuts = [begin, *([with_pairs] if begin < with_pairs < end else []), end]
        for first, last in pairwise(cuts):
            samples = samples_of_steps(last) - samples_of_steps(first)
            found.append(RateStage(rate, first < with_pairs, samples, ratio))
    return tuple(found)


def forms_of(stages: Sequence[RateStage]) -> Forms:
    """Which form each sample reads."""
    return Forms(tuple(stage.forms for stage in stages))


def _stairs(pieces: Sequence[Piece], train_iters: int) -> Iterator[tuple[Fraction, int, int]]:
    """Rates that stand, each with its first step and the one after its last."""
    at, begin = Fraction(0), 0
    for piece in pieces:
        at = Fraction(train_iters) if piece.length is None else at + piece.length.of(train_iters)
        end = _step(at)
        if end > train_iters:
            raise ScheduleError(f"{piece.text} ends after the {train_iters:,} steps of the run")
        if end <= begin:
            raise ScheduleError(f"{piece.text} rounds to 0 of {train_iters:,} steps: raise it")
        number = min(end - begin, max(1, ceil(abs(piece.end - piece.begin) / STAIR)))
        rise = (piece.end - piece.begin) / number
        for stair in range(number):
            first, last = (begin + (end - begin) * n // number for n in (stair, stair + 1))
            # Half of a stair on, so that the mean is that of the slope.
            yield piece.begin + rise * (stair + Fraction(1, 2)), first, last
        begin = end
    if begin < train_iters:
        yield pieces[-1].end, begin, train_iters


def _step(at: Fraction) -> int:
    return floor(at + Fraction(1, 2))
