"""``tst-megatron evaluate`` as a user calls it: models of a few KB, files, and the run's ledger."""

import json
import math
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ledgers import write_ledger
from tiny_models import END, MAX_LENGTH, folder_of
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, LlamaForCausalLM

from tst_megatron import cli
from tst_megatron.huggingface.folder import model_folder
from tst_megatron.runs.ledger import read_ledger
from tst_megatron.runs.stages import Stage

QUESTIONS = [
    {"question": f"{a} and {b} make", "options": [str(a + b), str(a * b + 1), "none"], "right": 0}
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
dataset_kwargs:
  data_files:
    test: data/sums.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{right}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
OTHERS = """\
task: continuing
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{options[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
---
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a run, its ledger, tasks and texts."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_ledger(folder / "ledger.jsonl", {50: 4.0, 100: 3.5})
    facts = {"run_id": None, "step": 100, "ledger": str(folder / "ledger.jsonl")}
    folder_of(folder / "model", facts=facts)
    folder_of(folder / "foreign", seed=1, merges=12)
    (folder / "tasks" / "data").mkdir(parents=True)
    for path in (folder / "tasks/data/sums.jsonl", folder / "tasks/sums.jsonl"):
        path.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    (folder / "tasks/sums.yaml").write_text(YAML)
    for name, text in zip(("generated", "whole"), OTHERS.split("---\n"), strict=True):
        (folder / f"tasks/{name}.yaml").write_text(text)
    lines = "".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS)
    (folder / "mixed.jsonl").write_text(lines)
    return folder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command sets for its own process goes with the test."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tst-megatron", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


class Reference:
    """Log-probabilities in float64, a row at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder).double().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.end = self.tokenizer.convert_tokens_to_ids(END)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def nats(self, ids: list[int], scored: int) -> float:
        shares = self.model(torch.tensor([ids[:-1]])).logits[0].log_softmax(dim=-1)
        places = range(len(ids) - scored, len(ids))
        return -math.fsum(float(shares[at - 1, ids[at]]) for at in places)

    def of_document(self, text: str) -> float:
        """Windows that do not overlap, but in the token that each goes on after."""
        ids = [self.end, *self.ids(text)]
        cuts = range(0, len(ids) - 1, MAX_LENGTH)
        parts = [ids[at : at + MAX_LENGTH + 1] for at in cuts]
        return math.fsum(self.nats(part, len(part) - 1) for part in parts)

    def of_choice(self, context: str, choice: str) -> float:
        return -self.nats(self.ids(f"{context} {choice}"), len(self.ids(f" {choice}")))


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), items


