"""Runs as a scaling law sees them: how large, how long, by which method, and what they ended with.

The one idea: a law is of whole runs that differ in nothing but size, length, method and seed. Each
run becomes one point, and what does not belong in one law is left out by name, or refused.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, Literal, get_args

from tst_megatron.analysis.compare.in_bits import (
    in_one_unit,
    tokenizers_differ,
    unit_of,
    why_no_bits,
)
from tst_megatron.analysis.compare.stories import vocabulary, words_of
from tst_megatron.analysis.scaling.csv_points import is_table, read_table
from tst_megatron.analysis.scaling.point import BASELINE, Point
from tst_megatron.errors import UserError
from tst_megatron.runs.facts import Topic, differences
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.rates import BestRate, best_rate
from tst_megatron.runs.run import LossUnit, RecordedRun

Count = Literal["total", "active", "flops"]
"""What is taken for N: all parameters, those that work on a token, FLOPs / (6 positions)."""
COUNTS: tuple[Count, ...] = get_args(Count)
_OPERATIONS = 6
TEXT: tuple[Topic, ...] = ("tokenizer", "held-out text")
"""What a loss is of."""
Text = Mapping[str, Mapping[str, Any]]
"""By topic, its facts by name."""
# What follows from neither size, length nor rate, and moves a loss.
_SETTINGS = ("global_batch_size", "seq_length", "weight_decay", "adam_beta2", "lr_decay_style")
_NAMED = 4
_FEW_CELLS = 3
_OF_HASH = 8
# Muennighoff et al. (arXiv 2305.16264): up to here repeats are worth almost what new text is.
MOST_EPOCHS = 4.0
_FIXED_WARMUP = 0.2
"""Shares of a run by which the warm-ups of one law may differ without a word."""


@dataclass(frozen=True)
class Points:
    """The runs of a law.

    Attributes:
        points: whole runs, one each.
        count: what N is.
        left_out: names of runs that are not among them, with the reason.
        notes: what a reader should know of them, a sentence each.
        text: what their losses are of, by topic, as far as one of them tells; of several tokenizers
            the baseline's.
        unit: of their losses.
    """

    points: tuple[Point, ...]
    count: Count
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    text: Text = field(default_factory=dict)
    unit: LossUnit = LossUnit.NATS

    @property
    def settings(self) -> tuple[str, ...]:
        """The ways in which they were trained, the ordinary one first."""
        names = dict.fromkeys(point.setting for point in self.points)
        return tuple(sorted(names, key=lambda name: (name != BASELINE, name)))

    def parameters(self, point: Point) -> float:
        """N of a point."""
        value = _counted(point, self.count)
        assert value is not None  # Checked where they were read.
        return value


@dataclass
class _Kept:
    """Points so far, and what was left out of them."""

    points: list[Point] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: dict[str, dict[str, Any]] = field(default_factory=dict)
    unit: LossUnit = LossUnit.NATS


def read_points(
    paths: Sequence[Path],
    count: Count = "total",
    loss_columns: Sequence[str] = (),
    allow_repeats: bool = False,
    asks_bits: bool = False,
) -> Points:
    """The runs of ledgers, TensorBoard folders, W&B exports and tables of results.

    Args:
        paths: as `tst_megatron.runs.inputs.read_runs` takes them, and CSV files with the columns
            ``params``, ``tokens`` and ``loss``.
        count: what N is.
        loss_columns: names of the held-out loss in W&B exports and TensorBoard folders.
        allow_repeats: keep runs that read their text more than four times.
        asks_bits: tell losses in bits a byte, as those of runs of several tokenizers are anyway.

    Raises:
        UserError: a path cannot be read; no whole run is left; a run does not tell its N or its
            length; runs that belong in no common law; or text is repeated too often.
    """
    tables = list({path.resolve(): path for path in paths if is_table(path)}.values())
    others = [path for path in paths if not is_table(path)]
    kept = _Kept([point for path in tables for point in read_table(path)])
    notes = _once(kept)
    if others:
        _take_runs(read_runs(others, vocabulary(), loss_columns), kept, asks_bits)
    if tables and (asks_bits or kept.unit is LossUnit.BITS):
        raise UserError(
            f"{tables[0]} does not tell how many bytes its losses are of, and bits a byte are "
            "needed: fit it apart, without --bits-a-byte"
        )
    _leave_out_losses_that_are_none(kept)
    if not kept.points:
        raise UserError(
            "there is no whole run to fit a law to: "
            + (
                "; ".join(f"{name} {why}" for name, why in kept.left_out[:_NAMED])
                or "none is there"
            )
        )
    _refuse_untold(kept.points, count)
    _refuse_experts_beside_dense(kept.points)
    _refuse_many_epochs(kept.points, allow_repeats)
    notes += [*kept.notes, *_of_one_rate(kept)]
    notes += [*_rate_notes(kept.points), *_warmup_notes(kept.points), *_thin_notes(kept.points)]
    left_out = tuple(kept.left_out)
    return Points(tuple(kept.points), count, left_out, tuple(notes), kept.text, kept.unit)


def _take_runs(runs: Sequence[RecordedRun], kept: _Kept, asks_bits: bool) -> None:
    whole = []
    for run in runs:
        reason = _why_not_whole(run)
        if reason is None:
            whole.append(run)
        else:
            kept.left_out.append((run.name, reason))
    differ = tokenizers_differ(whole)
    if differ and (reason := why_no_bits(whole)) is not None:
        _refuse_other_text(whole, f"; nor are they in bits a byte, as {reason}")
    if not differ:
        _refuse_other_text(whole)
    whole, _ = in_one_unit(whole, (), asks_bits, force=False)
    kept.unit = unit_of(whole)
    alike = [run for run in whole if not tokenizers_differ((whole[0], run))]
    kept.text = {topic: _told(topic, alike) for topic in TEXT}
    kept.notes += [*_tokenizer_notes(whole, alike), *_settings_notes(whole), *_repeat_notes(whole)]
    kept.points += [_point(run, _setting(run, whole[0])) for run in whole]


def _once(kept: _Kept) -> list[str]:
    """Rows that tell the same run, word for word, count once."""
    told: dict[tuple[object, ...], Point] = {}
    for point in kept.points:
        told.setdefault(astuple(replace(point, name="")), point)
    fewer = len(kept.points) - len(told)
    kept.points = list(told.values())
    return [f"{fewer} rows say what another row says, and count once."] if fewer else []


def _why_not_whole(run: RecordedRun) -> str | None:
    """Why what a run ended with is not what a whole run ends with; None where it is."""
    if not run.curve.steps.size:
        return "has no held-out loss"
    last = run.curve.steps[-1]
    if last < run.num_steps:
        return f"was evaluated last at step {last:,.0f} of {run.num_steps:,}"
    if run.decay_start is not None and run.decay_start >= run.num_steps:
        return "has no decay of its learning rate"
    return None


def _setting(run: RecordedRun, first: RecordedRun) -> str:
    """What sets its positions apart from the baseline's: methods, and another tokenizer."""
    names = [words_of(run)]
    if tokenizers_differ((first, run)):
        told = run.facts.topics["tokenizer"]
        names.append(f"tokenizer {str(told.get('sha256') or told.get('type'))[:_OF_HASH]}")
    return ", ".join(filter(None, names)) or BASELINE


