"""The jobs of ``tst-megatron scaling``, from a table of runs to a law, its answers and its page."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_scaling_runs import ALPHA, BETA, FLOPS, METHOD, WORTH, A, B, E, loss_of, table

from tst_megatron.analysis.scaling.commands import design, fit, optimal, plot, predict
from tst_megatron.analysis.scaling.law_file import read_law
from tst_megatron.errors import UserError


def run(command: Any, *words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code: int = command.main(parser.parse_args([*map(str, words)]))
    return code


def figures(capsys: pytest.CaptureFixture[str], command: Any, *words: str | Path) -> dict[str, Any]:
    run(command, *words, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The law of runs without any scatter."""
    folder = tmp_path_factory.mktemp("exact")
    run(fit, table(folder / "runs.csv"), "--out", folder / "law.json", "--draws", "200")
    return folder / "law.json"


def test_a_law_is_found_and_kept(exact: Path) -> None:
    record = read_law(exact)
    law = record.law
    found = [law.E, law.A, law.alpha, law.B, law.beta, law.multiplier(1e6, 1e7, METHOD)]
    # Losses go through repr, so that nothing but the tolerance of the fit is between them.
    assert found == pytest.approx([E, A, ALPHA, B, BETA, WORTH], rel=1e-4)
    assert law.flops_per_position == pytest.approx(FLOPS)
    assert record.settings["FLOPs"] == "5.7 N D"
    assert len(record.runs) == 4 * 3 * 2 * 3
    assert record.laws.E.shape == (200,)


def test_what_a_run_ends_with(exact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, predict, exact, "--params", "1M", "--tokens", "2e7")["predictions"]
    baseline, bags = found
    assert baseline["loss"]["value"] == pytest.approx(loss_of(1e6, 2e7), rel=1e-6)
    assert bags["loss"]["value"] == pytest.approx(loss_of(1e6, 2e7, WORTH), rel=1e-6)
    assert (baseline["multiplier"], bags["multiplier"]["value"]) == (
        None,
        pytest.approx(WORTH, rel=1e-4),
    )
    assert baseline["outside"] == []
    (beyond,) = figures(
        capsys, predict, exact, "--params", "4M", "--tokens", "3e7", "--setting", METHOD
    )["predictions"]
    assert beyond["outside"] == ["size 1.93 times the largest", "length 1.05 times the largest"]


def test_the_best_run_for_a_budget_and_for_a_loss(
    exact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = 2e14
    baseline, bags = figures(capsys, optimal, exact, "--flops", str(budget))["best"]
    # Over every size on a fine grid, by the formula itself.
    n = np.geomspace(1e4, 1e8, 200_001)
    for found, worth in ((baseline, 1.0), (bags, WORTH)):
        losses = E + A * n**-ALPHA + B * (worth * budget / (FLOPS * n)) ** -BETA
        assert found["loss"]["value"] == pytest.approx(losses.min(), rel=1e-6)
        # A loss that is flat to 1e-8 at its lowest leaves the size to a hundredth.
        assert found["n"]["value"] == pytest.approx(n[losses.argmin()], rel=1e-2)
    # With one multiplier for all, its compute is worth as much as its positions.
    assert bags["ratio"]["value"] == pytest.approx(WORTH, rel=1e-3)
    (again,) = figures(
        capsys, optimal, exact, "--loss", str(baseline["loss"]["value"]), "--setting", "baseline"
    )["best"]
    assert again["flops"]["value"] == pytest.approx(budget, rel=1e-6)
    hours = budget / 3600 / 1e12
    (by_hours,) = figures(
        capsys, optimal, exact, "--gpu-hours", str(hours), "--tflops-per-gpu", "1",
        "--setting", "baseline",
    )["best"]  # fmt: skip
    assert by_hours["n"]["value"] == pytest.approx(baseline["n"]["value"], rel=1e-6)
    (served,) = figures(
        capsys, optimal, exact, "--loss", "3.0", "--served-tokens", "1B", "--setting", "baseline"
    )["best"]
    (trained,) = figures(capsys, optimal, exact, "--loss", "3.0", "--setting", "baseline")["best"]
    assert served["n"]["value"] < trained["n"]["value"]


def test_runs_of_one_seed_share_a_level_and_intervals_know_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = table(tmp_path / "runs.csv", level=0.012, noise=0.004)
    words = [runs, "--out", tmp_path / "law.json", "--draws", "400"]
    found = figures(capsys, fit, *words)
    by_name = {one["name"]: one["interval"] for one in found["numbers"]}
    multiplier = by_name[f"m, {METHOD}"]
    assert multiplier["low"] < WORTH < multiplier["high"]
    assert "mixed seeds" in found["settings"]["intervals"]
    pairs = figures(capsys, fit, *words, "--pairs")
    assert any("too narrow" in note for note in pairs["notes"])
    assert [one["choice"] for one in found["sensitivity"]][:4] == [
        "as fitted", "least squares", "Huber 1e-3 (Chinchilla's)", "least absolute deviations",
    ]  # fmt: skip


def test_what_tells_no_law_is_refused_and_marked_where_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = table(tmp_path / "few.csv", noise=0.004, sizes=(51_360, 156_000))
    with pytest.raises(UserError, match=r"2 sizes .* \(--force fits all the same"):
        run(fit, few, "--draws", "200")
    law = tmp_path / "law.json"
    run(fit, few, "--draws", "200", "--force", "--out", law)
    assert any("2 sizes" in refused for refused in read_law(law).refused)
    run(predict, law, "--params", "1e5", "--tokens", "1e7")
    assert "Forced: The runs have 2 sizes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((predict, "--params", "2e7", "--tokens", "1e8"), r"times the compute of the largest run"),
        ((predict, "--params", "1", "--tokens", "1e7"), r"N 1 is more than 10 times outside"),
        ((predict, "--params", "many", "--tokens", "1e7"), r"--params many is no number above 0"),
        ((predict, "--params", "1M", "--tokens", "1e7", "--setting", "x"), r'no setting "x"'),
        ((optimal, "--loss", "0.9"), r"--loss 0.9 is out of reach of baseline"),
        ((optimal, "--gpu-hours", "5"), r"--gpu-hours and --tflops-per-gpu go together"),
        ((optimal, "--flops", "1e14", "--served-tokens", "1e9"), r"give --loss in place of"),
    ],
)
def test_what_a_law_is_not_asked(exact: Path, words: tuple[Any, ...], said: str) -> None:
    command, *rest = words
    with pytest.raises(UserError, match=said):
        run(command, exact, *rest)


