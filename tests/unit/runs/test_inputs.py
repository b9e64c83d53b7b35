import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_ledger, made_run

from tst_megatron.analysis.compare.derived import read_sides
from tst_megatron.analysis.compare.stories import vocabulary
from tst_megatron.errors import UserError
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import RecordedRun


def stages(run: RecordedRun) -> list[tuple[int, str, int, int]]:
    return [(s.index, s.stage.name, s.first_step, s.last_step) for s in run.stages]


def names(*paths: Path) -> list[str]:
    return [run.name for run in read_runs(paths)]


def test_a_ledger_as_a_run(tmp_path: Path):
    flags = {"lr_decay_style": "WSD", "lr_wsd_decay_iters": 10}
    path = made_ledger(tmp_path, "tst", losses={30: 5.0, 60: 4.0}, stages=[(4, 120)], flags=flags)
    (run,) = read_runs([path])
    assert (run.name, run.path, run.source) == ("tst", path, "ledger")
    assert stages(run) == [(0, "bags of 4", 1, 30), (1, "single tokens", 31, 60)]
    assert (run.num_steps, run.decay_start, run.notes) == (100, 90, ())
    np.testing.assert_array_equal(run.curve.steps, [30, 60])
    np.testing.assert_array_equal(run.curve.losses, [5.0, 4.0])
    np.testing.assert_array_equal(run.curve.data_tokens, [61440, 30720])
    assert np.isnan(run.curve.stderrs).all()
    assert [of["bag_size"] for of in run.steps.facts] == [4, 4, 4, 1, 1, 1]
    assert run.steps.loss_names == (None,) * 6


def test_extras_are_series_with_gaps(tmp_path: Path):
    path = made_ledger(tmp_path, "moe", losses={10: 5.0}, last_step=20)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["extras"] = {"load_balancing_loss": 1.5}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run,) = read_runs([path])
    np.testing.assert_array_equal(run.steps.extras["load_balancing_loss"], [1.5, np.nan])


def test_losses_that_are_no_numbers_stay(tmp_path: Path):
    """A run that diverged must not look as if it had ended before."""
    run = made_run(tmp_path, "wild", losses={10: 5.0, 20: None, 30: 4.0})
    np.testing.assert_array_equal(run.curve.losses, [5.0, np.nan, 4.0])


def test_folders_of_runs(tmp_path: Path):
    """A run's, a demo's, a sweep's with its cells a folder further down, and a study's."""
    demo, sweep, study = tmp_path / "demo", tmp_path / "sweep", tmp_path / "study"
    for run in ("baseline", "tst"):
        made_ledger(demo, run)
    for run in ("s2", "s4"):
        made_ledger(sweep / "cells", run)
    study.mkdir()
    for seed in (1, 2):
        content = made_ledger(tmp_path / "x", f"seed{seed}").read_bytes()
        (study / f"base-seed{seed}.jsonl.gz").write_bytes(gzip.compress(content))
    assert names(demo / "tst") == ["tst"]
    assert names(demo) == ["baseline", "tst"]
    assert names(sweep) == ["s2", "s4"]
    assert names(study, demo) == ["base-seed1", "base-seed2", "baseline", "tst"]


def test_a_ledger_beside_the_checkpoints_is_called_by_its_run(tmp_path: Path):
    made_ledger(tmp_path / "mine", "checkpoints")
    events = tmp_path / "mine" / "tensorboard" / "events.out.tfevents.1"
    events.parent.mkdir()
    events.touch()
    assert names(tmp_path / "mine") == ["mine"]


def test_names_are_as_long_as_it_takes(tmp_path: Path):
    ones = [made_ledger(tmp_path / folder, "tst", {"run_id": folder}) for folder in ("a", "b")]
    assert names(*ones) == ["a/tst", "b/tst"]


def test_runs_that_only_their_folders_of_every_run_tell_apart(tmp_path: Path):
    ones = [made_ledger(tmp_path, folder) for folder in ("checkpoints", "tensorboard")]
    assert names(*ones) == list(map(str, ones))


def test_the_same_file_twice_is_one_run(tmp_path: Path):
    path = made_ledger(tmp_path, "run")
    (run,) = read_runs([path, path.parent])
    assert run.notes == ("It is named more than once and counts once.",)


@pytest.mark.parametrize("run_id", ["one", None])
def test_copies_of_a_run_are_one_run(tmp_path: Path, run_id: str | None):
    """Three copies would look like three seeds that agree."""
    path = made_ledger(tmp_path, "run", {"run_id": run_id})
    copy = tmp_path / "copy.jsonl.gz"
    copy.write_bytes(gzip.compress(path.read_bytes()))
    (run,) = read_runs([path, copy])
    assert (run.name, run.notes) == ("run", (f"It is also in copy ({copy}) and counts once.",))