def _tokenizer_notes(runs: Sequence[RecordedRun], alike: Sequence[RecordedRun]) -> list[str]:
    if len(alike) == len(runs):
        return []
    return [
        f"The runs are of several tokenizers, and the baseline is {runs[0].name}'s: losses are in "
        "bits a byte of one held-out text, and another tokenizer's m says how many of the "
        "baseline's positions one of its positions is worth."
    ]


def _point(run: RecordedRun, setting: str) -> Point:
    curve, told = run.curve, run.header.get("parameters") or {}
    return Point(
        name=run.name,
        setting=setting,
        total=told.get("total"),
        active=told.get("active"),
        positions=float(curve.positions[-1]),
        loss=float(curve.losses[-1]),
        # What was trained before it is no operation of its positions.
        flops=_known(curve.flops[-1] - sum(parent.flops or 0 for parent in run.facts.parents)),
        data_tokens=_known(curve.data_tokens[-1]),
        seed=run.facts.seed,
        learning_rate=run.facts.flags.get("lr"),
        warmup_share=_warmup_share(run),
        has_experts=_has_experts(run),
    )


def _has_experts(run: RecordedRun) -> bool | None:
    flags = run.facts.flags
    return bool(flags["num_experts"]) if "num_experts" in flags else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _warmup_share(run: RecordedRun) -> float | None:
    warmup = run.facts.flags.get("lr_warmup_iters")
    return warmup / run.num_steps if isinstance(warmup, int) and warmup and run.num_steps else None


