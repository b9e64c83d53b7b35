"""Text in two forms in Megatron's trainer: its shares, resuming, other layouts, bags, and bytes."""

import json
from pathlib import Path

import pytest
import torch
from saved import tensors
from trainer import TINY, Job, Result, run, run_all

from tst_megatron import cli
from tst_megatron.corpora.forms import compressed_prefix

FLAGS = tuple(flag for flag in TINY if not flag.startswith("--tokenizer-type"))
RATES = ("--proxy-schedule=0.25-0.75:0.6,0.75", "--proxy-pairs=0.4", "--proxy-ratio=2.5")
BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.3")
CUT = 5


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["tst-megatron", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.fixture(scope="module")
def prefix(corpus, tmp_path_factory) -> Path:
    """A corpus in two forms: bytes, and a SentencePiece model's ids."""
    folder = tmp_path_factory.mktemp("proxy")
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus.documents))
    with pytest.MonkeyPatch.context() as patch:
        call(patch, "compressor", "proxy", corpus.tokenizer, "--output", folder / "proxy")
        words = (text, "--tokenizer", folder / "proxy", "--output", folder / "c")
        call(patch, "index", "build", *words)
    return folder / "c"


@pytest.fixture(scope="module")
def runs(prefix, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("runs")
    usual = (*FLAGS, f"--data-path={prefix}", f"--data-cache-path={folder / 'cache'}")
    saves = {
        name: f"--save={folder / name / 'saved'}"
        for name in ("whole", "resumed", "in bags", "bags")
    }
    start = (f"--load={folder / 'whole/saved'}", f"--ckpt-step={CUT}")
    in_bags = (f"--load={folder / 'in bags/saved'}", "--ckpt-step=2")
    every = "--save-interval=1"
    first = {
        "bytes": Job(folder / "bytes", usual),
        "whole": Job(folder / "whole", (*usual, *RATES, saves["whole"], every)),
        "two": Job(folder / "two", (*usual, *RATES), num_ranks=2),
        "in bags": Job(folder / "in bags", (*usual, *RATES, *BAGS, saves["in bags"], every)),
    }
    then = {
        "resumed": Job(folder / "resumed", (*usual, *RATES, *start, saves["resumed"], every)),
        "bags": Job(folder / "bags", (*usual, *RATES, *BAGS, *in_bags, saves["bags"], every)),
    }
    found = dict(zip(first, run_all(list(first.values())), strict=True))
    return found | dict(zip(then, run_all(list(then.values())), strict=True))


def weights(result: Result, step: int) -> dict[str, torch.Tensor]:
    return tensors(result.ledger_file.parent / "saved", step)


def test_the_ledger_has_the_rates(runs) -> None:
    ledger = runs["whole"].ledger
    facts = [line["facts"] for line in ledger.steps]
    # Six steps of six stairs, the first four with pairs of the rarer form.
    expected = [0.25 + 0.5 * (stair + 0.5) / 6 for stair in range(6)] + [0.75] * 4
    assert [one["compressed_share"] for one in facts] == pytest.approx(expected)
    pairs = [min(r, 1 - r) / max(r, 1 - r) if step < 4 else 0 for step, r in enumerate(expected)]
    assert [one["paired_share"] for one in facts] == pytest.approx(pairs)
    (method,) = ledger.header["methods"]
    assert method["name"] == "proxy"
    assert method["facts"]["schedule"] == "0.25-0.75:0.6,0.75"
    # A byte model of the same vocabulary does the same work.
    ordinary = runs["bytes"].ledger
    assert [line["flops"] for line in ledger.steps] == [line["flops"] for line in ordinary.steps]
    assert runs["whole"].losses != runs["bytes"].losses


def test_validation_is_of_bytes(runs) -> None:
    told, others = (
        [line for line in map(json.loads, runs[name].ledger_file.read_text().splitlines())
         if line["kind"] == "validation"]
        for name in ("whole", "bytes")
    )  # fmt: skip
    assert len(told) == 3
    for line, other in zip(told, others, strict=True):
        assert (line["tokens"], line["bytes"]) == (other["tokens"], other["bytes"])
        # Marks and ends are tokens without a byte.
        assert 0.9 < line["bytes"] / line["tokens"] <= 1
    assert "bits a byte of the held-out text" in runs["whole"].output


@pytest.mark.parametrize(
    ("whole", "resumed", "step"), [("whole", "resumed", CUT), ("in bags", "bags", 2)]
)
def test_a_run_that_goes_on_ends_as_one_that_was_not_cut(runs, whole, resumed, step) -> None:
    assert runs[resumed].losses == runs[whole].losses[step:]
    expected, found = weights(runs[whole], 10), weights(runs[resumed], 10)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_two_ranks_read_the_same(runs) -> None:
    assert runs["two"].losses == pytest.approx(runs["whole"].losses, rel=1e-5)


def test_in_bags_the_stages_are_of_both(runs) -> None:
    facts = [line["facts"] for line in runs["in bags"].ledger.steps]
    assert [one["bag_size"] for one in facts] == [2] * 3 + [1] * 7
    alone = [line["facts"]["compressed_share"] for line in runs["whole"].ledger.steps]
    assert [one["compressed_share"] for one in facts] == alone


def test_the_model_is_asked_in_bytes(runs, tmp_path, monkeypatch, capsys) -> None:
    model = tmp_path / "model"
    saved = runs["whole"].ledger_file.parent / "saved"
    call(monkeypatch, "export", saved, "--output", model, "--verify")
    assert "at most 0 apart" in capsys.readouterr().out
    call(monkeypatch, "generate", model, "--prompt=def f", "--max-new-tokens=4")
    assert capsys.readouterr().out.strip()


def test_a_comparison_and_a_plan_tell_of_it(runs, monkeypatch, capsys) -> None:
    baseline, candidate = (runs[name].ledger_file for name in ("bytes", "whole"))
    call(monkeypatch, "compare", baseline, "--with", candidate, "--text")
    shown = capsys.readouterr().out
    assert "compressed 0.25-0.75:0.6,0.75, pairs 0.4, ratio 2.5 against baseline" in shown
    flags = ("--gpus=1", "--recipe=tiny-baseline", "--vocab-size=643", "--json")
    call(monkeypatch, "plan", *flags, *RATES)
    steps = json.loads(capsys.readouterr().out)["per_step"]
    assert [one["compressed_share"] for one in steps][-1] == 0.75
    assert sum(one["steps"] for one in steps) == 14_000


def test_the_budget_is_of_both_forms(prefix, monkeypatch, capsys) -> None:
    flags = ("--seq-length=16", "--global-batch-size=4", "--train-iters=10", "--split=900,100,0")
    call(monkeypatch, "index", "budget", f"--data-path={prefix}", *flags, *RATES)
    shown = capsys.readouterr().out
    for name in ("raw bytes", "compressed text", "paired text"):
        assert name in shown


def test_another_schedule_is_another_run(runs, prefix, tmp_path) -> None:
    start = f"--load={runs['whole'].ledger_file.parent / 'saved'}"
    flags = (*FLAGS, f"--data-path={prefix}", "--proxy-schedule=0.9", start)
    result = run(Job(tmp_path, flags), check=False)
    assert result.code == 2
    assert "use the same flags and length, or add --allow-schedule-change" in result.output


def test_a_corpus_in_one_form_is_refused(corpus, prefix, tmp_path) -> None:
    flags = (*TINY, *corpus.flags, "--proxy-schedule=0.9")
    result = run(Job(tmp_path, flags), check=False)
    assert result.code == 2
    said = (
        f"tst-megatron: error: the corpus {corpus.prefix} has no compressed form: there is no file "
    )
    assert f"{said}{compressed_prefix(corpus.prefix)}.idx" in result.output
    assert "process group" not in result.output


def test_what_does_not_go_with_it_is_one_sentence(prefix, tmp_path) -> None:
    flags = (*FLAGS, f"--data-path={prefix}", "--proxy-schedule=0.9", "--tst-schedule=auto:2")
    result = run(Job(tmp_path, flags), check=False)
    assert result.code == 2
    assert "use one of them" in result.output
