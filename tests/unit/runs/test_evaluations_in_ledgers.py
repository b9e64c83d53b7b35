"""Lines of evaluations: appended whenever they were asked, read whatever came between."""

import json
import resource
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ledgers import write_ledger
from made_runs import made_ledger

from tst_megatron.analysis.compare.stories import vocabulary
from tst_megatron.evaluation.results import Evaluated, Item, for_ledger, items_text
from tst_megatron.runs.evaluations import Score, evaluations_of, read_items
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.ledger import LedgerError, read_ledger
from tst_megatron.runs.ledger_writer import append_evaluation


def scored(value: float, task: str = "task", **more: Any) -> dict[str, Any]:
    return {task: {"metrics": {"acc": {"value": value, "stderr": 0.1, "n": 4}}, **more}}


def values(path: Path) -> dict[tuple[int, str], float]:
    return {
        (line["step"], task): told["metrics"]["acc"]["value"]
        for line in read_ledger(path).evaluations
        for task, told in line["evaluations"].items()
    }


def test_the_last_of_a_task_at_a_step_counts_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    before = write_ledger(path, {50: 4.0, 100: 3.0})
    append_evaluation(path, 100, scored(0.5) | scored(0.7, "other"))
    append_evaluation(path, 50, scored(0.4))
    append_evaluation(path, 100, scored(0.6))
    assert values(path) == {(50, "task"): 0.4, (100, "task"): 0.6, (100, "other"): 0.7}
    after = read_ledger(path)
    assert (after.steps, after.validations, after.last) == (
        *(before.steps, before.validations, before.last),
    )
    assert after.notes == []


def test_a_line_that_a_kill_cut_short_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, {100: 3.0})
    header = path.read_text().splitlines()[0]
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    append_evaluation(path, 100, scored(0.5))
    assert values(path) == {(100, "task"): 0.5}
    # The run goes on; what it replays was another model's.
    with path.open("a") as file:
        for line in (json.loads(header) | {"step": 50}, {"kind": "step", "step": 60}):
            file.write(json.dumps(line) + "\n")
    assert values(path) == {}
    append_evaluation(path, 50, scored(0.2))
    assert values(path) == {(50, "task"): 0.2}


@pytest.mark.parametrize(
    "evaluations",
    [
        {"task": 3},
        {"task": {"metrics": {"acc": 0.5}}},
        {"task": {"metrics": {"acc": {"value": "high"}}}},
        {"task": {"metrics": {}, "items": 7}},
        [],
    ],
)
def test_what_is_no_score_is_named_with_its_line(tmp_path: Path, evaluations: Any) -> None:
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, {})
    line = {"kind": "evaluation", "step": 0, "evaluations": evaluations or [1]}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(LedgerError, match="line 2: its"):
        read_ledger(path)


def test_items_are_read_only_from_the_file_that_was_meant(tmp_path: Path) -> None:
    path = made_ledger(tmp_path, "run")
    lines = [
        {"task": "task", "id": n, "hash": h, "metrics": {"acc": v}, "weights": {"acc": 1.0 + n}}
        for n, (h, v) in enumerate([("a", 1.0), ("b", 0.0), ("a", 0.5)])
    ]
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"items": "../items.jsonl", "items_sha256": sha256(items.read_bytes()).hexdigest()}
    append_evaluation(path, 100, scored(0.5, **told))
    (run,) = read_runs([path], vocabulary())
    (evaluation,) = run.evaluations
    found = read_items(evaluation, "acc")
    assert found is not None
    # An item that is asked twice is two.
    assert found.keys == (("a", 0), ("b", 0), ("a", 1))
    assert found.values.tolist() == [1.0, 0.0, 0.5]
    assert found.weights.tolist() == [1.0, 2.0, 3.0]
    assert read_items(evaluation, "f1") is None
    append_evaluation(path, 100, scored(0.5, **told | {"items_sha256": "of another"}))
    (run,) = read_runs([path], vocabulary())
    assert read_items(run.evaluations[0], "acc") is None


def test_what_a_run_says_before_its_first_logged_step_stays(tmp_path: Path) -> None:
    """A run that goes on from 50 scores at 55, 60 and 65, and logs every tenth step."""
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, {50: 4.0, 70: 3.0})
    append_evaluation(path, 55, scored(0.1))
    append_evaluation(path, 65, scored(0.2))
    header = json.loads(path.read_text().splitlines()[0]) | {"step": 50}
    own = {"kind": "evaluation", "wall_clock_s": 200.0, "stage": 1, "facts": {"bag_size": 1}}
    lines = [
        header,
        *(
            {**own, "step": step, "evaluations": scored(value)}
            for step, value in ((55, 0.5), (60, 0.6))
        ),
    ]
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    # What it has been beyond is replayed.
    assert values(path) == {(55, "task"): 0.5, (60, "task"): 0.6}
    with path.open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 60, "wall_clock_s": 210.0}) + "\n")
    assert values(path) == {(55, "task"): 0.5, (60, "task"): 0.6}
    assert [line["facts"] for line in read_ledger(path).evaluations] == [{"bag_size": 1}] * 2
    assert [line["step"] for line in read_ledger(path).steps] == [10, 20, 30, 40, 50, 60]
    # Whoever asks later, of a step that is there, replays nothing.
    append_evaluation(path, 50, scored(0.4))
    assert values(path) == {(50, "task"): 0.4, (55, "task"): 0.5, (60, "task"): 0.6}


def test_items_of_a_score_that_is_no_mean_have_no_values(tmp_path: Path) -> None:
    """Such as those of a perplexity, beside which another task's are read."""
    whole = Evaluated("whole", "task", {"ppl": Score(9.0)}, (Item(0, "one", {}),))
    quiz = Evaluated("quiz", "task", {"acc": Score(1.0)}, (Item(0, "two", {"acc": 1.0}),))
    file, path = tmp_path / "items.jsonl", tmp_path / "ledger.jsonl"
    file.write_text(items_text([whole, quiz]))
    write_ledger(path, {100: 3.0})
    digest = sha256(file.read_bytes()).hexdigest()
    append_evaluation(path, 100, for_ledger([whole, quiz], file.name, digest))
    lines = read_ledger(path).evaluations
    of_whole, of_quiz = evaluations_of(lines, tmp_path)
    assert read_items(of_whole, "ppl") is None
    found = read_items(of_quiz, "acc")
    assert found is not None
    assert found.keys == (("two", 0),)


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    """A run that is under way would write its next line on the end of it."""
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, {100: 3.0})
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limit[1]))
    try:
        with pytest.raises(OSError, match="a part of the line"):
            append_evaluation(path, 100, scored(0.5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
