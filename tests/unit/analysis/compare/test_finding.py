"""From paths to findings: refusals, the order of groups, runs that are not at their end."""

from pathlib import Path

import pytest
from ledgers import write_ledger

from tst_megatron.analysis.compare.finding import find, find_so_far
from tst_megatron.analysis.compare.findings import Findings, Prices
from tst_megatron.analysis.compare.sentences import notes
from tst_megatron.errors import UserError
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.ledger import Ledger

DECAY = {"lr": 1e-3, "lr_decay_style": "WSD", "lr_wsd_decay_iters": 20}


def loss(step: float, gain: float = 1.0, drop: float = 0.3) -> float:
    """A power law of the step, and a drop in the last fifth of 100 steps."""
    return float(2 + 3 * (gain * step) ** -0.3 - drop * max(0.0, step - 80) / 20)


def write(path: Path, last: int = 100, *, gain: float = 1.0, s: int = 1, **flags: object) -> Ledger:
    losses = {step: loss(step, gain) for step in range(5, last + 1, 5)}
    stages = None if s == 1 else [(s, 100)]
    path.mkdir()
    file = path / "ledger.jsonl"
    return write_ledger(file, losses, stages=stages, flags={**DECAY, **flags})  # type: ignore[arg-type]


def found(tmp_path: Path, *tst: str, force: bool = False) -> Findings:
    paths = [tmp_path / name for name in tst]
    return find([tmp_path / "baseline"], paths, 0.95, force, Prices())


def test_the_group_that_ends_lowest_is_first(tmp_path: Path) -> None:
    write(tmp_path / "baseline")
    write(tmp_path / "worse", s=2, gain=0.9)
    write(tmp_path / "better", s=4, gain=1.2)
    one = found(tmp_path, "worse", "better")
    assert [group.runs[0].name for group in one.tst] == ["better", "worse"]
    assert [c.tst for c in one.comparisons] == list(one.tst)
    ends = [c.tst.runs[0].curve.losses[-1] for c in one.comparisons]
    assert ends == sorted(ends)


def test_what_should_not_be_compared_is_refused_or_marked(tmp_path: Path) -> None:
    write(tmp_path / "baseline", hidden_size=32)
    write(tmp_path / "tst", s=4, hidden_size=64)
    with pytest.raises(UserError, match=r"The models differ: .*; --force compares all the same"):
        found(tmp_path, "tst")
    assert "The models differ" in found(tmp_path, "tst", force=True).reasons[0]


def test_no_more_confidence_than_the_draws_can_tell(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--confidence 0.9999 is more than 2,000 draws can tell"):
        find([tmp_path], [tmp_path], 0.9999, False, Prices())


def test_a_run_before_its_decay_is_not_held_against_whole_runs(tmp_path: Path) -> None:
    write(tmp_path / "baseline")
    write(tmp_path / "tst", last=55, s=4, gain=1.2)
    (one,) = found(tmp_path, "tst").comparisons
    assert one.equal_loss.whole_runs is False
    assert one.equal_loss.where == "inside the stable phase"
    assert one.equal_loss.step_ratio.value == pytest.approx(1.2, rel=0.1)
    assert any("TST is at step 55 of 100" in note for note in one.notes)


def test_runs_that_have_only_begun_are_not_refused(tmp_path: Path) -> None:
    write(tmp_path / "baseline")
    write(tmp_path / "tst", last=0, s=4)
    baseline, tst = (read_runs([tmp_path / name]) for name in ("baseline", "tst"))
    assert find_so_far([], [], 0.95) == Findings((), (), ())
    alone = find_so_far(baseline, [], 0.95)
    assert (len(alone.baseline), alone.tst, alone.comparisons) == (1, (), ())
    begun = find_so_far(baseline, tst, 0.95)
    assert begun.comparisons[0].equal_loss.loss.value is None
    assert any("no held-out loss" in note for note in notes(begun))


def test_settings_that_differ_besides_superposition_are_a_note(tmp_path: Path) -> None:
    """They were in the page alone."""
    write(tmp_path / "baseline")
    write(tmp_path / "tst", s=4, gain=1.2, lr=1e-2, save="elsewhere", log_interval=7)
    told = [note for note in notes(found(tmp_path, "tst")) if note.startswith("Besides super")]
    assert told == [
        "Besides superposition these settings differ (baseline / candidate): lr (0.001 / 0.01). "
        "What they do is in every figure."
    ]
    write(tmp_path / "same", s=4, gain=1.2)
    alike = notes(found(tmp_path, "same"))
    assert not any(note.startswith("Besides super") for note in alike)
