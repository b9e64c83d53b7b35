"""What the depths study's ledgers say so far: losses at equal FLOPs, against every control.

    python examples/depths-study/report.py --ledgers docs/studies/depths/ledgers --out report

Prints Markdown, and writes ``report.html``, ``study.png``, ``table.csv`` and ``figures.json``. It
trains nothing, and says what is missing. Losses are by the causal rule, by which a model can be
used; what the highest scores would have made of it stands beside.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from study import BAG_SHARE, BUDGET, EIGHTH, HALF, PLAIN, SEEDS, Model, Run, Study

from tst_megatron.errors import UserError, user_errors_exit
from tst_megatron.experiments.kept import Kept
from tst_megatron.experiments.tried_rates import TriedRates, charts_of_rates, table_of_rates
from tst_megatron.files import write_whole
from tst_megatron.report import formats, picture
from tst_megatron.report.chart import Chart, Dot, Rule, around
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
_BY_RANK = "lm loss by rank"
_COLOUR = "#0072b2"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b3f00", "#332288")
_ROOM = 0.1


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    Attributes:
        loss: held-out, at its end, by the causal rule; nats a token.
        by_rank: likewise, by the highest scores; None of a plain model, or of chance.
        agreeing: share of the choices that rule and rank agree on; None of a plain model.
        passing: share of the tokens that the rule lets in; likewise.
        flops: of all of it.
    """

    loss: float
    by_rank: float | None
    agreeing: float | None
    passing: float | None
    flops: float


@dataclass(frozen=True)
class Kind:
    """Runs that differ in nothing but their seed.

    Attributes:
        model: of them.
        bags: share of their steps in bags.
        ends: by seed.
    """

    model: Model
    bags: float
    ends: Mapping[int, Ended]

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.model.name}, bags" if self.bags else self.model.name

    @cached_property
    def loss(self) -> Interval:
        """The seeds' mean, with its interval."""
        return mean_of([end.loss for end in self.ends.values()], CONFIDENCE)

    def mean(self, name: str) -> float | None:
        """Of another figure, where every seed has it."""
        values = [getattr(end, name) for end in self.ends.values()]
        return None if None in values or not values else sum(values) / len(values)


@dataclass(frozen=True)
class Difference:
    """Of two kinds, seed by seed.

    Attributes:
        question: in words.
        one: the kind that is asked about.
        other: what it is held against.
        mean: of the first less the second; below 0 the first is ahead.
        seeds: that both have.
    """

    question: str
    one: Kind
    other: Kind
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
        ends: dict[tuple[Model, float], dict[int, Ended]] = {}
        for run in dict.fromkeys(study.runs()):
            if run.part != "rate" and study.kept.has(run.name):
                self._take(run, ends.setdefault((run.model, run.bags), {}))
        self.kinds = {key: Kind(*key, of_seeds) for key, of_seeds in ends.items() if of_seeds}

    def _take(self, run: Run, ends: dict[int, Ended]) -> None:
        ledger = read_ledger(self.study.kept.path(run.name))
        line = ledger.validations[-1]
        loss, facts = line["next_token_loss"], line.get("facts") or {}
        flops = float(line["flops"])
        if loss is None or not math.isfinite(loss):
            self.notes.append(f"{run.name} counts nowhere: it ended without a loss.")
        elif abs(flops / BUDGET - 1) > APART:
            self.notes.append(f"{run.name} counts nowhere: it has {flops:.4g} FLOPs.")
        else:
            by_rank = (line.get("losses") or {}).get(_BY_RANK)
            told = (facts.get("mod_agreeing"), facts.get("mod_passing"))
            ends[run.seed] = Ended(float(loss), by_rank, *told, flops)

    def best(self, models: Sequence[Model]) -> Model | None:
        """The size that did best while rates were chosen, so that no figure chose it."""
        tried = {}
        for model in models:
            losses = [self.study.loss(run) for run in self.study.rate_runs(model.tuned_as)]
            if None in losses or self.study.rate(model) is None:
                return None
            tried[model] = min(one for one in losses if one is not None)
        return min(tried, key=lambda model: tried[model])

    @cached_property
    def differences(self) -> list[Difference]:
        """Every question of which both sides are there."""
        return [one for asked in self._asked() if (one := self._difference(*asked)) is not None]

    def _asked(self) -> Iterator[tuple[str, tuple[Model, float], tuple[Model, float]]]:
        plain = self.best(PLAIN)
        for share, models in (("12.5 %", EIGHTH), ("50 %", HALF)):
            routed = self.best(models)
            if plain is not None and routed is not None:
                question = f"{share}, best size, less the best plain size"
                yield question, (routed, 0.0), (plain, 0.0)
        for model in (*EIGHTH, *HALF):
            name = model.name
            yield (
                f"{name} less itself without its routed blocks",
                (model, 0.0),
                (
                    model.without_routed,
                    0.0,
                ),
            )
            yield (
                f"{name} less itself with chance",
                (model, 0.0),
                (
                    replace(model, by_chance=True),
                    0.0,
                ),
            )
        main = EIGHTH[-1]
        for rule in ("auxiliary", "threshold"):
            other = replace(main, sampling=rule)
            yield f"{main.name}: {rule} less predictor", (other, 0.0), (main, 0.0)
        yield "bags: routed less plain", (main, BAG_SHARE), (PLAIN[1], BAG_SHARE)
        yield "routed: bags less none", (main, BAG_SHARE), (main, 0.0)
        experts = [one for one, _ in self.kinds if one.has_experts and one.is_routed]
        for model in (one for one in experts if not one.by_chance):
            yield (
                "experts: routed less itself without its routed blocks",
                (model, 0.0),
                (
                    model.without_routed,
                    0.0,
                ),
            )
            yield (
                "experts: routed less itself with chance",
                (model, 0.0),
                (
                    replace(model, by_chance=True),
                    0.0,
                ),
            )

    def _difference(
        self, question: str, one: tuple[Model, float], other: tuple[Model, float]
    ) -> Difference | None:
        if one not in self.kinds or other not in self.kinds:
            return None
        first, second = self.kinds[one], self.kinds[other]
        seeds = tuple(sorted(first.ends.keys() & second.ends.keys()))
        if not seeds:
            return None
        apart = [first.ends[seed].loss - second.ends[seed].loss for seed in seeds]
        return Difference(question, first, second, mean_of(apart, CONFIDENCE), seeds)

    @property
    def rates(self) -> list[TriedRates]:
        """Of every model that has been tuned."""
        found = []
        for model in dict.fromkeys(run.model.tuned_as for run in self.study.runs()):
            losses = {run.rate: self.study.loss(run) for run in self.study.rate_runs(model)}
            known = {rate: loss for rate, loss in losses.items() if loss is not None}
            if known:
                rate = self.study.rate(model)
                found.append(TriedRates.of(_group(model), model.name, known, rate))
        return found

    @property
    def missing(self) -> list[str]:
        """Runs that are not there, by model."""
        left: dict[str, list[int]] = {}
        for run in self.study.left():
            if run.part != "rate":
                left.setdefault(run.name.rpartition("-seed")[0], []).append(run.seed)
        found = [f"{name}, seeds {', '.join(map(str, seeds))}" for name, seeds in left.items()]
        rates = sorted({run.model.name for run in self.study.left() if run.part == "rate"})
        return [*found, *([f"the rates of {', '.join(rates)}"] if rates else [])]