def test_of_copies_the_one_that_got_furthest_counts(tmp_path: Path):
    header = {"run_id": "one"}
    early = made_ledger(tmp_path, "early", header, losses={50: 4.0})
    (run,) = read_runs([early, made_ledger(tmp_path, "late", header)])
    assert (run.name, run.curve.steps.tolist()) == ("late", [50, 100])


@pytest.mark.parametrize(
    "other",
    [
        {"header": {"seed": 2}},
        {"losses": {50: 4.1, 100: 3.0}},
        {"losses": {50: 4.0, 100: 3.1}},
        {"flags": {"hidden_size": 64}},
        {"stages": [(4, 100)]},
    ],
)
def test_runs_that_differ_in_anything_are_samples_of_their_own(tmp_path: Path, other: Any):
    one = made_ledger(tmp_path, "one", {"run_id": None, "seed": 1}, flags={"hidden_size": 32})
    header = {"run_id": None, "seed": 1} | other.pop("header", {})
    other.setdefault("flags", {"hidden_size": 32})
    assert names(one, made_ledger(tmp_path, "two", header, **other)) == ["one", "two"]


EXPORT = (
    "Step,base - lm loss validation,lr:1e-3 - lm loss validation,a/b - lm loss validation\n"
    "10,4,5,6\n20,3,4,5\n"
)


def test_a_run_of_an_export_is_named_after_a_colon(tmp_path: Path):
    """Folders and runs may have colons in their names."""
    folder = tmp_path / "at 10:30"
    folder.mkdir()
    path = folder / "both.csv"
    path.write_text(EXPORT)
    assert names(path) == ["a/b", "base", "lr:1e-3"]
    for run in ("base", "lr:1e-3", "a/b"):
        assert names(Path(f"{path}:{run}")) == [run]
    assert names(Path(f"{path}:lr:1e-3"), Path(f"{path}:base")) == ["base", "lr:1e-3"]
    (twice,) = read_runs([Path(f"{path}:base"), Path(f"{path}:base")])
    assert twice.notes[-1] == "It is named more than once and counts once."
    with pytest.raises(UserError) as refused:
        read_runs([Path(f"{path}:tst")])
    assert str(refused.value) == f'{path} has no run "tst": it has "a/b", "base", "lr:1e-3"'
    with pytest.raises(UserError, match=r"is not there: .* or a run of an export as FILE.csv:RUN"):
        read_runs([Path(f"{folder / 'other.csv'}:base")])


@pytest.mark.parametrize("run", ["./tst", "a//b/", "sp "])
def test_a_run_is_named_as_the_export_has_it(tmp_path: Path, run: str):
    """One that was listed so was refused."""
    path = tmp_path / "both.csv"
    heads = (f'"{name} - lm loss validation"' for name in ("./tst", "a//b/", "sp "))
    path.write_text(f"Step,{','.join(heads)}\n10,4,5,6\n20,3,4,5\n")
    for written in {f"{path}:{run}", f"{path}:{run.strip()}", f"{path}:{Path(run)}"}:
        assert names(Path(written)) == [run]


def test_an_export_of_one_run_has_its_files_name(tmp_path: Path):
    path = tmp_path / "one.csv"
    path.write_text("Step,lm loss validation\n10,4\n20,3\n")
    assert names(Path(f"{path}:one")) == ["one"]
    with pytest.raises(UserError, match=r'has no run "two": it has "one"'):
        read_runs([Path(f"{path}:two")])


@pytest.mark.parametrize(("make", "says"), [(False, "is not there"), (True, "holds no run")])
def test_nothing_to_read(tmp_path: Path, make: bool, says: str):
    path = tmp_path / "nothing"
    if make:
        (path / "deep").mkdir(parents=True)
    with pytest.raises(UserError, match=says):
        read_runs([path])


def test_a_ledger_made_by_hand(tmp_path: Path):
    """With no more than has to be there."""
    path = tmp_path / "ledger.jsonl"
    lines = [
        {"kind": "header", "step": 0, "schema_version": 1},
        {"kind": "step", "step": 10, "bag_size": 2, "stage": 0},
        {"kind": "step", "step": 20, "bag_size": 1, "stage": 1},
        {"kind": "validation", "step": 20, "next_token_loss": 4.0},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    (run,) = read_runs([path], vocabulary())
    assert stages(run) == [(0, "bags of 2", 1, 10), (1, "single tokens", 11, 20)]
    assert (run.num_steps, run.decay_start) == (20, None)
    assert np.isnan(run.curve.flops).all()


def test_a_side_is_completed_with_what_only_the_other_tells(tmp_path: Path):
    export = tmp_path / "base.csv"
    export.write_text("Step,lm loss validation\n50,4.0\n100,3.5\n")
    baseline, tst = read_sides([export], [made_ledger(tmp_path, "tst", stages=[(4, 100)])])
    np.testing.assert_allclose(baseline[0].curve.flops, tst[0].curve.flops)
    np.testing.assert_array_equal(baseline[0].curve.positions, tst[0].curve.positions)
    assert tst[0].notes == ()
