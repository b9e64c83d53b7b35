"""The report of a comparison: ``report.json``, ``report.html`` and ``loss.png``.

The one idea: one dictionary holds every figure; the page and the terminal show it and compute
nothing. Whatever part of the two runs is there makes a report, which says what is missing.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from tst_megatron.comparison.align import (
    Crossing,
    Curve,
    EqualFlops,
    crossing,
    equal_flops,
    equal_loss,
    summarise,
)
from tst_megatron.comparison.phases import phase_name
from tst_megatron.comparison.plots import draw_loss, loss_svgs
from tst_megatron.comparison.settings import Settings, compare_settings
from tst_megatron.comparison.wording import WALL_CLOCK_NOTE, flops, headline, table_rows
from tst_megatron.files import write_whole
from tst_megatron.strict_json import finite
from tst_megatron.training.ledger import Ledger

__all__ = ["build_report", "render_text", "table_rows", "write_report"]

_PARTIAL = "This report is partial."


def write_report(
    out: Path, baseline: Ledger | None, tst: Ledger | None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the three files of a report, each whole or not at all.

    Args:
        out: directory, made if it is not there.
        baseline: the ordinary run; None if it is missing.
        tst: the run with superposition; None if it is missing.
        notes: sentences to show in the report.

    Returns:
        What report.json holds; see `build_report`.

    Raises:
        OSError: a file cannot be written.
    """
    report = build_report(baseline, tst, notes)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
    write_whole(out / "report.json", f"{text}\n")
    draw_loss(baseline, tst, out / "loss.png")
    write_whole(out / "report.html", _html(report, baseline, tst))
    return report


def build_report(
    baseline: Ledger | None, tst: Ledger | None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Every figure of a comparison, ready for strict JSON: what is not a number is None.

    Keys: ``headline``; ``baseline`` and ``tst``, a `RunSummary` each or None; ``equal_flops``;
    ``equal_loss``; ``crossings``, where each run got to both final losses; ``notes``; ``partial``.
    """
    theirs, ours = Curve.of(baseline), Curve.of(tst)
    flops_point = equal_flops(theirs, ours)
    missing = [*_missing("baseline", baseline), *_missing("TST run", tst)]
    report = {
        "baseline": None if baseline is None else asdict(summarise(baseline)),
        "tst": None if tst is None else asdict(summarise(tst)),
        "equal_flops": {"loss_difference": flops_point.loss_difference},
        "equal_loss": asdict(equal_loss(theirs, ours)),
        "crossings": {
            "tst_final_loss": _crossings(theirs, ours, ours.final_loss),
            "baseline_final_loss": _crossings(theirs, ours, theirs.final_loss),
        },
        "notes": [
            *([f"{_PARTIAL} {' '.join(missing)}"] if missing else []),
            *notes,
            *_flops_note(flops_point),
            *_settings_note(compare_settings(baseline, tst)),
            WALL_CLOCK_NOTE,
        ],
        "partial": bool(missing),
    }
    whole: dict[str, Any] = finite({"headline": headline(report), **report})
    return whole


def render_text(report: dict[str, Any]) -> Table:
    """The table of a report for a terminal, the result above it and the notes below."""
    table = Table(
        title=Text(report["headline"]),
        caption=Text("\n".join(report["notes"])),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("baseline", justify="right")
    table.add_column("TST", justify="right")
    for row in table_rows(report):
        table.add_row(*map(Text, row))
    return table


def _html(report: dict[str, Any], baseline: Ledger | None, tst: Ledger | None) -> str:
    environment = Environment(
        loader=PackageLoader("tst_megatron.comparison", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        rows=table_rows(report),
        charts=[Markup(svg) for svg in loss_svgs(baseline, tst)],
        settings=compare_settings(baseline, tst),
        runs=[("baseline", report["baseline"]), ("TST", report["tst"])],
        seeds=_seeds(baseline, tst),
        phase_name=phase_name,
    )


def _crossings(baseline: Curve, tst: Curve, loss: float | None) -> dict[str, Any]:
    """Where both runs got to a loss."""
    return {
        "loss": loss,
        "baseline": _point(crossing(baseline, loss)),
        "tst": _point(crossing(tst, loss)),
    }


def _point(found: Crossing | None) -> dict[str, float] | None:
    return None if found is None else found._asdict()


def _missing(name: str, ledger: Ledger | None) -> list[str]:
    """What of a run is not there, a sentence each; nothing for a whole run."""
    if ledger is None:
        return [f"There is no ledger of the {name}."]
    done = summarise(ledger).steps
    planned = ledger.header.get("flags", {}).get("train_iters")
    sentences = []
    if planned and done < planned:
        sentences.append(f"The {name} ended at step {done:,} of {planned:,}.")
    if not ledger.validations:
        sentences.append(f"The {name} has no validation.")
    elif Curve.of(ledger).final_loss is None:
        sentences.append(f"The {name}'s last held-out loss is not a number.")
    elif (validated := ledger.validations[-1]["step"]) < done:
        sentences.append(f"The {name}'s final held-out loss is that of step {validated:,}.")
    return sentences


def _flops_note(point: EqualFlops) -> list[str]:
    if point.flops is None or point.at_end:
        return []
    return [
        "The runs have their last validations at unequal FLOPs: their losses are compared at "
        f"{flops(point.flops)} FLOPs, the largest count with a held-out loss of both, on a "
        "straight line between the validations of the run that went further."
    ]


def _settings_note(settings: Settings) -> list[str]:
    if not settings.beyond_superposition:
        return []
    names = ", ".join(settings.beyond_superposition)
    return [f"The runs differ in more than superposition: {names}."]


def _seeds(baseline: Ledger | None, tst: Ledger | None) -> str:
    """The seed, or both where they differ."""
    seeds = {
        name: ledger.header.get("seed", "unknown")
        for name, ledger in (("baseline", baseline), ("TST", tst))
        if ledger is not None
    }
    if len(set(seeds.values())) == 1:
        return str(next(iter(seeds.values())))
    return ", ".join(f"{name} {seed}" for name, seed in seeds.items()) or "unknown"
