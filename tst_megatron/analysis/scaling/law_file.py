"""``law.json``: a fitted law with its draws, the runs it is of, and what has to be said beside it.

The one idea: whoever asks a law something (`predict`, `optimal`, `plot`, `plan`, `compare` and
`sweep`) reads this file and nothing else, so it has all that an answer needs: every draw for its
interval, and the runs for how far it can be believed.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.analysis.scaling.checks import FARTHEST
from tst_megatron.analysis.scaling.law import Law, Multiplier
from tst_megatron.analysis.scaling.point import BASELINE
from tst_megatron.errors import UserError
from tst_megatron.files import write_whole
from tst_megatron.runs.run import LossUnit
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import interval
from tst_megatron.strict_json import finite

KIND, SCHEMA_VERSION = "scaling law", 1
# Of a draw's numbers: enough for a millionth of a loss where A and alpha nearly cancel.
_DIGITS = 10
_NUMBERS = ("E", "A", "alpha", "B", "beta")
# As far as this beyond its runs, a size or a length is among them.
_ROOM = 1.001


@dataclass(frozen=True)
class LawRun:
    """A run that the law is of.

    Attributes:
        name: as a reader knows it.
        setting: of its methods; `BASELINE` without any.
        n: parameters.
        d: positions; effective ones where it read text again.
        loss: that it ended with, in the law's unit.
        positions: that it was trained on.
        seed: None where not told.
        data_tokens: None where not told.
        learning_rate: None where not told.
    """

    name: str
    setting: str
    n: float
    d: float
    loss: float
    positions: float
    seed: int | None = None
    data_tokens: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class LawRecord:
    """A law as it is kept.

    Attributes:
        law: its numbers are floats.
        laws: what it might as well have been; its numbers are ``[draws]``.
        runs: that it is of.
        count: what N is: ``total``, ``active`` or ``flops``.
        settings: how it was fitted, in a table's words.
        notes: what a reader should know, a sentence each.
        refused: what spoke against a law and was passed over by ``--force``.
        left_out: names of runs that are not among these, with the reason.
        text: tokenizer and held-out text of the losses: by topic, facts by name; empty where no
            run tells any.
        unit: of the losses, of the law's and of its runs.
    """

    law: Law
    laws: Law
    runs: tuple[LawRun, ...]
    count: str
    settings: Mapping[str, str]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    text: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unit: LossUnit = LossUnit.NATS

    @property
    def names(self) -> tuple[str, ...]:
        """The settings of its methods, the baseline first."""
        return (BASELINE, *self.law.multipliers)

    def column(self, name: str) -> Array:
        """A number of every run, ``[runs]``."""
        return np.array([getattr(run, name) for run in self.runs], float)

    def interval(self, figure: Callable[[Law], Array | float], confidence: float) -> Interval:
        """A figure with its percentile interval.

        A draw that knows no figure, as where its law never gets to a loss, counts against both
        ends.

        Args:
            figure: of a law: a number of a law of numbers, ``[draws]`` of one of draws.
            confidence: such as 0.95.
        """
        with np.errstate(all="ignore"):
            value, rows = figure(self.law), np.asarray(figure(self.laws))
        low, high = (
            interval(np.append(value, np.where(np.isnan(rows), end, rows)), confidence)
            for end in (-np.inf, np.inf)
        )
        return Interval(low.value, low.low, high.high)

    def tokens_a_position(self, setting: str) -> float | None:
        """Data tokens that a position reads on the average of the setting's runs.

        Returns:
            None where not all runs of a method tell: with bags it is more than 1.
        """
        runs = [run for run in self.runs if run.setting == setting]
        told = [run.data_tokens / run.positions for run in runs if run.data_tokens is not None]
        if len(told) == len(runs):
            return sum(told) / len(told)
        return 1.0 if setting == BASELINE else None

    def outside(self, n: float, d: float) -> tuple[str, ...]:
        """In which ways a run would lie outside the law's own, in words; none inside."""
        found = []
        for what, at, of in (
            ("size", n, self.column("n")),
            ("length", d, self.column("positions")),
            ("tokens a parameter", d / n, self.column("positions") / self.column("n")),
        ):
            if at > of.max() * _ROOM:
                found.append(f"{what} {at / of.max():.3g} times the largest")
            elif at < of.min() / _ROOM:
                found.append(f"{what} {at / of.min():.3g} of the smallest")
        return tuple(found)

    def times_the_largest(self, n: float, d: float) -> float:
        """Compute over that of the largest run."""
        return float(n * d / (self.column("n") * self.column("positions")).max())

    def check_within(self, n: float, d: float, force: bool) -> None:
        """Refuse what is too far from the runs.

        Raises:
            UserError: it takes more than ten times the compute of the largest run, or its size or
                length is more than ten times outside theirs.
        """
        if force:
            return
        for what, at, of in (("N", n, self.column("n")), ("D", d, self.column("positions"))):
            if not of.min() / FARTHEST <= at <= of.max() * FARTHEST:
                raise UserError(
                    f"{what} {at:.4g} is more than {FARTHEST:g} times outside the law's runs, "
                    f"which have {of.min():.4g} to {of.max():.4g}: ask for one nearer, or give "
                    "--force"
                )
        times = self.times_the_largest(n, d)
        if times > FARTHEST:
            raise UserError(
                f"N {n:.4g} and D {d:.4g} take {times:.3g} times the compute of the largest run of "
                f"the law, and beyond {FARTHEST:g} times no law is to be believed: train a larger "
                "run, ask for less, or give --force"
            )

    def check_setting(self, setting: str) -> None:
        """Refuse a setting that the law does not have.

        Raises:
            UserError: it has others.
        """
        if setting not in self.names:
            names = ", ".join(f'"{name}"' for name in self.names)
            raise UserError(f'the law has no setting "{setting}": it has {names}')


