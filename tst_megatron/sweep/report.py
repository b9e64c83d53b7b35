"""The report of a sweep: ``report.json``, ``report.html``, ``cells.csv`` and the figures.

The one idea: one dictionary holds every figure; the page and the terminal show it and compute
nothing. Whatever part of the grid has been run makes a report, which says what is missing.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text as Words

from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
from tst_megatron.experiments.search import Halving, better
from tst_megatron.experiments.text import TextRead
from tst_megatron.files import write_whole
from tst_megatron.methods.search import Limit, Optimum, Search
from tst_megatron.runs.noise import levelled, means_of, usable
from tst_megatron.runs.outcomes import AtRate, Choice, Outcome, without_rate
from tst_megatron.statistics.interval import Interval
from tst_megatron.strict_json import finite
from tst_megatron.sweep.by_law import Worth, worth_of
from tst_megatron.sweep.figure import draw_halving, draw_rates, draw_sweep
from tst_megatron.sweep.outcomes_csv import as_csv
from tst_megatron.sweep.rates import Tuned, rate_notes, tuned
from tst_megatron.sweep.recommendation import Recommendation, recommend

_PARTIAL = "This report is partial"


@dataclass(frozen=True)
class Found:
    """Everything a sweep has found so far.

    Attributes:
        search: of the method's settings.
        name: of the recipe, or of the table of results.
        num_steps: of a whole run; None where a table does not say.
        outcomes: of whole runs.
        wanted: runs of the whole grid, baselines among them.
        left_out: names of cells that the budget did not pay for.
        text: what cells read, where the corpus was looked at.
        limit: the text there is, if the user says so.
        budget_hours: if there is a budget.
        spent_hours: GPU hours of all runs; core hours on a CPU.
        halving: if it was asked for.
        failed: names of runs that broke off, and why.
        num_seeds: that were asked for.
        law: of whole runs, by which the gain is told in steps.
        baseline: the ledger of a whole run without the method, if one is done.
    """

    search: Search
    name: str
    num_steps: int | None
    outcomes: tuple[Outcome, ...]
    wanted: int
    left_out: tuple[str, ...] = ()
    text: dict[Choice, TextRead] | None = None
    limit: Limit | None = None
    budget_hours: float | None = None
    spent_hours: float | None = None
    halving: Halving | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    num_seeds: int = 1
    law: ScalingLaw | None = None
    baseline: Path | None = None

    @cached_property
    def tuned(self) -> Tuned:
        """At the best learning rate of every choice."""
        return tuned(self.outcomes)


def write_report(out: Path, found: Found) -> dict[str, Any]:
    """Write the files of a report, each whole or not at all.

    Args:
        out: directory, made if it is not there.
        found: by the sweep so far.

    Returns:
        What report.json holds; see `build_report`.

    Raises:
        OSError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    recommendation = None
    outcomes = found.tuned.outcomes
    if any(not outcome.choice.is_baseline for outcome in usable(outcomes)):
        asked = [choice for choice in found.text or () if not choice.is_baseline]
        recommendation = recommend(found.search, outcomes, found.limit, asked)
    report = build_report(found, recommendation)
    write_whole(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_whole(out / "cells.csv", as_csv(found.search, found.outcomes))
    figures = []
    if recommendation is not None:
        png = draw_sweep(found.search, outcomes, recommendation)
        figures.append(("sweep.png", f"Final loss over {_symbols(found.search)}", png))
    if any(len(chosen.losses) > 1 for chosen in found.tuned.rates.values()):
        png = draw_rates(found.tuned.rates, recommendation)
        figures.append(("rates.png", "Final loss over the learning rate", png))
    if found.halving is not None and found.halving.losses:
        figures.append(("halving.png", "Successive halving", draw_halving(found.halving)))
    for name, _, png in figures:
        write_whole(out / name, png)
    # Of a report that this one takes the place of.
    for name in {"sweep.png", "rates.png", "halving.png"} - {name for name, _, _ in figures}:
        (out / name).unlink(missing_ok=True)
    write_whole(out / "report.html", _html(found.search, report, figures))
    return report


def build_report(found: Found, recommendation: Recommendation | None) -> dict[str, Any]:
    """Every figure of a sweep, ready for strict JSON: what is not a number is None.

    Keys: ``headline``; ``notes``; ``name``; ``steps``; ``cells``, one a choice, the
    baseline first; ``recommendation``; ``fit``; ``noise``; ``halving``; ``budget``; ``partial``.
    """
    words = found.search.words
    num_done = sum(isfinite(outcome.loss) for outcome in found.outcomes)
    partial = bool(found.failed) or (num_done < found.wanted and found.halving is None)
    if recommendation is None:
        ran = any(not outcome.choice.is_baseline for outcome in found.outcomes)
        diverged = f"every {words.noun} has a run that diverged"
        reason = diverged if ran else f"no {words.run} run is done"
        headline, notes = f"There is nothing to choose from yet: {reason}.", []
    else:
        headline, *notes = recommendation.sentences
    worth = _worth(found, recommendation)
    if worth is not None:
        notes = [*worth.sentences, *notes]
    best = None if recommendation is None else recommendation.best
    report = {
        "headline": headline,
        "notes": [
            *([f"{_PARTIAL}: {num_done} of {found.wanted} runs are done."] if partial else []),
            *_budget_notes(found),
            *notes,
            *rate_notes(found.tuned, best, found.num_seeds),
            *_text_notes(found),
            *_diverged_notes(words.noun, found.tuned.outcomes),
            *_diverged_rates_notes(found),
            *(f"The {name} run failed: {reason}." for name, reason in found.failed.items()),
            *(_halving_notes(found.halving) if found.halving else ()),
            *(_halved_rates_notes(found.halving) if found.halving else ()),
        ],
        "name": found.name,
        "steps": found.num_steps,
        "cells": _cells(found, recommendation),
        "recommendation": None
        if recommendation is None
        else {
            **_recommended(found.search, recommendation),
            **({} if worth is None else {"step_ratio_by_law": _interval(worth.step_ratio)}),
        },
        "fit": None if recommendation is None else _fit(recommendation),
        "noise": None if recommendation is None else _noise(recommendation),
        "learning_rates": [
            {**_place(found.search, choice), **chosen.as_json()}
            for choice, chosen in found.tuned.rates.items()
        ],
        "halving": None if found.halving is None else _halving(found.search, found.halving),
        "budget": {
            "hours": found.budget_hours,
            "spent_hours": found.spent_hours,
            "left_out": list(found.left_out),
        },
        "tokens_available": None if found.limit is None else found.limit.tokens,
        "partial": partial,
    }
    whole: dict[str, Any] = finite(report)
    return whole


def _worth(found: Found, recommendation: Recommendation | None) -> Worth | None:
    """Of the recommended choice; None without a law, or where nothing gains."""
    if found.law is None or found.baseline is None or recommendation is None:
        return None
    if recommendation.choice is None or recommendation.choice.is_baseline:
        return None
    return worth_of(recommendation.gain, found.law, found.baseline)


def print_report(search: Search, report: dict[str, Any], console: Console) -> None:
    """The result, the grid of losses and what to know of them."""
    console.print(Words(report["headline"], style="bold"))
    if report["cells"]:
        console.print(_grid_table(search, report))
    if report["learning_rates"]:
        console.print(_rates_table(search, report))
    for note in report["notes"]:
        console.print(Words(note))


def _grid_table(search: Search, report: dict[str, Any]) -> Table:
    """Mean losses, a column a value of the first axis and a row one of the other."""
    cells = {
        tuple(cell[axis.name] for axis in search.axes): _cell_words(cell)
        for cell in report["cells"]
    }
    table = Table(box=SIMPLE_HEAD, title="final held-out loss, nats a token", title_justify="left")
    corner = " \\ ".join(axis.symbol for axis in reversed(search.axes))
    table.add_column(corner, justify="right", no_wrap=True)
    values = sorted({place[0] for place in cells})
    for value in values:
        table.add_column(f"{value:g}", justify="right", no_wrap=True)
    for row in sorted({place[1:] for place in cells}):
        name = ", ".join(f"{value:g}" for value in row)
        table.add_row(name, *(cells.get((value, *row), Words("")) for value in values))
    table.caption = "* the lowest, ~ not to be told from it"
    table.caption_justify = "left"
    return table


def rates_of(report: dict[str, Any]) -> list[float]:
    """All learning rates that were tried, ascending."""
    return sorted({one["rate"] for row in report["learning_rates"] for one in row["tried"]})


def rate_cells(row: dict[str, Any], rates: Sequence[float]) -> list[str]:
    """A choice's loss at each rate, the chosen one marked; and the lowest place by a parabola."""
    losses = {one["rate"]: one["loss"] for one in row["tried"]}
    marks = {row["rate"]: "*"}
    cells = [
        ""
        if rate not in losses
        else f"{marks.get(rate, '')}{'diverged' if losses[rate] is None else f'{losses[rate]:.4f}'}"
        for rate in rates
    ]
    optimum = row["optimum"]
    if optimum is None:
        return [*cells, "–"]
    added = [
        f"{words} +{optimum[name]:.4f}"
        for words, name in (("half", "added_at_half"), ("twice", "added_at_double"))
        if optimum[name] is not None
    ]
    at_edge = [f"the {optimum['edge']} tried"] if optimum["edge"] else []
    return [*cells, ", ".join([f"{optimum['rate']:.2g}", *at_edge, *added])]


def _rates_table(search: Search, report: dict[str, Any]) -> Table:
    """Losses over the learning rate, a row a choice."""
    title = "final held-out loss over the learning rate, on the seeds that every rate has"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    rates = rates_of(report)
    for head in (*(axis.symbol for axis in search.axes), *(f"{rate:g}" for rate in rates)):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("optimum by a parabola")
    for row in report["learning_rates"]:
        table.add_row(*_place_words(search, row), *rate_cells(row, rates))
    table.caption = "* chosen"
    table.caption_justify = "left"
    return table


def _cell_words(cell: dict[str, Any]) -> Words:
    if cell["loss"] is None:
        return Words("diverged" if cell["num_runs"] else "–")
    mark = "*" if cell["is_best"] else "~" if cell["is_like_best"] else ""
    return Words(f"{mark}{cell['loss']:.4f}", style="bold" if mark == "*" else "")


def _cells(found: Found, recommendation: Recommendation | None) -> list[dict[str, Any]]:
    means = means_of(levelled(found.tuned.outcomes))
    texts = found.text or {}
    cells = []
    for choice in sorted({*(one.choice for one in found.outcomes), *texts}):
        loss, _ = means.get(choice, (None, 0))
        runs = [one for one in found.tuned.outcomes if one.choice == choice]
        every = [one for one in found.outcomes if one.choice == choice]
        tokens = next((run.data_tokens for run in every if run.data_tokens), None)
        hours = [run.gpu_hours for run in every if run.gpu_hours]
        rate = found.tuned.rates.get(choice)
        text = texts.get(choice)
        cells.append(
            {
                **_place(found.search, choice),
                "learning_rate": None if rate is None else rate.best.rate,
                "loss": loss,
                "num_runs": len(runs),
                "seeds": [run.seed for run in runs],
                "is_best": bool(recommendation and choice == recommendation.best),
                "is_like_best": bool(recommendation and choice in recommendation.alike),
                "data_tokens": tokens if text is None else text.data_tokens,
                "epochs": None if text is None else text.epochs,
                "repeats_text": None if text is None else text.repeats,
                "fits_tokens_available": None if found.limit is None else found.limit.holds(choice),
                "gpu_hours": sum(hours) if hours else None,
            }
        )
    return cells


def _recommended_and_why(search: Search, found: Recommendation | None) -> dict[str, Any]:
    if found is None:
        return {"recommendation": None, "fit": None, "noise": None}
    return {
        "recommendation": _recommended(search, found),
        "fit": _fit(found),
        "noise": _noise(found),
    }


def _recommended(search: Search, found: Recommendation) -> dict[str, Any]:
    nothing = dict.fromkeys(axis.name for axis in search.axes)
    return {
        **(nothing if found.choice is None else _place(search, found.choice)),
        "optimum": None if found.optimum is None else _optimum(search, found.optimum),
        "gain": _interval(found.gain),
        "best_cell": None if found.best is None else _place(search, found.best),
        "not_distinguishable": [_place(search, choice) for choice in found.alike],
        "flat": found.flat,
        "too_much_text": [_place(search, choice) for choice in found.too_much_text],
    }


def _optimum(search: Search, optimum: Optimum) -> dict[str, Any]:
    return {
        **{axis.name: _interval(axis.interval(optimum)) for axis in search.axes},
        "loss": _interval(optimum.loss),
        "at_edges": list(optimum.edges),
    }


def _fit(found: Recommendation) -> dict[str, Any] | None:
    return None if found.fit is None else {"coefficients": found.fit.named_coefficients()}


def _noise(found: Recommendation) -> dict[str, Any] | None:
    noise = found.noise
    return None if noise is None else {"sd": noise.sd, "dof": noise.dof, "source": noise.source}


def _halving(search: Search, halving: Halving) -> dict[str, Any]:
    best, chosen = halving.best_of_grid, halving.chosen
    not_run = halving.rungs[len(halving.losses) :]
    return {
        "rungs": [
            {
                "steps": rung.steps,
                "planned_cells": rung.num_choices,
                "cells": [{**_place(search, c), "loss": loss} for c, loss in losses.items()],
            }
            for rung, losses in zip(
                halving.rungs, (*_with_baselines(halving), *({} for _ in not_run)), strict=True
            )
        ],
        "chosen": None if chosen is None else _place(search, chosen),
        "cost_share": halving.cost_share,
        "best_of_grid": None if best is None else {**_place(search, best[0]), "loss": best[1]},
        "regret": halving.regret,
    }


def _with_baselines(halving: Halving) -> list[Mapping[Choice, float]]:
    """The losses of each rung, those of the baseline's rates first where it has several."""
    of_baseline = halving.of_baseline or tuple({} for _ in halving.losses)
    return [{**own, **losses} for own, losses in zip(of_baseline, halving.losses, strict=True)]


def _place(search: Search, choice: Choice) -> dict[str, Any]:
    place = {axis.name: axis.of(without_rate(choice)) for axis in search.axes}
    if isinstance(choice, AtRate):
        place["learning_rate"] = choice.learning_rate
    return place


def _interval(interval: Interval) -> dict[str, float | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _budget_notes(found: Found) -> list[str]:
    if found.budget_hours is None or found.spent_hours is None:
        return []
    said = f"The runs took {found.spent_hours:.3g} of {found.budget_hours:g} hours."
    if not found.left_out:
        return [said]
    return [f"{said} Not started, as they would go beyond: {', '.join(found.left_out)}."]


def _text_notes(found: Found) -> list[str]:
    repeating = [c for c, text in (found.text or {}).items() if text.repeats]
    if not repeating:
        return []
    said = "; ".join(f"{c} ({(found.text or {})[c].epochs or 0:.2f} times)" for c in repeating)
    return [f"These cells read some of their text more often than once: {said}."]


def _diverged_notes(noun: str, outcomes: Sequence[Outcome]) -> list[str]:
    diverged = [one for one in outcomes if not isfinite(one.loss)]
    if not diverged:
        return []
    said = "; ".join(f"{one.choice} with seed {one.seed}" for one in diverged)
    out = f" {noun.capitalize()}s with such a run are left out of the fit and of the choice."
    cells = any(not one.choice.is_baseline for one in diverged)
    return [f"Without a final loss: {said}.{out if cells else ''}"]


def _diverged_rates_notes(found: Found) -> list[str]:
    """Runs without a loss that are not compared, as another rate was chosen."""
    diverged = [
        f"{one.choice} at {one.learning_rate:g} with seed {one.seed}"
        for one in found.outcomes
        if not isfinite(one.loss) and one not in found.tuned.outcomes
    ]
    if not diverged:
        return []
    return [f"Without a final loss at rates that were not chosen: {'; '.join(diverged)}."]


def _halving_notes(halving: Halving) -> list[str]:
    cost = f"{100 * halving.cost_share:.0f} % of the whole grid's steps"
    if halving.chosen is None:
        done = len(halving.losses)
        return [f"Halving has done {done} of {len(halving.rungs)} rungs; all of them take {cost}."]
    said = f"Halving chose {halving.chosen} with {cost}."
    if halving.regret is None or halving.best_of_grid is None:
        return [f"{said} Its regret is not known: the whole grid has not been run."]
    best, loss = halving.best_of_grid
    if halving.chosen == best:
        return [f"{said} That is the whole grid's best, so its regret is 0."]
    return [
        f"{said} The whole grid's best is {best}, at {loss:.4f}: a regret of {halving.regret:.4f} "
        "nats."
    ]


def _halved_rates_notes(halving: Halving) -> list[str]:
    """By which runs rates were chosen, and which of them had nothing beyond."""
    if not halving.of_baseline:
        return []
    tried = [unit.learning_rate for unit in halving.of_baseline[0] if isinstance(unit, AtRate)]
    low, high = min(tried), max(tried)
    notes = [
        f"Learning rates ({len(tried)}, {low:g} to {high:g}) were halved too, the baseline's by "
        "themselves: those of the whole runs were chosen on shorter ones."
    ]
    for unit in (*better(halving.of_baseline[-1], 1), halving.chosen):
        if isinstance(unit, AtRate) and unit.learning_rate in (low, high):
            end, further = (
                ("lowest", "lower") if unit.learning_rate == low else ("highest", "higher")
            )
            notes.append(f"That of {unit.choice} is the {end} that was tried: add a {further} one.")
    return notes


def _symbols(search: Search) -> str:
    return " and ".join(axis.symbol for axis in search.axes)


def _html(search: Search, report: dict[str, Any], figures: Sequence[tuple[str, str, bytes]]) -> str:
    environment = Environment(
        loader=PackageLoader("tst_megatron.sweep", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        figures=[(title, base64.b64encode(png).decode()) for _, title, png in figures],
        axes=search.axes,
        place_words=lambda cell: _place_words(search, cell),
        rates=rates_of(report),
        rate_cells=rate_cells,
    )


def _place_words(search: Search, cell: dict[str, Any]) -> list[str]:
    """A cell's value on every axis; the baseline's is told on the first alone."""
    first, *others = [f"{cell[axis.name]:g}" for axis in search.axes]
    if search.choice([cell[axis.name] for axis in search.axes]).is_baseline:
        others = ["–"] * len(others)
    return [first, *others]