def _leave_out_losses_that_are_none(kept: _Kept) -> None:
    bad = [point for point in kept.points if not (math.isfinite(point.loss) and point.loss > 0)]
    kept.points = [point for point in kept.points if point not in bad]
    kept.left_out += [(point.name, "ended with a loss that is no number above 0") for point in bad]


def _refuse_other_text(runs: Sequence[RecordedRun], beside: str = "") -> None:
    """One law is of one tokenizer and one held-out text: any two that tell theirs are alike."""
    for one, other in combinations(runs, 2):
        for topic in TEXT:
            for name, ours, theirs in differences(topic, one.facts, other.facts):
                raise UserError(
                    f"{one.name} and {other.name} differ in the {topic} ({name}: {ours} and "
                    f"{theirs}), so their losses are of no common law: fit them apart{beside}"
                )


def _told(topic: Topic, runs: Sequence[RecordedRun]) -> dict[str, Any]:
    """What any of the runs tells; they do not contradict one another."""
    return {name: value for run in runs for name, value in run.facts.topics[topic].items()}


def _settings_notes(runs: Sequence[RecordedRun]) -> list[str]:
    """Settings that a law takes to be the same in all its runs, and that are not."""
    found = []
    for name in _SETTINGS:
        values = {str(run.facts.flags[name]) for run in runs if name in run.facts.flags}
        if len(values) > 1:
            found.append(f"{name} ({', '.join(sorted(values)[:_NAMED])})")
    if not found:
        return []
    return [
        f"The runs differ in {' and '.join(found)} besides size, length, rate and method: what "
        "that does to a loss is taken for a part of the law."
    ]


def _repeat_notes(runs: Sequence[RecordedRun]) -> list[str]:
    """Our trainer refuses to read text twice unless it is told to; how often is in no ledger."""
    repeated = [run.name for run in runs if run.facts.flags.get("allow_repeats")]
    if not repeated:
        return []
    return [
        f"{len(repeated)} runs were allowed to read text again ({', '.join(repeated[:_NAMED])}): "
        "it counts as if it were new. Put their unique_tokens in a table to count it for less."
    ]


def _counted(point: Point, count: Count) -> float | None:
    if count == "flops":
        if point.flops is None:
            return None
        return point.flops / (_OPERATIONS * point.positions)
    return point.total if count == "total" else point.active


def _refuse_untold(points: Sequence[Point], count: Count) -> None:
    untold = {
        "total": "its number of parameters",
        "active": "how many of its parameters are active",
        "flops": "its FLOPs",
    }[count]
    for point in points:
        value = _counted(point, count)
        if value is None or not (math.isfinite(value) and value > 0):
            others = [other for other in COUNTS if _counted(point, other) is not None]
            way = (
                f"give --count {others[0]}, which all runs of a law have to tell"
                if others
                else "put what you know of it in a CSV with the columns params,tokens,loss"
            )
            raise UserError(f"{point.name} does not tell {untold}: {way}")
        if not (math.isfinite(point.positions) and point.positions > 0):
            raise UserError(
                f"{point.name} does not tell how many positions it was trained on: put what you "
                "know of it in a CSV with the columns params,tokens,loss"
            )


def _refuse_experts_beside_dense(points: Sequence[Point]) -> None:
    told = [point for point in points if point.has_experts is not None]
    experts = next((point for point in told if point.has_experts), None)
    dense = next((point for point in told if not point.has_experts), None)
    if experts is not None and dense is not None:
        raise UserError(
            f"{experts.name} has experts and {dense.name} has none: they are of no common law "
            "(arXiv 2502.05172), whatever N is; fit them apart"
        )


