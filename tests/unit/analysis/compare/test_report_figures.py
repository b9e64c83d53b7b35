"""The JSON, and the CSV and the terminal against it."""

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from made_findings import baseline, comparison, equal_loss, findings, superposed
from rich.console import Console

from tst_megatron.analysis.compare.output.as_csv import comparisons_csv, evaluations_csv
from tst_megatron.analysis.compare.output.as_json import as_json, json_text
from tst_megatron.analysis.compare.output.as_text import print_findings
from tst_megatron.analysis.compare.output.series_as_csv import saving_csv, steps_csv
from tst_megatron.analysis.compare.result import Findings, Prices
from tst_megatron.analysis.compare.tables import tables_of
from tst_megatron.statistics.interval import Interval

RATIOS = ("step_ratio", "flops_ratio", "wall_clock_ratio", "gpu_hours_ratio")


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def two_groups() -> Findings:
    ours, worse, theirs = superposed(), superposed("bags of 8 for 25 %", shift=0.1), baseline()
    inside = equal_loss(Interval(1.2, 1.1, 1.3), where="inside the stable phase", whole_runs=False)
    best = comparison(ours, theirs, equal_loss(Interval(1.8371, 1.62, 2.04)))
    best = replace(best, equal_loss_along=inside)
    extrapolated = equal_loss(Interval(1.5, 0.7, None), extrapolated=True, reached=False)
    other = comparison(worse, theirs, extrapolated)
    return Findings((theirs,), (ours, worse), (best, other), notes=("A note.",))


