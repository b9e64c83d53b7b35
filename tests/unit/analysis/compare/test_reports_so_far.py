"""The JSON of two runs of which whatever is there is told, as the demo writes it."""

import json
from pathlib import Path
from typing import Any

import pytest
from ledgers import write_ledger

from tst_megatron.analysis.compare.compare import compare_so_far
from tst_megatron.analysis.compare.output.as_json import text_so_far
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.run import run_of_ledger

SIDES = ("baseline", "candidate")
FALLING: dict[int, float | None] = {20: 5.0, 40: 4.5, 60: 4.0, 80: 3.5, 100: 3.0}


def told(baseline: Ledger | None, candidate: Ledger | None) -> dict[str, Any]:
    """The file's content, which has to be strict JSON."""
    sides = (
        [] if ledger is None else [run_of_ledger(ledger, name)]
        for name, ledger in (("base", baseline), ("ours", candidate))
    )
    text = text_so_far(compare_so_far(*sides, 0.95))
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


def test_two_whole_runs(tmp_path: Path) -> None:
    losses: dict[int, float | None] = {20: 6.0, 40: 5.5, 60: 3.5, 80: 3.25, 100: 2.75}
    found = told(
        write_ledger(tmp_path / "b", FALLING),
        write_ledger(tmp_path / "t", losses, stages=[(4, 120)], seconds_a_step=3.0),
    )
    assert found["partial"] is False
    assert found["equal_flops"]["loss_difference"] == pytest.approx(-0.25)
    # The candidate passes 3.0 halfway between steps 80 and 100, over their logarithm.
    crossed = (80 * 100) ** 0.5
    equal = found["equal_loss_at_baseline"]
    assert equal["loss"]["value"] == pytest.approx(3.0)
    assert equal["step_ratio"]["value"] == pytest.approx(100 / crossed)
    assert equal["wall_clock_ratio"]["value"] == pytest.approx(200 / (3 * crossed))
    assert found["equal_loss"]["loss"]["value"] in (pytest.approx(3.0), pytest.approx(2.75))
    assert found["headline"] == found["groups"][0]["headline"]


def test_a_run_is_summed_up_at_its_last_line(tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path / "l", {20: 5.0, 40: 4.0}, stages=[(4, 100)], last_step=47)
    one = told(None, ledger)["candidate"]
    assert (one["steps"], one["positions"], one["flops"]) == (47, 47 * 512, 47e9)
    assert (one["wall_clock_s"], one["final_loss"]) == (94.0, 4.0)
    spans = [(phase["first_step"], phase["last_step"]) for phase in one["phases"]]
    assert spans == [(1, 25), (26, 47)]


def test_a_run_without_progress_is_all_zeros(tmp_path: Path) -> None:
    one = told(write_ledger(tmp_path / "l", {}), None)["baseline"]
    assert (one["steps"], one["data_tokens"], one["flops"]) == (0, 0, 0)
    assert (one["final_loss"], one["phases"]) == (None, [])


def test_equal_runs_differ_by_nothing(tmp_path: Path) -> None:
    found = told(write_ledger(tmp_path / "b", FALLING), write_ledger(tmp_path / "t", FALLING))
    assert found["equal_loss"]["step_ratio"]["value"] == pytest.approx(1)
    assert found["equal_loss"]["reached"] is True
    assert found["equal_flops"]["loss_difference"] == pytest.approx(0)


def test_a_run_cut_short_is_compared_where_it_ended(tmp_path: Path) -> None:
    cut: dict[int, float | None] = {20: 6.0, 40: 5.0}
    found = told(
        write_ledger(tmp_path / "b", FALLING),
        write_ledger(tmp_path / "c", cut, stages=[(4, 120)], last_step=47),
    )
    assert found["partial"] is True
    assert found["candidate"]["steps"] == 47
    assert found["equal_flops"]["at_end"] is False
    assert found["equal_flops"]["flops"] == pytest.approx(40e9)
    assert found["equal_flops"]["loss_difference"] == pytest.approx(0.5)


def test_equal_flops_are_never_extrapolated(tmp_path: Path) -> None:
    early = write_ledger(tmp_path / "t", {5: 4.0})
    found = told(write_ledger(tmp_path / "b", {10: 5.0, 20: 4.0}), early)
    assert found["equal_flops"]["loss_difference"] is None


@pytest.mark.parametrize("missing", ["baseline", "candidate", "both"])
def test_a_run_that_is_missing_leaves_the_other(tmp_path: Path, missing: str) -> None:
    whole = write_ledger(tmp_path / "w", FALLING)
    sides = {side: None if missing in (side, "both") else whole for side in SIDES}
    found = told(*sides.values())
    assert found["partial"] is True
    for side in SIDES:
        assert (found[side] is None) == (missing in (side, "both"))
    assert found["groups"] == []
    assert found["equal_flops"]["loss_difference"] is None
    assert found["equal_loss"]["step_ratio"]["value"] is None
    assert found["equal_loss"]["reached"] is False
    assert "There is no comparison yet" in found["headline"]


@pytest.mark.parametrize("broken", SIDES)
@pytest.mark.parametrize("losses", [{50: 4.0, 100: None}, {100: None}, {}])
def test_without_a_final_loss_of_both_runs_nothing_is_compared(
    tmp_path: Path, broken: str, losses: dict[int, float | None]
) -> None:
    whole = write_ledger(tmp_path / "w", FALLING)
    other = write_ledger(tmp_path / "o", losses, last_step=100)
    found = told(*(other if side == broken else whole for side in SIDES))
    assert found["partial"] is True
    assert found[broken]["final_loss"] is None
    assert found["equal_flops"]["loss_difference"] is None
    assert found["equal_loss"]["loss"]["value"] is None
    assert found["equal_loss"]["reached"] is False


def test_after_a_loss_that_was_not_a_number_nothing_before_it_counts(tmp_path: Path) -> None:
    losses: dict[int, float | None] = {20: 2.0, 40: None, 60: 2.5, 80: 2.4, 100: 2.3}
    found = told(write_ledger(tmp_path / "b", FALLING), write_ledger(tmp_path / "t", losses))
    assert found["partial"] is False
    needed = found["equal_loss_at_baseline"]["needed"]["candidate"]["steps"]["value"]
    assert needed == pytest.approx(60)