def _group(model: Model) -> str:
    if model.has_experts:
        return "experts"
    return "routed" if model.is_routed else "plain"


def tables_of(found: Found) -> list[Table]:
    """Losses, differences and rates."""
    losses = []
    for kind in found.kinds.values():
        flops = kind.mean("flops")
        losses.append(
            (
                kind.name,
                ", ".join(map(str, sorted(kind.ends))),
                formats.flops(flops),
                formats.loss(kind.loss.value),
                _range(kind.loss),
                _number(kind.mean("by_rank")),
                _number(kind.mean("agreeing")),
                _number(kind.mean("passing")),
            )
        )
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
            "Held-out loss at equal FLOPs",
            ("model", "seeds", "FLOPs", "loss", "95 %", "by rank", "agreeing", "let in"),
            tuple(losses),
            note="Nats a token, by the causal rule; by rank: where blocks take the highest scores. "
            "Agreeing: the share of choices that rule and rank have in common.",
        ),
        Table(
            "Differences, seed by seed",
            ("", "seeds", "difference", "95 %"),
            tuple(apart),
            note="Nats a token; below 0 the first is ahead. Student's t of so few. Sizes called "
            "best were so while rates were chosen, with a seed that no figure here is of.",
        ),
        table_of_rates(found.rates, _TUNED_AFTER),
    ]


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "one seed"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def chart_of(found: Found) -> Chart | None:
    """Differences with their intervals, one beside the other."""
    told = [one for one in found.differences if one.mean.value is not None]
    if not told:
        return None
    dots = [
        Dot(f"{at}", float(at), one.mean.value or 0.0, one.mean.low, one.mean.high, _COLOUR, False)
        for at, one in enumerate(told, 1)
    ]
    values = [dot.y for dot in dots]
    ends = [end for dot in dots for end in (dot.low, dot.high)]
    numbered = "; ".join(f"{at}: {one.question}" for at, one in enumerate(told, 1))
    return Chart(
        name="differences",
        title="Differences in held-out loss at equal FLOPs",
        alt="Differences with intervals, numbered as in the caption.",
        caption=f"Below 0 the first is ahead; mean of the seeds with Student's 95 %. {numbered}.",
        x_label="row of the table of differences",
        y_label="difference, nats a token",
        lines=(),
        dots=tuple(dots),
        rules=(Rule(0.0, "y", ""),),
        x_range=(0.0, len(dots) + 1.0),
        y_range=around(np.array([0.0, *values]), ends, _ROOM),
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
                "loss": asdict(kind.loss),
            }
            for kind in found.kinds.values()
        ],
        "differences": [
            {
                "question": one.question,
                "one": one.one.name,
                "other": one.other.name,
                "seeds": one.seeds,
                **asdict(one.mean),
            }
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
    main_chart, rates = chart_of(found), found.rates
    colours = {one.side: _COLOURS[at % len(_COLOURS)] for at, one in enumerate(rates)}
    charts = [*([main_chart] if main_chart else []), *charts_of_rates(rates, _TUNED_AFTER, colours)]
    sentences = (*found.notes, *(f"Missing: {one}." for one in found.missing))
    page = Page(
        "What blocks in depths are worth at equal FLOPs",
        f"{count} ledgers are there; {len(SEEDS)} seeds are planned.",
        sections=(
            Section(
                "So far", charts=tuple(charts), tables=tuple(tables), sentences=tuple(sentences)
            ),
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
