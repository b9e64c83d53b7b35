from pathlib import Path

import pytest
from ledgers import write_ledger

from tst_megatron.comparison.plots import draw_loss, loss_svgs
from tst_megatron.training.ledger import Ledger


def runs(tmp_path: Path) -> tuple[Ledger, Ledger]:
    return (
        write_ledger(tmp_path / "b", {step: 3 + 20 / step for step in range(10, 101, 10)}),
        write_ledger(
            tmp_path / "t",
            {step: 2.9 + 20 / step for step in range(10, 101, 10)},
            stages=[(4, 120), (2, 100)],
        ),
    )


def test_the_same_runs_make_the_same_charts(tmp_path: Path):
    both = runs(tmp_path)
    assert loss_svgs(*both) == loss_svgs(*both)


def test_charts_say_what_they_show(tmp_path: Path):
    clock, steps, late = loss_svgs(*runs(tmp_path))
    for svg in (clock, steps):
        assert svg.count("bags of 4") == 1
        assert svg.count("bags of 2") == 2
        assert svg.count("single tokens") == 1
        assert "baseline, ends at 3.200" in svg
    assert "minutes" in clock
    assert "steps" in steps
    assert "TST 3.100" in late
    assert "bags" not in late


@pytest.mark.parametrize("last_step", [0, 3])
def test_runs_without_validations_draw_too(tmp_path: Path, last_step: int):
    ledger = write_ledger(tmp_path / "l", {}, last_step=last_step)
    draw_loss(None, ledger, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert all("no validation yet" in svg for svg in loss_svgs(ledger, None))


@pytest.mark.parametrize("losses", [{100: 3.0}, {50: 3.0, 100: 3.0}, {50: None, 100: 3.0}])
def test_few_or_equal_losses_draw_too(tmp_path: Path, losses: dict[int, float | None]):
    ledger = write_ledger(tmp_path / "l", losses, stages=[(4, 120)])
    draw_loss(ledger, ledger, tmp_path / "loss.png")
    assert len(loss_svgs(ledger, ledger)) == 3
