"""The report of a sweep: ``report.json``, ``report.html``, ``cells.csv`` and the figures.

The one idea: one dictionary holds every figure; the page and the terminal show it and compute
nothing. Whatever part of the grid has been run makes a report, which says what is missing.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text as Words

from tst_megatron.files import write_whole
from tst_megatron.statistics.interval import Interval
from tst_megatron.strict_json import finite
from tst_megatron.sweep.figure import draw_search, draw_sweep
from tst_megatron.sweep.fit import Fit, Optimum
from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.halving import Search
from tst_megatron.sweep.noise import levelled, means_of, usable
from tst_megatron.sweep.recommendation import Limit, Recommendation, recommend
from tst_megatron.sweep.results import Result, as_csv
from tst_megatron.sweep.text import Text

_PARTIAL = "This report is partial"


@dataclass(frozen=True)
class Found:
    """Everything a sweep has found so far.

    Attributes:
        name: of the recipe, or of the table of results.
        num_steps: of a whole run; None where a table does not say.
        results: of whole runs.
        wanted: runs of the whole grid, baselines among them.
        left_out: names of cells that the budget did not pay for.
        text: what cells read, where the corpus was looked at.
        limit: the text there is, if the user says so.
        budget_hours: if there is a budget.
        spent_hours: GPU hours of all runs; core hours on a CPU.
        search: halving, if it was asked for.
        failed: names of runs that broke off, and why.
    """

    name: str
    num_steps: int | None
    results: tuple[Result, ...]
    wanted: int
    left_out: tuple[str, ...] = ()
    text: dict[Config, Text] | None = None
    limit: Limit | None = None
    budget_hours: float | None = None
    spent_hours: float | None = None
    search: Search | None = None
    failed: Mapping[str, str] = field(default_factory=dict)


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
    if any(not result.config.is_baseline for result in usable(found.results)):
        asked = [config for config in found.text or () if not config.is_baseline]
        recommendation = recommend(found.results, found.limit, asked)
    report = build_report(found, recommendation)
    write_whole(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_whole(out / "cells.csv", as_csv(found.results))
    figures = []
    if recommendation is not None:
        png = draw_sweep(found.results, recommendation)
        figures.append(("sweep.png", "Final loss over s and r", png))
    if found.search is not None and found.search.losses:
        figures.append(("halving.png", "Successive halving", draw_search(found.search)))
    for name, _, png in figures:
        write_whole(out / name, png)
    # Of a report that this one takes the place of.
    for name in {"sweep.png", "halving.png"} - {name for name, _, _ in figures}:
        (out / name).unlink(missing_ok=True)
    write_whole(out / "report.html", _html(report, figures))
    return report


def build_report(found: Found, recommendation: Recommendation | None) -> dict[str, Any]:
    """Every figure of a sweep, ready for strict JSON: what is not a number is None.

    Keys: ``headline``; ``notes``; ``name``; ``steps``; ``cells``, one a pair of s and r, the
    baseline first; ``recommendation``; ``fit``; ``noise``; ``halving``; ``budget``; ``partial``.
    """
    num_done = sum(isfinite(result.loss) for result in found.results)
    partial = bool(found.failed) or (num_done < found.wanted and found.search is None)
    if recommendation is None:
        ran = any(not result.config.is_baseline for result in found.results)
        reason = "every pair has a run that diverged" if ran else "no superposed run is done"
        headline, notes = f"There is nothing to choose from yet: {reason}.", []
    else:
        headline, *notes = recommendation.sentences
    report = {
        "headline": headline,
        "notes": [
            *([f"{_PARTIAL}: {num_done} of {found.wanted} runs are done."] if partial else []),
            *_budget_notes(found),
            *notes,
            *_text_notes(found),
            *_diverged_notes(found.results),
            *(f"The {name} run failed: {reason}." for name, reason in found.failed.items()),
            *(_search_notes(found.search) if found.search else ()),
        ],
        "name": found.name,
        "steps": found.num_steps,
        "cells": _cells(found, recommendation),
        "recommendation": None if recommendation is None else _recommended(recommendation),
        "fit": None if recommendation is None else _fit(recommendation.fit),
        "noise": None if recommendation is None else _noise(recommendation),
        "halving": None if found.search is None else _search(found.search),
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


def print_report(report: dict[str, Any], console: Console) -> None:
    """The result, the grid of losses and what to know of them."""
    console.print(Words(report["headline"], style="bold"))
    if report["cells"]:
        console.print(_grid_table(report))
    for note in report["notes"]:
        console.print(Words(note))


def _grid_table(report: dict[str, Any]) -> Table:
    """Mean losses, a row a share and a column a bag size."""
    cells = {(cell["bag_size"], cell["step_ratio"]): cell for cell in report["cells"]}
    table = Table(box=SIMPLE_HEAD, title="final held-out loss, nats a token", title_justify="left")
    table.add_column("r \\ s", justify="right", no_wrap=True)
    sizes, ratios = _axes(report)
    for size in sizes:
        table.add_column(f"{size}", justify="right", no_wrap=True)
    for ratio in ratios:
        row = [_cell_words(cells.get((size, ratio))) for size in sizes]
        table.add_row(f"{ratio:g}", *row)
    table.caption = "* the lowest, ~ not to be told from it"
    table.caption_justify = "left"
    return table


def _axes(report: dict[str, Any]) -> tuple[list[int], list[float]]:
    cells = report["cells"]
    return (
        sorted({cell["bag_size"] for cell in cells}),
        sorted({cell["step_ratio"] for cell in cells}),
    )


def _cell_words(cell: dict[str, Any] | None) -> Words:
    if cell is None:
        return Words("")
    if cell["loss"] is None:
        return Words("diverged" if cell["num_runs"] else "–")
    mark = "*" if cell["is_best"] else "~" if cell["is_like_best"] else ""
    return Words(f"{mark}{cell['loss']:.4f}", style="bold" if mark == "*" else "")


def _cells(found: Found, recommendation: Recommendation | None) -> list[dict[str, Any]]:
    means = means_of(levelled(found.results))
    texts = found.text or {}
    cells = []
    for config in sorted({*(r.config for r in found.results), *texts}):
        loss, _ = means.get(config, (None, 0))
        of_config = [r for r in found.results if r.config == config]
        tokens = next((r.data_tokens for r in of_config if r.data_tokens), None)
        hours = [r.gpu_hours for r in of_config if r.gpu_hours]
        text = texts.get(config)
        cells.append(
            {
                "bag_size": config.bag_size,
                "step_ratio": config.step_ratio,
                "loss": loss,
                "num_runs": len(of_config),
                "seeds": [r.seed for r in of_config],
                "is_best": bool(recommendation and config == recommendation.best),
                "is_like_best": bool(recommendation and config in recommendation.alike),
                "data_tokens": tokens if text is None else text.data_tokens,
                "epochs": None if text is None else text.epochs,
                "repeats_text": None if text is None else text.repeats,
                "fits_tokens_available": None if found.limit is None else found.limit.holds(config),
                "gpu_hours": sum(hours) if hours else None,
            }
        )
    return cells


def _recommended(found: Recommendation) -> dict[str, Any]:
    config, optimum = found.config, found.optimum
    return {
        "bag_size": None if config is None else config.bag_size,
        "step_ratio": None if config is None else config.step_ratio,
        "optimum": None if optimum is None else _optimum(optimum),
        "gain": _interval(found.gain),
        "best_cell": None if found.best is None else _pair(found.best),
        "not_distinguishable": [_pair(config) for config in found.alike],
        "flat": found.flat,
        "too_much_text": [_pair(config) for config in found.too_much_text],
    }


def _optimum(optimum: Optimum) -> dict[str, Any]:
    return {
        "bag_size": _interval(optimum.bag_size),
        "step_ratio": _interval(optimum.step_ratio),
        "loss": _interval(optimum.loss),
        "at_edges": list(optimum.edges),
    }


def _fit(fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    names = ("1", "log s", "(log s)^2", "r", "r^2", "r log s")
    return {"coefficients": dict(zip(names, map(float, fit.coefficients), strict=True))}


def _noise(found: Recommendation) -> dict[str, Any] | None:
    noise = found.noise
    return None if noise is None else {"sd": noise.sd, "dof": noise.dof, "source": noise.source}


def _search(search: Search) -> dict[str, Any]:
    best = search.best_of_grid
    return {
        "rungs": [
            {
                "steps": rung.steps,
                "planned_cells": rung.num_configs,
                "cells": [{**_pair(c), "loss": loss} for c, loss in losses.items()],
            }
            for rung, losses in zip(
                search.rungs,
                (*search.losses, *({} for _ in search.rungs[len(search.losses) :])),
                strict=True,
            )
        ],
        "chosen": None if search.chosen is None else _pair(search.chosen),
        "cost_share": search.cost_share,
        "best_of_grid": None if best is None else {**_pair(best[0]), "loss": best[1]},
        "regret": search.regret,
    }


def _pair(config: Config) -> dict[str, Any]:
    return {"bag_size": config.bag_size, "step_ratio": config.step_ratio}


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


def _diverged_notes(results: Sequence[Result]) -> list[str]:
    diverged = [r for r in results if not isfinite(r.loss)]
    if not diverged:
        return []
    said = "; ".join(f"{r.config} with seed {r.seed}" for r in diverged)
    cells = any(not r.config.is_baseline for r in diverged)
    out = " Pairs with such a run are left out of the fit and of the choice." if cells else ""
    return [f"Without a final loss: {said}.{out}"]


def _search_notes(search: Search) -> list[str]:
    cost = f"{100 * search.cost_share:.0f} % of the whole grid's steps"
    if search.chosen is None:
        done = len(search.losses)
        return [f"Halving has done {done} of {len(search.rungs)} rungs; all of them take {cost}."]
    said = f"Halving chose {search.chosen} with {cost}."
    if search.regret is None or search.best_of_grid is None:
        return [f"{said} Its regret is not known: the whole grid has not been run."]
    best, loss = search.best_of_grid
    if search.chosen == best:
        return [f"{said} That is the whole grid's best, so its regret is 0."]
    return [
        f"{said} The whole grid's best is {best}, at {loss:.4f}: a regret of {search.regret:.4f} "
        "nats."
    ]


def _html(report: dict[str, Any], figures: Sequence[tuple[str, str, bytes]]) -> str:
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
        is_baseline=lambda cell: cell["bag_size"] == BASELINE.bag_size,
    )
