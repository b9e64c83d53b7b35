"""What the compressed text study says so far: bits a byte of the same text, at equal FLOPs.

    python examples/compressed-text-study/report.py --ledgers FOLDER --out report

Prints Markdown, and writes ``report.html``, ``study.png``, ``table.csv`` and ``figures.json``. It
trains nothing, and says what is missing.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from study import (
    BAG_SHARE,
    BUDGET,
    BYTES,
    CODE,
    HALVES,
    NGRAMS,
    SEEDS,
    SUBWORDS,
    WINDOWS,
    Run,
    Study,
    Text,
)

from tst_megatron.errors import UserError, user_errors_exit
from tst_megatron.experiments.kept import Kept
from tst_megatron.experiments.tried_rates import TriedRates, charts_of_rates, table_of_rates
from tst_megatron.files import write_whole
from tst_megatron.report import formats, picture
from tst_megatron.report.chart import Chart, Dot, around
from tst_megatron.report.page import Page, Section, html
from tst_megatron.report.table import Table, csv_text, markdown_text
from tst_megatron.runs.ledger import read_ledger
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.student import mean_of
from tst_megatron.strict_json import finite

CONFIDENCE = 0.95
APART = 0.01
"""How far the FLOPs of a run that counts may be from the budget."""

_TUNED_AFTER = f"half the FLOPs ({BUDGET / 2:.3g})"
_COLOUR = "#0072b2"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_ROOM = 0.1


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    Attributes:
        bits: a byte of the held-out text.
        bytes_a_token: of it.
        text_bytes: that the run was trained on, about: tokens read, times the held-out text's mean.
        flops: of all of it.
    """

    bits: float
    bytes_a_token: float
    text_bytes: float
    flops: float


@dataclass(frozen=True)
class Kind:
    """Runs that differ in nothing but their seed.

    Attributes:
        text: that they read.
        bags: share of their steps in bags.
        ends: by seed.
    """

    text: Text
    bags: float
    ends: Mapping[int, Ended]

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.text.name}, bags" if self.bags else self.text.name

    @cached_property
    def bits(self) -> Interval:
        """The seeds' mean, with its interval."""
        return mean_of([end.bits for end in self.ends.values()], CONFIDENCE)

    def mean(self, name: str) -> float:
        """Of another figure."""
        values = [float(getattr(end, name)) for end in self.ends.values()]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Difference:
    """Of two kinds, seed by seed: below 0 the first is ahead."""

    question: str
    mean: Interval
    seeds: tuple[int, ...]


class Found:
    """All that the ledgers tell.

    Args:
        study: with the kept ledgers.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.notes: list[str] = []
        ends: dict[tuple[Text, float], dict[int, Ended]] = {}
        for run in dict.fromkeys(study.runs()):
            if run.part != "rate" and study.kept.has(run.name):
                self._take(run, ends.setdefault((run.text, run.bags), {}))
        self.kinds = {key: Kind(*key, of_seeds) for key, of_seeds in ends.items() if of_seeds}

    def _take(self, run: Run, ends: dict[int, Ended]) -> None:
        line = read_ledger(self.study.kept.path(run.name)).validations[-1]
        loss, flops = line["next_token_loss"], float(line["flops"])
        tokens, size = line.get("tokens"), line.get("bytes")
        if loss is None or not math.isfinite(loss) or not tokens or not size:
            self.notes.append(f"{run.name} counts nowhere: it ended without a loss a byte.")
        elif abs(flops / BUDGET - 1) > APART:
            self.notes.append(f"{run.name} counts nowhere: it has {flops:.4g} FLOPs.")
        else:
            mean = size / tokens
            read = float(line["data_tokens"]) * mean
            ends[run.seed] = Ended(loss / mean / math.log(2), mean, read, flops)

    @cached_property
    def differences(self) -> list[Difference]:
        """Every question of which both sides are there."""
        asked = (
            ("windows less subwords, the same number of ids", (WINDOWS, 0.0), (SUBWORDS, 0.0)),
            ("windows less bytes", (WINDOWS, 0.0), (BYTES, 0.0)),
            ("subwords less bytes", (SUBWORDS, 0.0), (BYTES, 0.0)),
            ("16 bits in two ids less bytes, as many ids", (HALVES, 0.0), (BYTES, 0.0)),
            ("an arithmetic code less bytes", (CODE, 0.0), (BYTES, 0.0)),
            *(
                (f"{text.name}: bags less none", (text, BAG_SHARE), (text, 0.0))
                for text in (BYTES, SUBWORDS, WINDOWS, NGRAMS)
            ),
            ("bytes with n-grams less bytes", (NGRAMS, 0.0), (BYTES, 0.0)),
            ("bytes with n-grams less subwords", (NGRAMS, 0.0), (SUBWORDS, 0.0)),
            (
                "bytes with n-grams in bags less subwords in bags",
                (NGRAMS, BAG_SHARE),
                (SUBWORDS, BAG_SHARE),
            ),
            ("bytes in bags less subwords", (BYTES, BAG_SHARE), (SUBWORDS, 0.0)),
            ("bytes in bags less subwords in bags", (BYTES, BAG_SHARE), (SUBWORDS, BAG_SHARE)),
        )
        return [one for words in asked if (one := self._difference(*words)) is not None]

    def _difference(
        self, question: str, one: tuple[Text, float], other: tuple[Text, float]
    ) -> Difference | None:
        if one not in self.kinds or other not in self.kinds:
            return None
        first, second = self.kinds[one].ends, self.kinds[other].ends
        seeds = tuple(sorted(first.keys() & second.keys()))
        if not seeds:
            return None
        apart = [first[seed].bits - second[seed].bits for seed in seeds]
        return Difference(question, mean_of(apart, CONFIDENCE), seeds)

    @property
    def rates(self) -> list[TriedRates]:
        """Of every text that has been tuned; nats a token, which are held against no other's."""
        found = []
        for text in dict.fromkeys(run.text for run in self.study.runs()):
            losses = {run.rate: self.study.loss(run) for run in self.study.rate_runs(text)}
            known = {rate: loss for rate, loss in losses.items() if loss is not None}
            if known:
                rate = self.study.rate(text)
                found.append(TriedRates.of(text.name, text.name, known, rate))
        return found

    @property
    def missing(self) -> list[str]:
        """Runs that are not there, by text."""
        left: dict[str, list[int]] = {}
        for run in self.study.left():
            if run.part != "rate":
                left.setdefault(run.name.rpartition("-seed")[0], []).append(run.seed)
        found = [f"{name}, seeds {', '.join(map(str, seeds))}" for name, seeds in left.items()]
        rates = sorted({run.text.name for run in self.study.left() if run.part == "rate"})
        return [*found, *([f"the rates of {', '.join(rates)}"] if rates else [])]