def _refuse_many_epochs(points: Sequence[Point], allow: bool) -> None:
    most = max(points, key=lambda point: point.epochs)
    if most.epochs > MOST_EPOCHS and not allow:
        raise UserError(
            f"{most.name} reads its text {most.epochs:.1f} times, and beyond {MOST_EPOCHS:.0f} "
            "the form for repeats (arXiv 2305.16264) is not to be trusted: leave such runs out, or "
            "give --allow-repeats"
        )


def _of_one_rate(kept: _Kept) -> list[str]:
    """Of several learning rates of one size, length and method, the best; what is said of it."""

    def place(point: Point) -> tuple[str, float, float]:
        return point.setting, point.total or point.positions, point.positions

    unconfirmed = 0
    for _, cell in groupby(sorted(kept.points, key=place), key=place):
        by_rate = _by_rate(cell)
        if len(by_rate) > 1:
            best = best_rate({rate: _losses(of) for rate, of in by_rate.items()})
            _check_shared(by_rate, best)
            unconfirmed += not best.confirmed_on
            for rate, points in by_rate.items():
                for point in points:
                    _keep_confirmed(kept, point, rate, best)
    if not unconfirmed:
        return []
    return [
        f"At {unconfirmed} sizes and lengths the rate was chosen by the very runs that the law is "
        "fitted to, which makes their loss a little too low: runs of the chosen rate with other "
        "seeds would confirm it."
    ]


def _by_rate(points: Iterable[Point]) -> dict[float, list[Point]]:
    found: dict[float, list[Point]] = {}
    for point in points:
        if point.learning_rate is not None:
            found.setdefault(point.learning_rate, []).append(point)
    return found


def _losses(points: Iterable[Point]) -> dict[object, float]:
    return {point.seed: point.loss for point in points}


def _check_shared(by_rate: dict[float, list[Point]], best: BestRate) -> None:
    """Seeds move a loss more than rates do: rates are compared on seeds that all of them have."""
    if not best.chosen_on:
        first, *_ = (point for points in by_rate.values() for point in points)
        raise UserError(
            f"{first.name} and the runs of its size, length and method have the learning rates "
            f"{', '.join(f'{rate:g}' for rate in sorted(by_rate))} on different seeds, so that the "
            "best is not to be told: leave out the runs of all but one rate"
        )


def _keep_confirmed(kept: _Kept, point: Point, rate: float, best: BestRate) -> None:
    """Leave a run out of another rate, or one that chose where others confirm."""
    if rate != best.rate:
        reason = f"has the learning rate {rate:g}, and {best.rate:g} ended lower"
    elif best.confirmed_on and point.seed not in best.confirmed_on:
        reason = "chose its learning rate, which others confirm"
    else:
        return
    kept.points.remove(point)
    kept.left_out.append((point.name, reason))


def _thin_notes(points: Sequence[Point]) -> list[str]:
    """Methods of which a law has next to nothing."""
    notes = []
    for setting in dict.fromkeys(point.setting for point in points):
        cells = {(p.total, p.positions) for p in points if p.setting == setting}
        if setting != BASELINE and len(cells) < _FEW_CELLS:
            notes.append(
                f"{setting} was run at {len(cells)} sizes and lengths: its m is of those and no "
                "law of it."
            )
    return notes


def _rate_notes(points: Sequence[Point]) -> list[str]:
    notes = []
    for setting in dict.fromkeys(point.setting for point in points):
        runs = [point for point in points if point.setting == setting]
        rates = {point.learning_rate for point in runs} - {None}
        sizes = {point.total for point in runs}
        if len(rates) == 1 and len(sizes) > 1:
            notes.append(
                f"All sizes of {setting} have one learning rate, {rates.pop():g}: it cannot suit "
                "all of them, and what it does to the exponents is in every figure "
                "(arXiv 2406.19146)."
            )
    return notes


def _warmup_notes(points: Sequence[Point]) -> list[str]:
    shares = [point.warmup_share for point in points if point.warmup_share]
    if not shares or max(shares) < _FIXED_WARMUP or max(shares) < 2 * min(shares):
        return []
    return [
        f"The warm-up is {100 * max(shares):.0f} % of the shortest run and "
        f"{100 * min(shares):.1g} % of the longest: short runs are held back by it "
        "(arXiv 2406.19146)."
    ]
