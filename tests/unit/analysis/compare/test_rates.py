"""Sweeps of the learning rate: best against best, chosen on some seeds and confirmed on others."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_run

from tst_megatron.analysis.compare.charts.rates import rates_chart
from tst_megatron.analysis.compare.compare import compare_so_far
from tst_megatron.analysis.compare.output.as_csv import comparisons_csv, rates_csv
from tst_megatron.analysis.compare.output.as_json import as_json
from tst_megatron.analysis.compare.output.folder import write_folder
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.analysis.compare.sentences import first_sentences, notes
from tst_megatron.analysis.compare.tables import tables_of
from tst_megatron.runs.run import RecordedRun

Losses = Mapping[float, Mapping[int, float]]
"""What runs end with, by rate and seed."""

ONE_SEED: Losses = {2e-3: {4: 1.70}, 1e-3: {4: 1.62}, 5e-4: {4: 1.58}, 2.5e-4: {4: 1.63}}
# The rate that seed 4 chooses is not the best of what the others came to.
CHOSEN: Losses = {**ONE_SEED, 5e-4: {4: 1.58, 1: 1.60, 2: 1.61, 3: 1.59}, 1e-3: {4: 1.62, 9: 1.0}}
BAGS: Losses = {2e-3: {1: 1.48, 2: 1.47, 3: 1.49}}


@pytest.fixture
def side(tmp_path: Path) -> Any:
    """Runs of a side; no two folders of one name."""
    made: list[RecordedRun] = []

    def runs(losses: Losses, s: int = 1, end: int = 100, **flags: Any) -> list[RecordedRun]:
        return [
            one_run(rate, seed, loss, s, end, flags)
            for rate, of in losses.items()
            for seed, loss in of.items()
        ]

    def one_run(
        rate: float, seed: int, loss: float, s: int, end: int, flags: Mapping[str, Any]
    ) -> RecordedRun:
        steps = range(end // 20, end + 1, end // 20)
        curve = {step: loss + 3 * (step**-0.5 - end**-0.5) for step in steps}
        told = {"lr_decay_style": "constant", "num_layers": 2, "lr": rate, **flags}
        made.append(
            made_run(
                tmp_path, f"run-{len(made)}", {"seed": seed}, losses=curve, flags=told,
                stages=None if s == 1 else [(s, end)], planned=end,
            )
        )  # fmt: skip
        return made[-1]

    return runs


def found(theirs: Sequence[RecordedRun], ours: Sequence[RecordedRun]) -> Findings:
    return compare_so_far(theirs, ours, 0.95)


def seeds(runs: Sequence[RecordedRun]) -> list[Any]:
    return [run.facts.seed for run in runs]


def told(findings: Findings) -> str:
    return " ".join(notes(findings))


def test_the_best_rate_of_a_side_is_compared_on_the_seeds_that_did_not_choose(side: Any):
    one = found(side(CHOSEN), side(BAGS, s=4))
    (comparison,) = one.comparisons
    (baseline,) = comparison.baseline
    assert (baseline.rate, seeds(baseline.runs)) == (5e-4, [1, 2, 3])
    assert comparison.equal_flops.loss_difference.value == pytest.approx(1.48 - 1.60, abs=1e-3)
    assert "runs of the same seed are compared as pairs" in comparison.uncertainty
    assert (
        "0.0005, is the best of 4 tried (0.00025 to 0.002) on seed 4; its figures are of"
        in told(one)
    )
    assert "tuned for the baseline alone" in told(one)
    # The rest is listed, each run once.
    assert sorted(id(run) for _, _, run in one.runs()) == sorted(
        {id(run) for _, _, run in one.runs()}
    )
    assert len(list(one.runs())) == 8 + 3


def test_every_rate_with_the_same_seeds_is_split(side: Any):
    both = {1e-3: {1: 1.60, 2: 1.58, 3: 1.57}, 5e-4: {1: 1.61, 2: 1.50, 3: 1.50}}
    (comparison,) = found(side(both), side(both, s=4)).comparisons
    for group in (*comparison.baseline, comparison.candidate):
        assert (group.rate, seeds(group.runs)) == (1e-3, [2, 3])
    assert not comparison.unconfirmed
    assert not any("err in" in note or "Besides" in note for note in comparison.notes)


def test_with_one_seed_nothing_is_claimed(side: Any):
    one = found(side(ONE_SEED), side({2e-3: {4: 1.2}, 1e-3: {4: 1.3}}, s=4))
    (comparison,) = one.comparisons
    assert comparison.equal_flops.loss_difference.value == pytest.approx(1.2 - 1.58, abs=1e-3)
    said = first_sentences(one)
    assert "No saving is claimed" in said or "did not get to" in said
    assert (
        "At equal FLOPs nothing is claimed, as the learning rate of the baseline and the candidate "
        "was chosen on the runs that the figure is of." in said
    )
    assert "run 0.0005 with another seed to confirm it" in told(one)
    assert "is the highest that was tried: a higher one may be better" in told(one)
    figures = as_json(one)
    assert figures["learning_rates"]["unconfirmed"]
    assert figures["equal_loss"]["rate_unconfirmed"]
    rows = csv.DictReader(io.StringIO(comparisons_csv(one)))
    assert {row["rate_unconfirmed"] for row in rows} == {"True"}
    assert any("rate not confirmed" in cell for row in tables_of(one)[0].rows for cell in row)


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        (2e-3, 2e-3, "Both sides ran at one learning rate, 0.002, and no other was tried here"),
        (1e-3, 2e-3, "one learning rate each (0.001 the baseline, 0.002 the candidate)"),
    ],
)
def test_one_rate_a_side_is_said_to_be_untuned(side: Any, theirs: float, ours: float, says: str):
    one = found(side({theirs: {1: 1.6}}), side({ours: {1: 1.5}}, s=4))
    assert says in told(one)
    assert not one.comparisons[0].unconfirmed
    assert as_json(one)["learning_rates"]["baseline"][0]["tried"] == []
    assert rates_chart(one) is None
    assert rates_csv(one) == ""


def test_a_candidate_tuned_alone_errs_in_its_favour(side: Any):
    one = found(side(BAGS), side(CHOSEN, s=4))
    assert "err in the candidate's favour" in told(one)


def test_each_length_has_its_best_rate_in_one_baseline(side: Any):
    long: Losses = {1e-3: {4: 1.55}, 5e-4: {4: 1.5}, 2.5e-4: {4: 1.45, 1: 1.46}}
    longest: Losses = {5e-4: {1: 1.40}}
    theirs = side(CHOSEN) + side(long, end=200) + side(longest, end=400)
    one = found(theirs, side(BAGS, s=4))
    (comparison,) = one.comparisons
    rates = [(group.num_steps, group.rate) for group in comparison.baseline]
    assert rates == [(100, 5e-4), (200, 2.5e-4), (400, 5e-4)]
    assert comparison.equal_loss.whole_runs
    assert "At 400 steps the baseline ran at one learning rate" in told(one)


def test_a_length_of_one_rate_takes_that_of_the_others(side: Any):
    # At 100 steps, where the candidate is, 1e-3 alone was run; at 200 it was not the best.
    long: Losses = {1e-3: {1: 1.55}, 5e-4: {1: 1.5, 2: 1.5}}
    other = side({2e-3: {1: 1.3}}, end=400)
    one = found(side({1e-3: {1: 1.6}}) + side(long, end=200) + other, side(BAGS, s=4))
    (comparison,) = one.comparisons
    rates = [(group.num_steps, group.rate) for group in comparison.baseline]
    assert rates == [(100, 1e-3), (200, 1e-3)]
    listed = [id(run) for _, _, run in one.runs()]
    assert len(listed) == len(set(listed)) == 5 + 3


def test_the_lowest_rate_follows_or_parts(side: Any):
    def baselines(lowest: Mapping[float, float]) -> int:
        runs = [
            run
            for rate, min_lr in lowest.items()
            for run in side({rate: {1: 1.6, 2: 1.6}}, min_lr=min_lr)
        ]
        sweep = found(runs, side(BAGS, s=4)).comparisons[0].baseline[0].sweep
        return 1 if sweep is None else len(sweep.groups)

    assert baselines({1e-3: 1e-4, 2e-3: 2e-4}) == 2
    assert baselines({1e-3: 0.0, 2e-3: 0.0}) == 2
    assert baselines({1e-3: 1e-4, 2e-3: 1e-5}) == 1


def test_a_rate_that_diverged_was_tried_and_one_under_way_was_not(side: Any, tmp_path: Path):
    bad = made_run(
        tmp_path, "bad", {"seed": 4}, losses={50: 3.0, 100: None},
        flags={"lr_decay_style": "constant", "num_layers": 2, "lr": 4e-3},
    )  # fmt: skip
    begun = made_run(
        tmp_path, "begun", {"seed": 4}, losses={50: 1.0},
        flags={"lr_decay_style": "constant", "num_layers": 2, "lr": 8e-3},
    )  # fmt: skip
    one = found([*side(CHOSEN), bad, begun], side(BAGS, s=4))
    (baseline,) = one.comparisons[0].baseline
    assert baseline.sweep is not None
    assert baseline.sweep.rates[-1] == 4e-3
    assert np.isnan(baseline.sweep.losses[-1])
    (table,) = (table for table in tables_of(one) if "over the learning rate" in table.title)
    assert [row[-1] for row in table.rows if row[1] == "0.004"] == ["diverged"]


def test_a_report_shows_the_losses_over_the_rate(side: Any, tmp_path: Path):
    one = found(side(CHOSEN), side(BAGS, s=4))
    (table,) = (table for table in tables_of(one) if "over the learning rate" in table.title)
    assert [row[1:3] for row in table.rows[:4]] == [
        ("0.00025", "1.630"), ("0.0005", "1.580"), ("0.001", "1.620"), ("0.002", "1.700")
    ]  # fmt: skip
    assert table.rows[1][-1] == "chosen on seed 4"
    assert table.rows[4][1:] == ("0.0005", "1.600", "1, 2 and 3", "compared")
    # By the normal equations of four points a factor of two apart, the best one second.
    ways = np.log(2) * np.arange(-1, 3)
    bend, slope, _ = np.polyfit(ways, [1.63, 1.58, 1.62, 1.70], 2)
    (rates,) = as_json(one)["learning_rates"]["baseline"]
    assert rates["optimum"]["rate"] == pytest.approx(5e-4 * np.exp(-slope / 2 / bend))
    assert rates["optimum"]["added_at_half"] == pytest.approx(bend * np.log(2) ** 2)
    assert (rates["chosen_on"], rates["confirmed_on"], rates["edge"]) == ([4], [1, 2, 3], None)
    chart = rates_chart(one)
    assert chart is not None
    assert chart.x_ticks == (2.5e-4, 5e-4, 1e-3, 2e-3)
    assert [dot.y for dot in chart.dots] == [pytest.approx(1.6)]
    write_folder(tmp_path / "out", one)
    assert {"rates.csv", "rates.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    write_folder(tmp_path / "out", found(side(BAGS), side(BAGS, s=4)))
    assert not (tmp_path / "out" / "rates.csv").exists()
    assert not (tmp_path / "out" / "rates.png").exists()
