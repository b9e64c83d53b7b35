"""A run asks its model what it scores: the exported one says the same, and the run stays as it is.

One run on bags and after them is asked a task and texts; it is compared with one that is asked
nothing, with the export of its checkpoints, with starts of it that go on, and with other layouts.
"""

import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from saved import parameters, tensors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, Result, run_all

from tst_megatron import cli
from tst_megatron.checkpoints.steps import TRACKER
from tst_megatron.runs.ledger_lines import read_lines

STEPS, IN_BAGS = 10, 4
QUESTIONS = [
    {"question": f"{a} and {b} make", "options": [str(a + b), f"{a}{b}", "many"], "right": a % 3}
    for a in range(2, 6)
    for b in range(2, 5)
]
DOCUMENTS = [
    "short",
    "a longer one: " * 6,
    "中文也是文字。" * 5,
    "def f(x):\n\treturn x ** 2\n" * 4,
]
YAML = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {train: sums.jsonl, test: sums.jsonl}}
training_split: train
test_split: test
num_fewshot: 1
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{right}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
BROKEN = """\
task: broken
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{right}}"
process_results: !function breaking.process_results
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
BREAKING = f"""\
asked = 0

def process_results(doc, results):
    global asked
    asked += 1
    if asked > {len(QUESTIONS)}:
        raise RuntimeError("it broke meanwhile")
    return {{"acc": 0.0}}