def test_text_that_is_there_and_how_often_it_is_read(
    exact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [optimal, exact, "--flops", "5e13", "--setting", "baseline", "--tokens-available"]
    (found,) = figures(capsys, *asked, "5M")["best"]
    assert found["epochs"] == pytest.approx(found["d"]["value"] / 5e6)
    assert found["epochs"] > 1
    with pytest.raises(UserError, match=r"reads the text [\d.]+ times, .* --allow-repeats"):
        run(*asked, "1M")
    figures(capsys, *asked, "1M", "--allow-repeats")
    # What a position of bags reads is in no column of the table.
    with pytest.raises(UserError, match=f"runs of {METHOD} do not all tell their data_tokens"):
        run(optimal, exact, "--flops", "5e13", "--tokens-available", "1e9", "--setting", METHOD)


def test_nothing_but_a_law_is_written_over(exact: Path, tmp_path: Path) -> None:
    runs = table(tmp_path / "runs.csv")
    before = runs.read_text()
    with pytest.raises(UserError, match="is there and is no law"):
        run(fit, runs, "--out", runs)
    assert runs.read_text() == before


def test_flops_in_another_unit_are_refused(tmp_path: Path) -> None:
    runs = table(tmp_path / "runs.csv")
    lines = runs.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    for row in cells[1:]:
        row[6] = str(float(row[6]) / 1e9)
    runs.write_text("\n".join(",".join(row) for row in cells) + "\n")
    with pytest.raises(UserError, match=r"FLOPs a parameter and position, .* in ones"):
        run(fit, runs)


def test_a_file_that_is_no_law(exact: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    for content, said in (
        ("{}", "is no law"),
        ("[", "is no law"),
        (exact.read_text().replace('"schema_version": 1', '"schema_version": 9'), "of schema 9"),
        (exact.read_text().replace('"runs": [', '"walks": ['), "is not whole"),
    ):
        other.write_text(content)
        with pytest.raises(UserError, match=said):
            read_law(other)
    with pytest.raises(UserError, match="cannot be read"):
        read_law(tmp_path / "none.json")


def test_a_page_and_pictures(exact: Path, tmp_path: Path) -> None:
    run(plot, exact, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "bags of 4 for 30 %" in page
    assert page.count("<svg") == 5
    assert (tmp_path / "report" / "law.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="is a file: give a folder"):
        run(plot, exact, "--out", exact)


def test_what_planned_runs_would_tell(exact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["--params", "51k,156k,525k", "--tokens", "2M,7M,29M", "--noise", "0.004"]
    one = figures(capsys, design, *cells, "--law", exact, "--multiplier", "2")
    four = figures(capsys, design, *cells, "--law", exact, "--multiplier", "2", "--seeds", "4")
    assert (one["runs"], four["runs"], one["rank"]) == (18, 72, 6)
    # Four times the runs, half the error: their scatter is independent.
    for name, error in one["standard_errors"].items():
        assert four["standard_errors"][name] == pytest.approx(error / 2, rel=1e-4)
    assert one["reach_of_intervals"] is None
    assert four["reach_of_intervals"] == pytest.approx(3.182, rel=1e-3)
    few = figures(capsys, design, "--params", "51k,156k", "--tokens", "2M,7M", "--noise", "0.01")
    assert few["standard_errors"]["alpha"] is None
    assert len(few["against"]) == 2
    with pytest.raises(UserError, match="--noise 0 is a run without scatter"):
        run(design, "--params", "1M", "--tokens", "1M", "--noise", "0")