def test_scores_are_those_of_float64_and_go_into_the_ledger(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    tasks = [place / "tasks/sums.yaml", "probe_digit_order"]
    flags = ["--limit", 12, "--batch-size", 5, "--device", "cpu", "--out", out]
    texts = ["--held-out", place / "mixed.jsonl"]
    assert call(monkeypatch, place / "model", "--tasks", *tasks, *texts, *flags) == 0
    results, items = read(out)
    reference = Reference(place / "model")

    nats = [reference.of_document(one) for one in DOCUMENTS]
    sizes = [len(one.encode()) for one in DOCUMENTS]
    text = results["evaluations"]["mixed.jsonl"]
    assert text["nats"] == pytest.approx(math.fsum(nats), rel=1e-5)
    bits = text["metrics"]["bits_a_byte"]["value"]
    assert bits == pytest.approx(sum(nats) / sum(sizes) / math.log(2), rel=1e-5)

    right = []
    of_sums = [one for one in items if one["task"] == "sums"]
    for item, asked in zip(of_sums, QUESTIONS, strict=True):
        choices = [reference.of_choice(asked["question"], one) for one in asked["options"]]
        assert item["log_likelihoods"] == pytest.approx(choices, rel=1e-5)
        right.append(int(np.argmax(choices) == 0))
        assert item["metrics"]["acc"] == right[-1]
    sums = results["evaluations"]["sums"]["metrics"]["acc"]
    assert sums["value"] == np.mean(right)
    assert sums["stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))
    assert (sums["chance"], sums["n"]) == (pytest.approx(1 / 3), len(QUESTIONS))

    assert {path.name for path in out.iterdir()} == {
        *("items.jsonl", "results.json", "results.md", "report.html", "scores.png")
    }
    printed = capsys.readouterr().out
    assert f"{bits:.4f}" in printed
    assert f"{bits:.4f}" in (out / "results.md").read_text()
    digest = sha256((out / "items.jsonl").read_bytes()).hexdigest()
    assert results["items_sha256"] == digest
    (line,) = read_ledger(place / "ledger.jsonl").evaluations
    told = line["evaluations"]["mixed.jsonl"]
    assert line["step"] == 100
    assert told["metrics"] == text["metrics"]
    assert told["items_sha256"] == digest
    assert (place / told["items"]).resolve() == out.resolve() / "items.jsonl"


def test_a_model_from_elsewhere_generates_and_scores_whole_texts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    tasks = ["tasks/generated.yaml", "tasks/whole.yaml"]
    out = tmp_path / "out"
    assert call(monkeypatch, "foreign", "--tasks", *tasks, "--num-fewshot", 0, "--out", out) == 0
    results, items = read(out)
    reference = Reference(place / "foreign")
    nats = [reference.of_document(one["question"]) for one in QUESTIONS]
    sizes = sum(len(one["question"].encode()) for one in QUESTIONS)
    whole = results["evaluations"]["whole"]["metrics"]["bits_per_byte"]["value"]
    assert whole == pytest.approx(sum(nats) / sizes / math.log(2), rel=1e-5)
    generated = results["evaluations"]["continuing"]["metrics"]["exact_match"]
    assert 0 <= generated["value"] <= 1
    assert "chance" not in generated
    assert [one["metrics"] for one in items if one["task"] == "continuing"]
    assert results["step"] is None


def test_evaluated_again_the_last_scores_count_and_no_ledger_is_no_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    write_ledger(ledger, {50: 4.0, 100: 3.5})
    text = ["--held-out", place / "mixed.jsonl"]
    for number, flags in enumerate((["--limit", 1], ["--max-length", 16], ["--stride", 4])):
        where = ["--no-ledger"] if number == 2 else ["--ledger", ledger]
        words = [place / "model", *text, "--out", tmp_path / str(number), *flags, *where]
        assert call(monkeypatch, *words) == 0
    (line,) = read_ledger(ledger).evaluations
    told = line["evaluations"]["mixed.jsonl"]
    assert told["metrics"] == read(tmp_path / "1")[0]["evaluations"]["mixed.jsonl"]["metrics"]
    assert told["metrics"]["bits_a_byte"]["n"] == len(DOCUMENTS)
    assert len(ledger.read_text().splitlines()) == 15  # A header, 10 steps, 2 and 2.


def test_what_a_reader_should_know_stands_beside_the_scores(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that were not read, documents that were not asked, a model that is not done yet."""
    stage = Stage("bags of 4", 200, loss="bag loss").as_json()
    write_ledger(tmp_path / "run.jsonl", {50: 4.0})
    facts = {"run_id": None, "step": 50, "ledger": "../run.jsonl", "stage": stage}
    superposed = folder_of(tmp_path / "superposed", facts=facts)
    (tmp_path / "code").mkdir()
    for name in ("one.py", "two.py", "three.pdf"):
        (tmp_path / "code" / name).write_text(name)
    (tmp_path / "four.log").write_text("four")
    monkeypatch.chdir(tmp_path)
    words = ["--held-out", "code", "--limit", 1, "--out", "report"]
    assert call(monkeypatch, superposed, *words) == 0
    notes = read(tmp_path / "report")[0]["notes"]
    assert "Left out of code: 1 .pdf." in notes
    assert "Of a task or text with more, the first 1 alone were asked (--limit)." in notes
    assert any(note.startswith("Step 50 is in the stage of bags of 4, whose") for note in notes)
    assert "Ledger: run.jsonl, step 50\n" in capsys.readouterr().out
    named = ["--held-out", "four.log", "--format", "text", "--no-ledger", "--out", "four"]
    assert call(monkeypatch, place / "model", *named) == 0
    with model_folder(superposed):
        assert "warning: step 50 is in the stage of bags of 4" in capsys.readouterr().err


@pytest.fixture(scope="module")
def broken(place: Path) -> Path:
    """What users get wrong, in files."""
    (place / "other.jsonl").write_text((place / "ledger.jsonl").read_text())
    (place / "plain.txt").write_text("no tokens but these")
    (place / "empty.jsonl").write_text("")
    (place / "keys.jsonl").write_text('{"body": "x"}\n')
    (place / "full").mkdir()
    (place / "full/file").write_text("")
    (place / "nothing").mkdir()
    tasks = {
        "broken": "task: [",
        "group": "group: both\ntask: [sums]\n",
        "hub": "task: hub\ndataset_path: owner/name\noutput_type: multiple_choice\n",
        "nodata": "task: nodata\ndataset_path: json\n",
        "lost": YAML.replace("data/sums", "lost"),
        "field": YAML.replace("{{options}}", "{{nothing_such}}"),
        "twice": YAML,
    }
    for name, text in tasks.items():
        (place / f"tasks/{name}.yaml").write_text(text)
    shorter = place / "shorter"
    folder_of(shorter, facts={"step": 5000})
    other = folder_of(place / "larger", merges=12)
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((place / "model" / name).read_bytes())
    nan = LlamaForCausalLM.from_pretrained(folder_of(place / "nan"))
    nan.lm_head.weight.data[3] = math.nan
    nan.save_pretrained(place / "nan")
    (place / "half").mkdir()
    for file in (place / "model").iterdir():
        if file.name != "model.safetensors":
            (place / "half" / file.name).write_bytes(file.read_bytes())
    shutil.copytree(place / "model", place / "silent", ignore=shutil.ignore_patterns("token*"))
    return place


TEXT = ("--held-out", "{}/plain.txt")
REFUSALS = [
    (("{}/none", *TEXT), "none is not there"),
    (("{}/plain.txt", *TEXT), "plain.txt is a file: give the folder"),
    (("{}/half", *TEXT), "half cannot be loaded by transformers"),
    (("{}/larger", *TEXT), "it is another model's"),
    (("{}/silent", *TEXT), "silent has no tokenizer"),
    (("{}/nan", *TEXT), "probabilities that are no numbers"),
    (("{}/model",), "give --tasks, --held-out or both"),
    (("{}/model", "--held-out", "{}/gone.txt"), "gone.txt is missing"),
    (("{}/model", "--held-out", "{}/empty.jsonl"), "holds no document"),
    (("{}/model", "--held-out", "{}/keys.jsonl"), 'no field "text"'),
    (("{}/model", "--held-out", "{}/plain.txt", "{}/plain.txt"), "is given twice"),
    (("{}/model", "--tasks", "{}/tasks/none.yaml"), "none.yaml is missing"),
    (("{}/model", "--tasks", "{}/tasks/broken.yaml"), "broken.yaml cannot be read"),
    (("{}/model", "--tasks", "{}/tasks/group.yaml"), 'has no "task: NAME"'),
    (("{}/model", "--tasks", "{}/tasks/hub.yaml"), "would download the data set owner/name"),
    (("{}/model", "--tasks", "{}/tasks/nodata.yaml"), "names no data_files"),
    (("{}/model", "--tasks", "{}/tasks/lost.yaml"), "neither beside it nor"),
    (("{}/model", "--tasks", "{}/tasks/field.yaml"), "field.yaml cannot be read"),
    (
        ("{}/model", "--tasks", "{}/tasks/sums.yaml", "{}/tasks/twice.yaml"),
        "two tasks are called sums",
    ),
    (("{}/model", *TEXT, "--limit", "0"), "--limit 0 is below 1"),
    (("{}/model", *TEXT, "--batch-size", "0"), "--batch-size 0 is below 1"),
    (("{}/model", *TEXT, "--max-length", "999"), "--max-length 999 is more than the 48"),
    (("{}/model", *TEXT, "--stride", "99"), "--stride 99 is more than the 48"),
    (("{}/model", *TEXT, "--num-fewshot", "2"), "--num-fewshot is for --tasks"),
    (("{}/model", *TEXT, "--step", "7"), "is of step 100, not 7"),
    (("{}/model", *TEXT, "--ledger", "{}/none.jsonl"), "none.jsonl is not there"),
    (("{}/foreign", *TEXT, "--ledger", "{}/other.jsonl"), "give --step"),
    (("{}/shorter", *TEXT, "--ledger", "{}/other.jsonl"), "ends at step 100, before step 5,000"),
    (("{}/model", *TEXT, "--out", "{}/full"), "is not empty"),
    (("{}/model", *TEXT, "--out", "{}/plain.txt"), "is a file: give a folder"),
]


@pytest.mark.parametrize(("words", "says"), REFUSALS)
def test_a_users_mistake_is_one_sentence(
    words: tuple[str, ...],
    says: str,
    broken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(broken) for word in words]
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    before = (broken / "other.jsonl").read_bytes()
    assert call(monkeypatch, *given, *out) == 2
    told = capsys.readouterr()
    assert told.err.startswith("tst-megatron: error: "), told.err
    assert told.err.count("\n") == 1, told.err
    assert says in told.err
    assert (broken / "other.jsonl").read_bytes() == before
    assert not list(tmp_path.glob("out/*"))


def test_without_the_harness_texts_are_scored_and_tasks_refused_in_a_sentence(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # As Python has what is not there.
    asked = [place / "model", "--out", tmp_path / "out", "--no-ledger"]
    assert call(monkeypatch, *asked, "--tasks", "probe_role_swap") == 2
    assert "tst-megatron[evaluation]" in capsys.readouterr().err
    assert call(monkeypatch, *asked, "--held-out", place / "mixed.jsonl") == 0
    assert "lm-eval" not in read(tmp_path / "out")[0]["versions"]


def test_a_text_is_scored_after_what_its_tokenizer_puts_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As documents began in the corpus, where a mark of its own follows the end of the last one."""
    made = folder_of(tmp_path / "made")
    tokenizer = Tokenizer.from_file(str(made / "tokenizer.json"))
    mark, end = (tokenizer.token_to_id(one) for one in ("!", END))
    tokenizer.post_processor = processors.TemplateProcessing("! $A", special_tokens=[("!", mark)])
    tokenizer.save(str(made / "tokenizer.json"))
    for words in (
        ("import", made, tmp_path / "start"),
        ("export", tmp_path / "start", tmp_path / "out"),
    ):
        monkeypatch.setattr(
            sys, "argv", ["tst-megatron", *map(str, (*words[:2], "--output", words[2]))]
        )
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (mark, end)
    text = tmp_path / "text.txt"
    text.write_text("short")
    report = tmp_path / "report"
    assert call(monkeypatch, tmp_path / "out", "--held-out", text, "--out", report) == 0
    results, _ = read(report)
    assert results["document_start"] == mark
    reference = Reference(made)
    ids = [mark, *reference.tokenizer("short", add_special_tokens=False)["input_ids"]]
    found = results["evaluations"]["text.txt"]["nats"]
    assert found == pytest.approx(reference.nats(ids, 5), rel=1e-5)