"""
BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.5")
PADDED = "--make-vocab-size-divisible-by=100"
"""More rows than the tokenizer has tokens; the exported model has none of them."""
SHARDED = ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Tasks and texts."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "sums.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    (folder / "sums.yaml").write_text(YAML)
    for name, documents in (("some.jsonl", DOCUMENTS), ("more.jsonl", DOCUMENTS[1:])):
        lines = [json.dumps({"text": text}) + "\n" for text in documents]
        (folder / name).write_text("".join(lines))
    (folder / "broken.yaml").write_text(BROKEN)
    (folder / "breaking.py").write_text(BREAKING)
    return folder


@pytest.fixture(scope="module")
def runs(corpus, place, tmp_path_factory) -> dict[str, Result]:
    """A run that is asked, one that is not, and both on two ranks that gather parameters late."""
    root = tmp_path_factory.mktemp("runs")
    usual = (*TINY, *corpus.flags, *BAGS, PADDED, "--save-interval=4")
    texts = (str(place / "some.jsonl"), str(place / "more.jsonl"))
    asks = {
        "asked": (
            *("--evaluate-at", "every:4", "end", f"--evaluate-tasks={place / 'sums.yaml'}"),
            *("--evaluate-text", *texts, "--evaluate-batch-size=3"),
            f"--tensorboard-dir={root / 'tensorboard'}",
        ),
        "sharded asked": (*SHARDED, "--evaluate-at", "0", "3", "--evaluate-text", *texts),
        "plain": (),
        "sharded": SHARDED,
    }
    jobs = {
        name: Job(
            root / name,
            (*usual, f"--save={root / name}", *own),
            2 if "sharded" in name else 1,
        )
        for name, own in asks.items()
    }
    return dict(zip(jobs, run_all(list(jobs.values())), strict=True))


def command(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["tst-megatron", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 0


def evaluations(result: Result) -> dict[int, dict[str, Any]]:
    return {line["step"]: line["evaluations"] for line in result.ledger.evaluations}


def check_equal(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert list(mine) == list(theirs)
    for name, told in theirs.items():
        # The same was asked, in the same words and after the same examples.
        assert mine[name]["hash"] == told["hash"]
        for metric, score in told["metrics"].items():
            assert mine[name]["metrics"][metric] == pytest.approx(score, rel=1e-5)


def lines_of(result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith("tst-megatron: step ")]


@pytest.mark.parametrize("step", [IN_BAGS, STEPS])
def test_the_exported_model_scores_the_same(runs, place, tmp_path, step) -> None:
    folder = runs["asked"].ledger_file.parent
    command("export", folder, "--step", step, "--output", tmp_path / "model", "--quiet")
    command(
        *("evaluate", tmp_path / "model", "--tasks", place / "sums.yaml", "--no-ledger"),
        *("--held-out", place / "some.jsonl", place / "more.jsonl", "--out", tmp_path / "report"),
    )
    theirs = json.loads((tmp_path / "report/results.json").read_text())["evaluations"]
    mine = evaluations(runs["asked"])[step]
    assert list(mine) == ["sums", "some.jsonl", "more.jsonl"]
    check_equal(mine, theirs)
    assert 0 < mine["sums"]["metrics"]["acc"]["value"] < 1
    items = [folder / mine["sums"]["items"], tmp_path / "report/items.jsonl"]
    own, others = (list(map(json.loads, path.read_text().splitlines())) for path in items)
    assert [line["hash"] for line in own] == [line["hash"] for line in others]
    for line, other in zip(own, others, strict=True):
        found, expected = line.get("log_likelihoods", []), other.get("log_likelihoods", [])
        assert found == pytest.approx(expected, rel=1e-5)
        assert line["metrics"] == pytest.approx(other["metrics"], rel=1e-5)


def test_ledger_log_and_tensorboard_have_the_scores(runs, tmp_path) -> None:
    result = runs["asked"]
    folder = result.ledger_file.parent
    assert list(evaluations(result)) == [4, 8, 10]
    lines = {line.step: line.fields for line in read_lines(result.ledger_file)[0]
             if line.kind == "evaluation"}  # fmt: skip
    assert lines[4]["facts"] == {"bag_size": 2}
    assert lines[8]["facts"] == {"bag_size": 1}
    assert lines[4]["data_tokens"] == 4 * 4 * 16 * 2
    for line in lines.values():
        for told in line["evaluations"].values():
            content = (folder / told["items"]).read_bytes()
            assert sha256(content).hexdigest() == told["items_sha256"]
    acc = lines[4]["evaluations"]["sums"]["metrics"]["acc"]
    assert lines_of(result)[0] == (
        f"tst-megatron: step 4, in the stage of bags of 2: sums: acc {acc['value']:.4f} ± "
        f"{acc['stderr']:.4f}, chance 0.3333 (12 items)"
    )
    events = EventAccumulator(str(folder.parent / "tensorboard")).Reload()
    scalars = events.Scalars("evaluation/some.jsonl bits_a_byte")
    values = [
        line["evaluations"]["some.jsonl"]["metrics"]["bits_a_byte"] for line in lines.values()
    ]
    assert [scalar.step for scalar in scalars] == [4, 8, 10]
    assert [scalar.value for scalar in scalars] == pytest.approx([one["value"] for one in values])
    # Not a step's time, and said where it went.
    steps = {line["step"]: line for line in result.ledger.steps}
    assert steps[9]["evaluation_s"] > 0
    assert steps[9]["evaluation_s"] <= steps[9]["other_s"]
    assert steps[8]["evaluation_s"] == 0


@pytest.mark.parametrize("kind", ["", "sharded "])
def test_a_run_that_is_asked_is_the_run_that_is_not_bit_for_bit(runs, kind) -> None:
    asked, plain = runs[f"{kind}asked"], runs[kind.strip() or "plain"]
    assert asked.losses == plain.losses
    assert asked.grad_norms == plain.grad_norms
    validations = [
        [
            (line["step"], line["next_token_loss"], line.get("losses"))
            for line in one.ledger.validations
        ]
        for one in (asked, plain)
    ]
    assert validations[0] == validations[1]
    # Optimizer and random numbers, too, but where buffers in shards have gaps that nobody fills.
    of = parameters if kind else tensors
    mine, theirs = (of(one.ledger_file.parent, STEPS) for one in (asked, plain))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(one, theirs[name]) for name, one in mine.items())


@pytest.fixture(scope="module")
def later(runs, corpus, place, tmp_path_factory) -> dict[str, Result]:
    """A start that goes on from step 4; and the end's model on four ranks, of whose tasks one
    breaks once it has been walked through."""
    root = tmp_path_factory.mktemp("later")
    folder = runs["asked"].ledger_file.parent
    shutil.copytree(folder, root / "resumed")
    (root / "resumed" / TRACKER).write_text(str(IN_BAGS))
    asks = ["--evaluate-text", str(place / "some.jsonl"), str(place / "more.jsonl")]
    tasks = [f"{place / name}.yaml" for name in ("sums", "broken")]
    usual = (*TINY, *corpus.flags, *BAGS, PADDED, "--save-interval=4")
    jobs = {
        "resumed": (
            *("--evaluate-at", "4", "end", f"--evaluate-tasks={tasks[0]}", *asks),
            *(f"--save={root / 'resumed'}", f"--load={root / 'resumed'}"),
        ),
        "split": (
            *("--tensor-model-parallel-size=2", "--pipeline-model-parallel-size=2"),
            *("--sequence-parallel", f"--load={folder}", "--finetune", "--exit-interval=1"),
            *("--evaluate-at", "0", "--evaluate-tasks", *tasks, *asks),
        ),
    }
    found = [
        Job(root / name, (*usual, *own), 4 if name == "split" else 1) for name, own in jobs.items()
    ]
    return dict(zip(jobs, run_all(found), strict=True))


def test_a_run_that_goes_on_asks_again_where_it_replays(runs, later) -> None:
    assert {line.split(":")[1] for line in lines_of(later["resumed"])} == {" step 10"}
    steps = [line.step for line in read_lines(later["resumed"].ledger_file)[0]
             if line.kind == "evaluation"]  # fmt: skip
    assert steps == [4, 8, 10, 10]
    first, again = evaluations(runs["asked"]), evaluations(later["resumed"])
    assert list(again) == [4, 10]
    assert again[4] == first[4]
    check_equal(again[10], first[10])
    # What a line of before it was replayed names is still there.
    folder = later["resumed"].ledger_file.parent
    for told in (again[10]["sums"], first[10]["sums"]):
        content = (folder / told["items"]).read_bytes()
        assert sha256(content).hexdigest() == told["items_sha256"]


def test_four_ranks_say_what_one_does(runs, later) -> None:
    (mine,) = evaluations(later["split"]).values()
    check_equal(mine, evaluations(runs["asked"])[STEPS])


def test_what_breaks_while_the_run_trains_costs_its_score_alone(later) -> None:
    (line,) = [line for line in lines_of(later["split"]) if "broken" in line]
    assert line == (
        "tst-megatron: step 0, in the stage of bags of 2: broken was not asked: it broke meanwhile"
    )
    assert len(later["split"].losses) == 1
    assert later["split"].ledger.notes == []
