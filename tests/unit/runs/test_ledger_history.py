"""What lies where a ledger is to be: a past of its own, another run, what led to a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from tst_megatron.runs.clock import RunClock, clock_file
from tst_megatron.runs.ledger import read_ledger
from tst_megatron.runs.ledger_history import bring_along, put_aside_anothers
from tst_megatron.runs.ledger_lines import read_lines

FLAGS = {"seed": 1, "lr": 1e-3, "data_path": ["corpus"], "tst_bag_size": 4, "log_interval": 10}


def header(step: int, **flags: Any) -> dict[str, Any]:
    return {"kind": "header", "step": step, "run_id": "a", "flags": FLAGS | flags}


def line(step: int, seconds: float, kind: str = "step") -> dict[str, Any]:
    clock = {"wall_clock_s": seconds, "gpu_hours": seconds / 3600}
    return {"kind": kind, "step": step, "loss": 3.0, **clock}


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(fields) + "\n" for fields in lines))
    return path


def test_a_run_that_starts_over_goes_on_in_its_ledger(tmp_path: Path) -> None:
    ledger = write(tmp_path / "ledger.jsonl", header(0), line(10, 60.0))
    put_aside_anothers(ledger, FLAGS | {"log_interval": 1})
    assert list(tmp_path.iterdir()) == [ledger]
    put_aside_anothers(tmp_path / "nothing" / "ledger.jsonl", FLAGS)


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"seed": 2}, {"tst_bag_size": 8}])
def test_another_runs_ledger_is_kept_under_another_name(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    for number in (1, 2):
        content = write(ledger, header(0), line(10, 60.0)).read_text()
        clock_file(ledger).write_text("{}")
        put_aside_anothers(ledger, FLAGS | change, ("tst_",))
        assert not ledger.exists()
        assert not clock_file(ledger).exists()
        assert (tmp_path / f"ledger.{number}.jsonl").read_text() == content


def test_a_run_from_another_folders_checkpoint_has_what_led_there(tmp_path: Path) -> None:
    """A trunk that died once, and went on beyond the checkpoint that a branch starts from."""
    trunk = write(
        tmp_path / "trunk" / "ledger.jsonl",
        header(0),
        line(100, 100.0),
        line(200, 200.0),
        header(150),
        line(200, 270.0),
        line(200, 275.0, "validation"),
        line(300, 370.0),
        header(300),
        line(400, 480.0),
    )
    branch = tmp_path / "branch" / "ledger.jsonl"
    bring_along(branch, trunk, 200)
    ledger = read_ledger(branch)
    assert [one["step"] for one in ledger.steps] == [100, 200]
    assert ledger.steps[-1]["wall_clock_s"] == 270.0
    assert [one["step"] for one in ledger.validations] == [200]
    # A run of its own, whose clock goes on from there.
    ids = {one.fields["run_id"] for one in read_lines(branch)[0] if one.kind == "header"}
    assert len(ids) == 1
    assert ids != {"a"}
    clock = RunClock(branch, started=1e12, world_size=1)
    assert clock.run_id in ids
    assert clock.seconds == pytest.approx(275.0, abs=1.0)


def test_a_past_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    bring_along(tmp_path / "ledger.jsonl", tmp_path / "nowhere" / "ledger.jsonl", 10)
    assert not list(tmp_path.iterdir())


def test_items_of_what_is_brought_along_are_found_from_the_new_folder(tmp_path: Path) -> None:
    source, ledger = tmp_path / "one/ledger.jsonl", tmp_path / "other/deep/ledger.jsonl"
    asked = {"metrics": {}, "items": "evaluations/step_10.items.jsonl"}
    told = {"evaluations": {"kept": asked, "not kept": {"metrics": {}}}}
    write(source, header(0), line(10, 60.0), {"kind": "evaluation", "step": 10, **told})
    bring_along(ledger, source, 10)
    (found,) = read_ledger(ledger).evaluations
    items = found["evaluations"]["kept"]["items"]
    assert (ledger.parent / items).resolve() == source.parent / asked["items"]
    assert found["evaluations"]["not kept"] == {"metrics": {}}
