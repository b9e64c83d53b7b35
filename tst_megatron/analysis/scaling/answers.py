"""What a law is asked, and what it answers: figures with intervals, and their tables.

The one idea: an answer is worked out once, as a value; the terminal, the page and the JSON show the
same one, and none computes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from tst_megatron.analysis.scaling.law import REPEAT_HALF_LIFE, Law, Optimum
from tst_megatron.analysis.scaling.law_file import LawRecord
from tst_megatron.analysis.scaling.point import BASELINE
from tst_megatron.report import formats
from tst_megatron.report.table import Table
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval

CONFIDENCE = 0.95
_ON_REPEATS = (
    f" Text that is read again is worth less by R* = {REPEAT_HALF_LIFE:g} (arXiv 2305.16264, on "
    "C4), which is no constant of nature (arXiv 2605.01640)."
)


@dataclass(frozen=True)
class Figure:
    """A number of a law.

    Attributes:
        name: what it is.
        interval: the number with its interval.
    """

    name: str
    interval: Interval


@dataclass(frozen=True)
class Prediction:
    """What a run would end with.

    Attributes:
        setting: of its methods.
        n: parameters.
        d: positions.
        loss: in the law's unit.
        multiplier: m, how many times its steps the baseline needs to end so at the same size:
            the two are the same number in a law of this form. None for the baseline.
        outside: in which ways it lies outside the law's runs.
    """

    setting: str
    n: float
    d: float
    loss: Interval
    multiplier: Interval | None
    outside: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The best run for a budget, or the cheapest for a loss.

    Attributes:
        setting: of its methods.
        n: parameters.
        d: positions.
        tokens_per_parameter: D / N.
        loss: in the law's unit.
        flops: of training, and of serving where that was asked for.
        data_tokens: that it reads; None where the law's runs do not tell.
        epochs: how often it reads the text there is; None where nothing is said of that.
        ratio: FLOPs of the baseline's best for the same loss over these; None for the baseline.
        outside: in which ways it lies outside the law's runs.
    """

    setting: str
    n: Interval
    d: Interval
    tokens_per_parameter: Interval
    loss: Interval
    flops: Interval
    data_tokens: float | None
    epochs: float | None
    ratio: Interval | None
    outside: tuple[str, ...]


def numbers(record: LawRecord, confidence: float = CONFIDENCE) -> list[Figure]:
    """Of the law itself, its multipliers at the middle of its runs among them."""
    of = record.interval
    n0, d0 = (float(np.exp(np.log(record.column(name)).mean())) for name in ("n", "d"))
    found = [
        Figure("E", of(lambda law: law.E, confidence)),
        Figure("A", of(lambda law: law.A, confidence)),
        Figure("alpha", of(lambda law: law.alpha, confidence)),
        Figure("B", of(lambda law: law.B, confidence)),
        Figure("beta", of(lambda law: law.beta, confidence)),
        Figure("a (N ~ C^a)", of(lambda law: law.exponents().a, confidence)),
        Figure("b (D ~ C^b)", of(lambda law: law.exponents().b, confidence)),
        Figure("gamma (L - E ~ C^-gamma)", of(lambda law: law.exponents().gamma, confidence)),
    ]
    for name, slopes in record.law.multipliers.items():
        found.append(Figure(f"m, {name}", of(_multiplier(n0, d0, name), confidence)))
        if slopes.c_n or slopes.c_d:
            found += [
                Figure(f"d ln m / d ln {axis}, {name}", of(_slope(name, part), confidence))
                for axis, part in (("N", "c_n"), ("D", "c_d"))
            ]
    return found


def predict(
    record: LawRecord, setting: str, n: float, d: float, confidence: float = CONFIDENCE
) -> Prediction:
    """What a run ends with.

    Args:
        record: the law.
        setting: one of the record's names.
        n: parameters.
        d: positions.
        confidence: of the intervals.
    """
    name = _own(setting)
    return Prediction(
        setting,
        n,
        d,
        record.interval(lambda law: law.loss(n, d, name), confidence),
        None if name is None else record.interval(_multiplier(n, d, name), confidence),
        record.outside(n, d),
    )


type Rule = Callable[[Law, str | None], Optimum]
"""The best run of a law with a setting; None is the baseline."""