def write_law(path: Path, record: LawRecord) -> None:
    """Write a law, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "law": _of_law(record.law),
        "count": record.count,
        "hull": {
            "n": _ends(record.column("n")),
            "d": _ends(record.column("positions")),
            "d_over_n": _ends(record.column("positions") / record.column("n")),
            "n_times_d": _ends(record.column("positions") * record.column("n")),
        },
        "settings": dict(record.settings),
        "notes": list(record.notes),
        "refused": list(record.refused),
        "left_out": [list(one) for one in record.left_out],
        "text": finite({topic: dict(facts) for topic, facts in record.text.items()}),
        "loss_unit": str(record.unit),
        "runs": [asdict(run) for run in record.runs],
        "draws": _of_law(record.laws),
    }
    try:
        write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another") from None


def is_law(path: Path) -> bool:
    """Whether a file is a law's, of whatever schema."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def read_law(path: Path) -> LawRecord:
    """Read a law.

    Raises:
        UserError: the file cannot be read, is no law's, or a number in it is none.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is no law: make one with tst-megatron scaling fit RUNS --out {path}"
        )
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} is a law of schema {content.get('schema_version')}, and this reads "
            f"{SCHEMA_VERSION}: fit it again"
        )
    try:
        return LawRecord(
            law=_law(content["law"]),
            laws=_law(content["draws"]),
            runs=tuple(_run(told) for told in content["runs"]),
            count=str(content["count"]),
            settings={str(name): str(value) for name, value in content["settings"].items()},
            notes=tuple(map(str, content["notes"])),
            refused=tuple(map(str, content["refused"])),
            left_out=tuple((str(name), str(why)) for name, why in content["left_out"]),
            text={str(topic): dict(facts) for topic, facts in content.get("text", {}).items()},
            unit=LossUnit(content.get("loss_unit", LossUnit.NATS)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not whole ({error!r}): fit it again") from None


def _ends(values: Array) -> list[float]:
    return [float(values.min()), float(values.max())]


def _of_law(law: Law) -> dict[str, Any]:
    return {
        **{name: _written(getattr(law, name)) for name in _NUMBERS},
        "flops_per_position": law.flops_per_position,
        "multipliers": {
            name: {field.name: _written(getattr(of, field.name)) for field in fields(Multiplier)}
            for name, of in law.multipliers.items()
        },
    }


def _written(value: Array | float) -> float | list[float]:
    if np.ndim(value):
        return [float(f"{number:.{_DIGITS}g}") for number in np.asarray(value)]
    return float(value)


def _law(told: Mapping[str, Any]) -> Law:
    return Law(
        **{name: _read(told[name]) for name in _NUMBERS},
        multipliers={
            str(name): Multiplier(
                **{field.name: _read(of[field.name]) for field in fields(Multiplier)}
            )
            for name, of in told["multipliers"].items()
        },
        flops_per_position=float(told["flops_per_position"]),
    )


def _read(value: Any) -> Any:
    found = np.array(value, float)
    if not np.isfinite(found).all():
        raise ValueError("a number that is none")
    return found if found.ndim else float(found)


def _run(told: Mapping[str, Any]) -> LawRun:
    run = LawRun(**{field.name: told[field.name] for field in fields(LawRun)})
    numbers = run.n, run.d, run.loss, run.positions
    if not all(math.isfinite(value) and value > 0 for value in numbers):
        raise ValueError(run.name)
    return run
