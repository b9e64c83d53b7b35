"""Scores of two sides: paired by item, between seeds, at equal FLOPs and at equal loss."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_ledger

from tst_megatron import cli
from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.output.as_json import as_json
from tst_megatron.analysis.compare.result import Findings, Prices, ScoreRow
from tst_megatron.runs.ledger_writer import append_evaluation
from tst_megatron.statistics.array import Array
from tst_megatron.statistics.f_test import student_quantile

LOSSES = {step: 3 + 30 / step for step in range(10, 101, 10)}
LOWER = {step: loss - 0.1 for step, loss in LOSSES.items()}
N = 200


def run(
    folder: Path,
    name: str,
    items: dict[int, Array],
    *,
    seed: int = 1,
    losses: dict[int, float] = LOSSES,
    stages: Any = None,
    keeps_items: bool = True,
    **kw: Any,
) -> Path:
    """A run with right and wrong answers at some steps."""
    path = made_ledger(folder, name, {"seed": seed}, losses=losses, stages=stages, **kw)
    for step, values in items.items():
        file = path.with_name(f"items-{step}.jsonl")
        lines = [
            {"task": "quiz", "id": at, "hash": f"item {at}", "metrics": {"acc": value}}
            for at, value in enumerate(values.tolist())
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        digest = sha256(file.read_bytes()).hexdigest()
        kept = {"items": file.name, "items_sha256": digest} if keeps_items else {}
        stderr = float(values.std(ddof=1)) / len(values) ** 0.5
        score = {"value": float(values.mean()), "stderr": stderr, "n": len(values), "chance": 0.25}
        told = {"quiz": {"metrics": {"acc": score | {"higher_is_better": True}}, **kept}}
        append_evaluation(path, step, told)
    return path


def compared(baseline: list[Path], candidate: list[Path]) -> Findings:
    return compare_paths(baseline, candidate, 0.95, False, Prices())


def row(findings: Findings, place: str) -> ScoreRow:
    (found,) = [one for one in findings.comparisons[0].scores if one.place == place]
    (only,) = found.rows
    return only


def answers(seed: int, share: float) -> Array:
    """Items are hard alike for everybody."""
    hardness = np.random.default_rng(0).random(N)
    own = np.random.default_rng(seed).normal(0, 0.05, N)
    return (hardness + own < share).astype(np.float64)


BAGS = ((4, 100),)


def test_one_run_a_side_is_paired_by_item(tmp_path: Path) -> None:
    theirs, ours = answers(1, 0.5), answers(2, 0.6)
    baseline = run(tmp_path, "baseline", {100: theirs})
    candidate = run(tmp_path, "tst", {100: ours}, losses=LOWER, stages=BAGS)
    found = row(compared([baseline], [candidate]), "equal_flops")
    apart = ours - theirs
    half = student_quantile(0.95, N - 1) * apart.std(ddof=1) / N**0.5
    assert found.difference.value == pytest.approx(apart.mean())
    assert found.difference.low == pytest.approx(apart.mean() - half)
    assert found.how == ("paired by item",)
    assert found.baseline.value == pytest.approx(theirs.mean())
    reach = student_quantile(0.95, N - 1) * theirs.std(ddof=1) / N**0.5
    assert found.baseline.high == pytest.approx(theirs.mean() + reach)
    assert found.chance == 0.25

    without = run(tmp_path, "alone", {100: ours}, stages=BAGS, losses=LOWER, keeps_items=False)
    unpaired = row(compared([baseline], [without]), "equal_flops")
    assert unpaired.how == ("not paired by item",)
    error = (theirs.var(ddof=1) / N + ours.var(ddof=1) / N) ** 0.5
    assert unpaired.difference.high == pytest.approx(apart.mean() + 1.966 * error, rel=1e-3)
    assert (unpaired.difference.high or 0) > 1.5 * (found.difference.high or 0) - apart.mean()


def test_with_seeds_the_interval_knows_of_both_and_pairs_them(tmp_path: Path) -> None:
    shifts = (0.0, 0.06, -0.05)
    sides: list[list[Path]] = []
    scores = []
    for side, gain, losses, bags in (("b", 0.0, LOSSES, None), ("t", 0.05, LOWER, BAGS)):
        items = [answers(10 * n + len(sides), 0.5 + gain + s) for n, s in enumerate(shifts)]
        scores.append(np.array(items))
        sides.append(
            [
                run(
                    tmp_path,
                    f"{side}{n}",
                    {100: one},
                    seed=n,
                    losses=_noisy(losses, n),
                    stages=bags,
                )
                for n, one in enumerate(items)
            ]
        )
    found = row(compared(*sides), "equal_flops")
    assert found.how == ("paired by item", "paired by seed")
    of_items = (scores[1] - scores[0]).mean(axis=0)
    of_seeds = (scores[1] - scores[0]).mean(axis=1)
    parts = [(of_items.var(ddof=1) / N, N - 1), (of_seeds.var(ddof=1) / 3, 2)]
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / known for part, known in parts)
    half = student_quantile(0.95, freedom) * total**0.5
    assert found.difference.value == pytest.approx(of_items.mean())
    assert found.difference.high == pytest.approx(of_items.mean() + half)
    # Of two seeds no pairs are made, and one run has the spread of the other side's.
    few = row(compared(sides[0][:2], sides[1][:1]), "equal_flops")
    assert few.how == ("paired by item",)
    spread = scores[0].mean(axis=1)[:2].var(ddof=1)
    of_items = scores[1][0] - scores[0][:2].mean(axis=0)
    total = of_items.var(ddof=1) / N + spread / 2 + spread
    assert few.difference.high is not None
    assert few.difference.high - of_items.mean() > 1.96 * total**0.5


def _noisy(losses: dict[int, float], seed: int) -> dict[int, float]:
    """Two runs never have the same losses."""
    return {step: loss + 0.001 * (seed + 1) / step for step, loss in losses.items()}


def test_at_equal_loss_the_lower_side_is_taken_where_it_got_there(tmp_path: Path) -> None:
    flat = {step: answers(3, 0.5) for step in (60, 80, 100)}
    rising = {60: answers(4, 0.40), 80: answers(4, 0.5), 100: answers(4, 0.7)}
    baseline = run(tmp_path, "baseline", flat)
    candidate = run(tmp_path, "tst", rising, losses=LOWER, stages=BAGS)
    findings = compared([baseline], [candidate])
    told = as_json(findings)
    (at_loss,) = [one for one in told["scores"] if one["at"] == "equal_loss"]
    assert at_loss["amount"] == pytest.approx(3.3, abs=0.01)
    # The candidate is at 3.3 at step 75: a quarter from step 80 back to step 60.
    expected = 0.25 * rising[60].mean() + 0.75 * rising[80].mean()
    assert at_loss["rows"][0]["candidate"]["value"] == pytest.approx(expected, abs=0.02)
    assert at_loss["rows"][0]["baseline"]["value"] == pytest.approx(flat[100].mean())
    assert at_loss["rows"][0]["paired_by_item"]
    at_end = row(findings, "equal_flops")
    assert at_end.candidate.value == pytest.approx(rising[100].mean())


def test_ends_of_unequal_flops_are_called_so_and_equal_ones_are_found(tmp_path: Path) -> None:
    longer = {step: 3 + 30 / step for step in range(10, 201, 10)}
    baseline = run(
        tmp_path,
        "baseline",
        {100: answers(1, 0.5), 200: answers(1, 0.6)},
        losses=longer,
        planned=200,
    )
    candidate = run(tmp_path, "tst", {100: answers(2, 0.5)}, losses=LOWER, stages=BAGS)
    findings = compared([baseline], [candidate])
    assert [one.place for one in findings.comparisons[0].scores][:2] == ["equal_flops", "ends"]
    assert row(findings, "equal_flops").baseline.value == pytest.approx(answers(1, 0.5).mean())
    assert row(findings, "ends").baseline.value == pytest.approx(answers(1, 0.6).mean())


def test_a_report_shows_them_in_text_json_csv_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = run(tmp_path, "baseline", {100: answers(1, 0.5)})
    candidate = run(tmp_path, "tst", {100: answers(1, 0.5)}, losses=LOWER, stages=BAGS)
    plain = made_ledger(tmp_path, "plain", losses=_noisy(LOSSES, 5))
    out = tmp_path / "report"
    words = ["compare", str(baseline), "--with", str(candidate), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["tst-megatron", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    text = capsys.readouterr().out
    assert "Scores at equal FLOPs" in text
    assert all(word in text for word in ("quiz", "acc ↑", "no difference shown", "paired by item"))
    page = (out / "report.html").read_text()
    assert "Scores at equal FLOPs" in page
    (of_row,) = json.loads((out / "report.json").read_text())["scores"][0]["rows"]
    assert of_row["no_difference_shown"]
    assert "scores_equal_flops,quiz acc difference,0.0" in (out / "comparisons.csv").read_text()
    # Of runs that were not evaluated nothing is said.
    assert as_json(compared([plain], [candidate]))["scores"] == []


def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    """Three seeds a side that differ, items that are drawn, no difference between the sides."""
    from tst_megatron.statistics.weighted_mean import Variance, interval_of

    rng = np.random.default_rng(7)
    held, draws, items, seeds = 0, 3000, 50, 3
    for _ in range(draws):
        # A side's own way with items, each run's own shift, and chance.
        of_items = rng.normal(0, 0.3, (2, 1, items))
        of_runs = rng.normal(0, 0.04, (2, seeds, 1))
        scores = of_items + of_runs + rng.normal(0, 0.2, (2, seeds, items))
        apart = scores[1] - scores[0]
        parts = [
            Variance(float(apart.mean(axis=0).var(ddof=1)) / items, items - 1),
            *(Variance(float(side.mean(axis=1).var(ddof=1)) / seeds, seeds - 1) for side in scores),
        ]
        held += interval_of(float(apart.mean()), parts, 0.95).holds(0)
    assert 0.94 < held / draws < 0.995