def best(
    record: LawRecord,
    setting: str,
    choose: Rule,
    cheapest: Callable[[Law, str | None, float], Optimum],
    tokens_available: float = math.inf,
    confidence: float = CONFIDENCE,
) -> Best:
    """The best run by a rule.

    Args:
        record: the law.
        setting: one of the record's names.
        choose: the rule.
        cheapest: the run of least FLOPs that has a loss, by which the baseline is compared.
        tokens_available: of text.
        confidence: of the intervals.
    """
    name = _own(setting)
    at = choose(record.law, name)
    loss = float(at.loss)
    a_position = record.tokens_a_position(setting)
    read = None if a_position is None else float(at.d) * a_position

    def part(of: str) -> Interval:
        return record.interval(lambda law: getattr(choose(law, name), of), confidence)

    def ratio(law: Law) -> Array:
        # At one loss for all draws: what it costs either side to get there.
        return np.asarray(cheapest(law, None, loss).flops / cheapest(law, name, loss).flops)

    return Best(
        setting,
        part("n"),
        part("d"),
        part("tokens_per_parameter"),
        part("loss"),
        part("flops"),
        read,
        read / tokens_available if read is not None and math.isfinite(tokens_available) else None,
        None if name is None else record.interval(ratio, confidence),
        record.outside(float(at.n), float(at.d)),
    )


def table_of_numbers(figures: Sequence[Figure], confidence: float) -> Table:
    """The law in a table."""
    return Table(
        f"The law (intervals: {formats.percent(confidence)})",
        ("", "value", "interval"),
        tuple((one.name, *_cells(one.interval)) for one in figures),
    )


def table_of_predictions(found: Sequence[Prediction], confidence: float) -> Table:
    """Runs and what they end with."""
    return Table(
        f"Held-out loss at the end of whole runs (intervals: {formats.percent(confidence)})",
        ("setting", "N", "D", "loss", "interval", "step ratio (m)", "outside the runs"),
        tuple(
            (
                one.setting,
                formats.count(one.n),
                formats.count(one.d),
                *_cells(one.loss),
                _with_range(one.multiplier),
                ", ".join(one.outside) or formats.UNKNOWN,
            )
            for one in found
        ),
        remarks=frozenset({6}),
        note="Step ratio: steps that the baseline needs at the same size for the same loss, over "
        "the setting's.",
    )


def table_of_best(found: Sequence[Best], title: str) -> Table:
    """Best runs, a row a setting."""
    repeats = any(one.epochs is not None for one in found)
    heads = (
        *("setting", "N", "D", "D / N", "loss", "FLOPs", "data tokens"),
        *(("epochs",) if repeats else ()),
        *("FLOPs ratio", "outside"),
    )
    return Table(
        title,
        heads,
        tuple(
            (
                one.setting,
                _with_range(one.n),
                _with_range(one.d),
                _with_range(one.tokens_per_parameter),
                _with_range(one.loss),
                _with_range(one.flops, formats.flops),
                formats.count(one.data_tokens),
                *(
                    (formats.UNKNOWN if one.epochs is None else f"{one.epochs:.3g}",)
                    if repeats
                    else ()
                ),
                _with_range(one.ratio),
                ", ".join(one.outside) or formats.UNKNOWN,
            )
            for one in found
        ),
        remarks=frozenset({len(heads) - 1}),
        note="FLOPs ratio: the baseline's cheapest run of the same loss over this one."
        + (_ON_REPEATS if repeats else ""),
    )


def print_forced(console: Console, record: LawRecord) -> None:
    """What spoke against the law, before any figure of it."""
    for refused in record.refused:
        console.print(f"Forced: {refused}", markup=False, style="bold")


def print_notes(console: Console, record: LawRecord) -> None:
    """What is to be known of the law, after its figures."""
    for note in record.notes:
        console.print(f"Note: {note}", markup=False)


def as_json(found: Any) -> Any:
    """Dataclasses as dictionaries, ready for `strict_json.finite`."""
    if isinstance(found, list | tuple):
        return [as_json(one) for one in found]
    return asdict(found)


def short(value: float) -> str:
    """Four figures, whole ones with M, B and T."""
    if 1e6 <= abs(value) < 1e15:
        return formats.count(value)
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def _own(setting: str) -> str | None:
    return None if setting == BASELINE else setting


def _slope(name: str, part: str) -> Callable[[Law], Array]:
    return lambda law: np.asarray(getattr(law.multipliers[name], part))


def _multiplier(n: float, d: float, name: str) -> Callable[[Law], Array]:
    return lambda law: law.multiplier(n, d, name)


def _cells(interval: Interval) -> tuple[str, str]:
    if interval.value is None:
        return formats.UNKNOWN, formats.UNKNOWN
    return short(interval.value), _range(interval)


def _with_range(interval: Interval | None, show: Callable[[float], str] = short) -> str:
    if interval is None or interval.value is None:
        return formats.UNKNOWN
    if interval.low == interval.high == interval.value:
        return show(interval.value)
    return f"{show(interval.value)} ({_range(interval, show)})"


def _range(interval: Interval, show: Callable[[float], str] = short) -> str:
    low, high = interval.low, interval.high
    if low is None:
        return formats.NO_RANGE if high is None else f"up to {show(high)}"
    return f"{show(low)} or more" if high is None else f"{show(low)} to {show(high)}"