def tables_of(found: Found) -> list[Table]:
    """Losses, differences and rates."""
    kinds = [
        (
            kind.name,
            f"{kind.text.vocab_size:,}",
            ", ".join(map(str, sorted(kind.ends))),
            formats.flops(kind.mean("flops")),
            f"{kind.mean('bytes_a_token'):.3f}",
            f"{kind.mean('text_bytes') / 1e6:.1f} MB",
            formats.loss(kind.bits.value),
            _range(kind.bits),
        )
        for kind in found.kinds.values()
    ]
    apart = [
        (
            one.question,
            ", ".join(map(str, one.seeds)),
            formats.signed(one.mean.value),
            formats.difference_range(one.mean) if len(one.seeds) > 1 else "one seed",
        )
        for one in found.differences
    ]
    return [
        Table(
            "Held-out text at equal FLOPs",
            ("text", "ids", "seeds", "FLOPs", "bytes an id", "read", "bits a byte", "95 %"),
            tuple(kinds),
            note="The same held-out documents for all. FLOPs are the ledger's, the vocabulary's "
            "among them; a byte model of counts has none.",
        ),
        Table(
            "Differences, seed by seed",
            ("", "seeds", "bits a byte", "95 %"),
            tuple(apart),
            note="Below 0 the first is ahead. Student's t of so few.",
        ),
        table_of_rates(found.rates, _TUNED_AFTER),
    ]


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "one seed"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def charts_of(found: Found) -> Iterator[Chart]:
    """Bits a byte of every kind, with their intervals."""
    told = [kind for kind in found.kinds.values() if kind.bits.value is not None]
    if not told:
        return
    dots = [
        Dot(
            kind.name,
            float(at),
            kind.bits.value or 0.0,
            kind.bits.low,
            kind.bits.high,
            _COLOUR,
            False,
        )
        for at, kind in enumerate(told, 1)
    ]
    numbered = "; ".join(f"{at}: {kind.name}" for at, kind in enumerate(told, 1))
    yield Chart(
        name="bits",
        title="Held-out text at equal FLOPs",
        alt="Bits a byte with intervals, numbered as in the caption.",
        caption=f"Mean of the seeds with Student's 95 %. {numbered}.",
        x_label="row of the table",
        y_label="bits a byte",
        lines=(),
        dots=tuple(dots),
        rules=(),
        x_range=(0.0, len(dots) + 1.0),
        y_range=around(
            np.array([dot.y for dot in dots]), [e for d in dots for e in (d.low, d.high)], _ROOM
        ),
        x_ticks=tuple(float(at) for at in range(1, len(dots) + 1)),
    )


def figures(found: Found) -> str:
    """All numbers, for JSON."""
    content = {
        "budget": BUDGET,
        "kinds": [
            {
                "name": kind.name,
                "ends": {seed: asdict(end) for seed, end in kind.ends.items()},
                "bits": asdict(kind.bits),
            }
            for kind in found.kinds.values()
        ],
        "differences": [
            {"question": one.question, "seeds": one.seeds, **asdict(one.mean)}
            for one in found.differences
        ],
        "rates": [one.told() for one in found.rates],
        "missing": found.missing,
        "notes": found.notes,
    }
    return json.dumps(finite(content), indent=2, allow_nan=False) + "\n"


def main() -> int:
    """Report on what is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledgers", type=Path, required=True, help="folder of the kept ledgers")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    kept = Kept(args.ledgers.resolve())
    count = len(list(kept.folder.glob("*.jsonl.gz")))
    if not count:
        raise UserError(f"--ledgers {args.ledgers} holds no ledger of the study")
    found = Found(Study(kept))
    tables = [table for table in tables_of(found) if table.rows]
    rates = found.rates
    colours = {one.side: _COLOURS[at % len(_COLOURS)] for at, one in enumerate(rates)}
    charts = [*charts_of(found), *charts_of_rates(rates, _TUNED_AFTER, colours)]
    sentences = (*found.notes, *(f"Missing: {one}." for one in found.missing))
    page = Page(
        "What compressed text is worth at equal FLOPs",
        f"{count} ledgers are there; {len(SEEDS)} seeds are planned.",
        sections=(
            Section("So far", charts=tuple(charts), tables=tuple(tables), sentences=sentences),
        ),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(args.out / "report.html", html(page))
    if charts:
        write_whole(args.out / "study.png", picture.png(charts, columns=2))
    first = tables_of(found)[0]
    write_whole(args.out / "table.csv", csv_text(first.columns, first.rows))
    write_whole(args.out / "figures.json", figures(found))
    print("\n".join(markdown_text(table) for table in tables))
    print("\n".join(f"- {sentence}" for sentence in sentences))
    return 0


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(main())