def printed(found: Findings, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_findings(console, found)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # It is a StringIO.
    return text


def test_the_keys_that_scripts_read() -> None:
    found = strict(json_text(two_groups()))
    assert found["name"] == "bags of 4 for 25 %"
    assert found["equal_loss"]["step_ratio"] == {"value": 1.8371, "low": 1.62, "high": 2.04}
    for name in ("loss", *RATIOS):
        assert found["equal_loss"][name].keys() == {"value", "low", "high"}
    assert found["equal_loss"]["reached"] is True
    assert found["equal_loss"]["extrapolated"] is False
    assert found["equal_loss"]["no_difference_shown"] == []
    assert found["equal_loss_along"]["where"] == "inside the stable phase"
    assert found["equal_flops"]["loss_difference"] == -0.1003
    assert (found["equal_flops"]["low"], found["equal_flops"]["high"]) == (-0.12, -0.08)
    assert found["equal_data"]["loss_difference"] == 0.0102
    assert found["equal_data"]["no_difference_shown"] is True
    assert found["forced"] is False
    assert found["reasons"] == []


def test_the_top_level_is_the_first_groups_and_every_group_has_the_same_keys() -> None:
    found = as_json(two_groups())
    assert [group["name"] for group in found["groups"]] == [
        "bags of 4 for 25 %",
        "bags of 8 for 25 %",
    ]
    assert {name: found[name] for name in found["groups"][0]} == found["groups"][0]
    assert found["groups"][1].keys() == found["groups"][0].keys()
    second = found["groups"][1]["equal_loss"]
    assert second["extrapolated"] is True
    assert second["step_ratio"] == {"value": 1.5, "low": 0.7, "high": None}
    assert second["no_difference_shown"] == list(RATIOS)


def test_numbers_that_json_cannot_hold_are_null() -> None:
    found = findings(Interval(float("inf"), 1.2, float("nan")))
    assert strict(json_text(found))["equal_loss"]["step_ratio"] == {
        "value": None,
        "low": 1.2,
        "high": None,
    }


def test_energy_and_cost_if_asked() -> None:
    found = as_json(replace(findings(), prices=Prices(per_gpu_hour=2.5, watts=700)))
    needed = found["equal_loss"]["needed"]
    for side in ("baseline", "candidate"):
        hours = needed[side]["gpu_hours"]
        for end in ("value", "low", "high"):
            assert needed[side]["cost"][end] == pytest.approx(2.5 * hours[end])
            assert needed[side]["energy_kwh"][end] == pytest.approx(0.7 * hours[end])
    text = printed(replace(findings(), prices=Prices(per_gpu_hour=2.5, watts=700)))
    assert "Energy, kWh" in text
    assert "Cost" in text
    assert "Cost" not in printed(findings())


def test_every_figure_in_the_csv_is_the_jsons() -> None:
    found = two_groups()
    groups = {group["name"]: group for group in as_json(found)["groups"]}
    rows = list(csv.DictReader(io.StringIO(comparisons_csv(found))))
    assert {row["section"] for row in rows} == {
        "equal_loss",
        "equal_loss_along",
        "equal_flops",
        "equal_data",
    }
    for row in rows:
        section = groups[row["candidate_group"]][row["section"]]
        wanted = section
        if row["section"].startswith("equal_loss"):
            side, _, amount = row["figure"].partition("_")
            needed = section["needed"].get(side, {})
            wanted = needed.get(amount) or section[row["figure"]]
            extrapolated = (
                section["extrapolated"] and side != "candidate" and row["figure"] != "loss"
            )
            assert row["extrapolated"] == str(extrapolated)
            assert row["where"] == section["where"]
        value = wanted["value"] if "value" in wanted else wanted["loss_difference"]
        ends = (value, wanted["low"], wanted["high"])
        assert [row[end] for end in ("value", "low", "high")] == [
            "" if end is None else str(end) for end in ends
        ]


def test_every_evaluation_is_in_the_csv() -> None:
    found = two_groups()
    rows = list(csv.DictReader(io.StringIO(evaluations_csv(found))))
    runs = [run for group in (*found.baseline, *found.candidate) for run in group.runs]
    assert len(rows) == sum(run.curve.steps.size for run in runs)
    last = rows[runs[0].curve.steps.size - 1]
    assert last["run"] == "base-0"
    assert float(last["loss"]) == runs[0].curve.losses[-1]
    assert float(last["gpu_hours"]) == runs[0].curve.gpu_hours[-1]


def test_the_savings_along_the_runs_are_in_the_csv() -> None:
    found = two_groups()
    rows = list(csv.DictReader(io.StringIO(saving_csv(found))))
    one = found.comparisons[1]
    of_one = [row for row in rows if row["candidate_group"] == one.candidate.name]
    for figure, by, at, values, highs in (
        ("step_ratio", "loss", one.saving.losses, one.saving.step_ratios, one.saving.highs),
        (
            "gpu_hours_ratio", "loss",
            one.saving.losses, one.saving.gpu_hours_ratios, one.saving.gpu_hours_highs,
        ),
        (
            "loss_difference", "flops",
            one.equal_flops.along, one.equal_flops.differences, one.equal_flops.highs,
        ),
    ):  # fmt: skip
        of_figure = [row for row in of_one if row["figure"] == figure]
        assert [float(row[by]) for row in of_figure] == at.tolist()
        assert [float(row["value"]) for row in of_figure] == values.tolist()
        assert [float(row["high"]) for row in of_figure] == highs.tolist()


def test_every_logged_step_is_in_the_csv() -> None:
    found = two_groups()
    rows = list(csv.DictReader(io.StringIO(steps_csv(found))))
    runs = [run for group in (*found.baseline, *found.candidate) for run in group.runs]
    assert len(rows) == sum(run.steps.steps.size for run in runs)
    last, series = rows[-1], runs[-1].steps
    assert (last["run"], last["loss_name"]) == (runs[-1].name, series.loss_names[-1])
    for name, values in (
        ("steps", series.steps),
        ("loss", series.losses),
        ("grad_norm", series.grad_norms),
        ("learning_rate", series.learning_rates),
        ("load_balancing_loss", series.extras["load_balancing_loss"]),
    ):
        assert float(last[name]) == values[-1]


def test_a_step_that_does_not_tell_has_an_empty_cell() -> None:
    found = findings()
    (run, *_) = found.candidate[0].runs
    steps = replace(run.steps, grad_norms=run.steps.grad_norms * float("nan"), extras={})
    found = replace(
        found, candidate=(replace(found.candidate[0], runs=(replace(run, steps=steps),)),)
    )
    rows = list(csv.DictReader(io.StringIO(steps_csv(found))))
    assert {row["grad_norm"] for row in rows if row["side"] == "candidate"} == {""}
    assert {row["load_balancing_loss"] for row in rows if row["side"] == "candidate"} == {""}


def test_the_terminal_shows_the_figures_in_80_columns() -> None:
    text = printed(two_groups())
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for shown in ("1.84×", "1.62 to 2.04", "−0.100", "−0.120 to −0.080", "+0.010", "Note: A note."):
        assert shown in words
    assert "inside the stable phase" in words
    assert "no difference shown" in text
    row = next(line for line in text.splitlines() if "bags of 8" in line)
    assert "1.53×" in row
    assert "no difference shown" in row
    rest = text[text.index(row) :]
    assert "extrapolated" in rest[: rest.index("Runs")]


def wide() -> Findings:
    """With remarks on every line, long intervals, and hours and FLOPs of many figures."""
    found = two_groups()
    one = found.comparisons[0]
    open_ended = Interval(111.5, 0.01, 1234.25)
    ratios = dict.fromkeys(RATIOS, open_ended)
    equal = replace(one.equal_loss, extrapolated=True, rough=True, **ratios)
    difference = Interval(-10.025, -12.080, 10.035)
    flops = replace(one.equal_flops, flops=2.184e13, at_end=True, loss_difference=difference)
    first = replace(one, equal_loss=equal, equal_flops=flops)
    return replace(found, comparisons=(first, *found.comparisons[1:]), clocks_compare=False)


@pytest.mark.parametrize("width", [80, 60, 30])
def test_nothing_of_a_table_is_cut(width: int) -> None:
    """Columns that had to be wider than the console lost their ends, and titles a letter."""
    found = wide()
    text = printed(found, width)
    assert max(map(len, text.splitlines())) <= width
    bare = "".join(text.split())
    for table in tables_of(found):
        assert "".join(table.title.split()) in bare
        # Line by line a row's cells stand beside each other; letter by letter all are there.
        wanted = Counter("".join("".join(row) for row in (table.columns, *table.rows)))
        assert not Counter({c: n for c, n in wanted.items() if c not in " ,\u00a0"}) - Counter(bare)


def test_remarks_stay_whole_in_80_columns_however_wide_the_figures() -> None:
    lines = printed(wide()).splitlines()
    shown = [line for line in lines if "no difference" in line]
    assert len([line for line in shown if line.endswith("no difference shown")]) >= 5
    assert any("10.035" in line for line in lines)


def test_a_name_is_not_markup() -> None:
    ours, theirs = superposed("[red]bags[/red]"), baseline()
    one = comparison(ours, theirs, equal_loss(Interval(1.5, 1.2, 1.8)))
    assert "[red]bags[/red]" in printed(Findings((theirs,), (ours,), (one,)))


def test_a_side_that_is_missing_leaves_the_runs() -> None:
    found = Findings((), (superposed(),), ())
    assert as_json(found)["groups"] == []
    final = found.candidate[0].runs[0].curve.losses[-1]
    assert f"{final:.3f} ± 0.004" in printed(found)
    assert comparisons_csv(found).count("\n") == 1


def test_hours_of_other_hardware_and_a_forced_comparison_are_marked_everywhere() -> None:
    found = replace(findings(), clocks_compare=False, reasons=("A differs.",))
    assert as_json(found)["clocks_compare"] is False
    assert as_json(findings())["clocks_compare"] is True
    assert printed(found).count("other hardware") == 2
    assert "other hardware" not in printed(findings())
    rows = list(csv.DictReader(io.StringIO(comparisons_csv(found))))
    assert {(row["clocks_compare"], row["forced"]) for row in rows} == {("False", "True")}


def test_which_loss_it_is_at_is_told() -> None:
    for level, words in (
        ("candidate_final", "the candidate's final loss"),
        ("baseline_final", "the baseline's final loss"),
        ("candidate_before_decay", "the candidate's loss before its decay"),
    ):
        found = findings(level=level)
        assert as_json(found)["equal_loss"]["level"] == level
        assert words in " ".join(printed(found).split())
