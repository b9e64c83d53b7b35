from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run

from tst_megatron.analysis.compare.groups import group
from tst_megatron.analysis.compare.stories import words_of
from tst_megatron.runs.run import RecordedRun


def run_of(folder: Path, name: str, *, seed: int = 1, **kw: Any) -> RecordedRun:
    return made_run(folder, name, {"seed": seed, **kw.pop("header", {})}, **kw)


def grouped(runs: list[RecordedRun], side: Any = "candidate") -> dict[str, list[str]]:
    return {found.name: [run.name for run in found.runs] for found in group(runs, side)}


def test_seeds_and_bookkeeping_set_nothing_apart(tmp_path: Path):
    runs = [
        run_of(tmp_path, name, seed=seed, flags={"save": name, "tensorboard_dir": name, "lr": 1e-3})
        for seed, name in enumerate("abc")
    ]
    (found,) = group(runs, "baseline")
    assert (found.name, len(found.runs), found.num_steps) == ("baseline", 3, 100)


def test_schedules_are_told_by_bags_and_shares(tmp_path: Path):
    """In whichever flags they were written."""
    one = run_of(tmp_path, "a", stages=[(4, 100)], flags={"tst_bag_size": 4})
    two = run_of(tmp_path, "b", stages=[(4, 100)], flags={"tst_schedule": "4:0.25"}, seed=2)
    other = run_of(tmp_path, "c", stages=[(8, 50)])
    both = run_of(tmp_path, "d", stages=[(8, 50), (2, 100)])
    ordinary = run_of(tmp_path, "e")
    assert grouped([one, two, other, both, ordinary]) == {
        "bags of 4 for 25 %": ["a", "b"],
        "bags of 8 for 12.5 %": ["c"],
        "bags of 8 for 12.5 % and of 2 for 25 %": ["d"],
        "ordinary": ["e"],
    }


def test_how_logits_are_made_sets_nothing_apart(tmp_path: Path):
    runs = [
        run_of(tmp_path, str(rows), stages=[(4, 100)], flags={"tst_logits_chunk_size": rows})
        for rows in (0, 512)
    ]
    assert grouped(runs) == {"bags of 4 for 25 %": ["0", "512"]}


def test_lengths_are_told_where_they_differ(tmp_path: Path):
    runs = [run_of(tmp_path, "a"), run_of(tmp_path, "b", planned=36_000)]
    names = ["baseline of 100 steps", "baseline of 36,000 steps"]
    assert list(grouped(runs, "baseline")) == names
    assert list(grouped(runs[:1], "baseline")) == ["baseline"]


def test_ways_to_superpose_are_told(tmp_path: Path):
    usual = {"superpose": "both", "bag_weights": "uniform", "objective": "mce"}
    ways = [
        {},
        {"superpose": "output"},
        {"bag_weights": "power"},
        {"objective": "mce-alt", "bag_boundary": "document"},
    ]
    runs = [
        run_of(
            tmp_path, str(index), header={"superposition": {"stages": [[4, 100]], **usual, **way}}
        )
        for index, way in enumerate(ways)
    ]
    assert list(grouped(runs)) == [
        "bags of 4 for 25 %",
        "bags of 4 for 25 %, output only",
        "bags of 4 for 25 %, power weights",
        "bags of 4 for 25 %, mce-alt, within documents",
    ]


def test_a_switch_by_measurement_is_one_setting_wherever_it_came(tmp_path: Path):
    runs = [
        run_of(tmp_path, name, stages=[(4, samples)], flags={"tst_schedule": "auto:4"})
        for name, samples in (("a", 100), ("b", 140))
    ]
    assert grouped(runs) == {"bags by measurement (auto:4)": ["a", "b"]}


def test_other_settings_are_told(tmp_path: Path):
    runs = [run_of(tmp_path, f"lr{lr}", flags={"lr": lr}) for lr in (0.001, 0.002)]
    names = ["baseline, learning rate 0.001", "baseline, learning rate 0.002"]
    assert list(grouped(runs, "baseline")) == names


def test_recipes_stand_for_their_settings(tmp_path: Path):
    runs = [
        run_of(tmp_path, name, header={"recipe": {"name": name}}, flags={"num_layers": layers})
        for name, layers in (("tiny", 2), ("large", 9))
    ]
    assert list(grouped(runs, "baseline")) == ["baseline, tiny", "baseline, large"]


def test_the_same_files_elsewhere_set_nothing_apart(tmp_path: Path):
    def at(place: str, sha256: str | None, seed: int) -> RecordedRun:
        path = f"/{place}/corpus"
        return run_of(
            tmp_path,
            place,
            seed=seed,
            header={"data": [{"path": path, "manifest_sha256": sha256}]},
            flags={"data_path": [path]},
        )

    assert len(group([at("a", None, 1), at("b", None, 2)], "candidate")) == 1
    assert len(group([at("c", "x", 1), at("d", "x", 2)], "candidate")) == 1
    assert len(group([at("e", "x", 1), at("f", "y", 2)], "candidate")) == 2


def test_what_is_not_told_sets_nothing_apart(tmp_path: Path):
    told = run_of(tmp_path, "a", flags={"lr": 0.1})
    untold = run_of(tmp_path, "b", seed=2)
    assert grouped([told, untold]) == {"ordinary": ["a", "b"]}


def test_a_run_that_tells_little_does_not_join_runs_that_differ(tmp_path: Path):
    untold = run_of(tmp_path, "a")
    slow = run_of(tmp_path, "b", flags={"lr": 1}, seed=2)
    fast = run_of(tmp_path, "c", flags={"lr": 2}, seed=3)
    for runs in ([untold, slow, fast], [slow, fast, untold]):
        groups = [{run.name for run in found.runs} for found in group(runs, "candidate")]
        assert groups == [{"a", "b"}, {"c"}]


@pytest.mark.parametrize("header", [{}, {"flags": {}, "superposition": None}])
def test_bags_are_seen_in_the_header_or_else_in_the_lines(tmp_path: Path, header: Any):
    run = run_of(tmp_path, "a", header=header, stages=[(4, 200)])
    assert bool(words_of(run)) == (not header)
    untold = {name: value for name, value in run.header.items() if name != "methods"}
    run = replace(run, header=untold)
    assert words_of(run)
    assert group([run], "candidate")[0].name == "bags of 4 for 50 %"
