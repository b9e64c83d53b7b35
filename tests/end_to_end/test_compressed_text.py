"""Compressed text in Megatron's trainer, in bags, by windows and by bytes; and a byte model."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from trainer import TINY, Job, run, run_all

from tst_megatron import cli
from tst_megatron.corpora.compression.byte_models import read_byte_model

BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.4")


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["tst-megatron", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus.documents))
    return file


@pytest.fixture(scope="module")
def prefixes(text, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("indexed")
    with pytest.MonkeyPatch.context() as patch:
        call(patch, "compressor", "train", text, "--output", folder / "m1", "--order=3")
        for name, flags in {"windows": ["--window-bits=10"], "halves": ["--token-bits=8"]}.items():
            call(patch, "compressor", "build", folder / "m1", "--output", folder / name, *flags)
        tokenizers = {name: folder / name for name in ("windows", "halves")} | {"bytes": "bytes"}
        for name, tokenizer in tokenizers.items():
            out = folder / f"{name}-corpus"
            call(patch, "index", "build", text, "--tokenizer", tokenizer, "--output", out)
    return {name: folder / f"{name}-corpus" for name in tokenizers}


def test_windows_and_bytes_train_in_bags_and_leave_as_any_model(
    prefixes, tmp_path, monkeypatch, capsys
) -> None:
    jobs = {
        name: Job(
            tmp_path / name,
            (
                *(flag for flag in TINY if not flag.startswith("--tokenizer-type")),
                *BAGS,
                f"--data-path={prefix}",
                f"--data-cache-path={tmp_path / 'cache' / name}",
                f"--save={tmp_path / name / 'saved'}",
                "--save-interval=10",
            ),
        )
        for name, prefix in prefixes.items()
    }
    results = dict(zip(jobs, run_all(list(jobs.values())), strict=True))
    sizes = {
        name: one.ledger.header["tokenizer"]["padded_vocab_size"] for name, one in results.items()
    }
    assert sizes == {"windows": 1_024, "halves": 257, "bytes": 257}
    # Ten steps of 64 positions, of which the first four hold two tokens.
    assert [one.ledger.steps[-1]["data_tokens"] for one in results.values()] == [896] * 3
    capsys.readouterr()
    model = tmp_path / "model"
    call(monkeypatch, "export", tmp_path / "windows/saved", "--output", model, "--verify")
    assert "at most 0 apart" in capsys.readouterr().out
    call(monkeypatch, "generate", model, "--prompt=def f", "--max-new-tokens=4")
    assert capsys.readouterr().out.strip()


def test_runs_of_three_tokenizers_are_compared_in_bits_a_byte(
    prefixes, corpus, tmp_path, monkeypatch, capsys
) -> None:
    """On three held-out documents, which windows of one id and of two cut otherwise than bytes."""
    record = Path(f"{prefixes['windows']}.tokenizer/compressor.json")
    told = json.loads(record.read_bytes())
    # As if the table were of a byte model that was trained.
    told["model"] |= {"flops": 1e12, "gpu_hours": 0.5}
    record.write_text(json.dumps(told))
    jobs = {
        name: Job(
            tmp_path / name,
            (
                *(flag for flag in TINY if not flag.startswith("--tokenizer-type")),
                *("--split=950,50,0", "--full-validation", "--eval-interval=10"),
                *("--seq-length=64", "--max-position-embeddings=64", "--micro-batch-size=4"),
                f"--data-path={prefix}",
                f"--data-cache-path={tmp_path / 'cache' / name}",
            ),
        )
        for name, prefix in prefixes.items()
    }
    results = dict(zip(jobs, run_all(list(jobs.values())), strict=True))
    ledgers = {name: one.ledger for name, one in results.items()}
    texts = {name: one.header["held_out"] for name, one in ledgers.items()}
    held_out = sum(len(text.encode()) for text in corpus.documents[-3:])
    assert {text["bytes"] for text in texts.values()} == {held_out}
    assert len({text["sha256"] for text in texts.values()}) == 1
    assert len({text["tokens"] for text in texts.values()}) == 3
    assert [len(one.header["parents"]) for one in ledgers.values()] == [1, 0, 0]
    for name, ledger in ledgers.items():
        line, text = ledger.validations[-1], texts[name]
        # But for the first token and a last sequence that is not full.
        assert 0 <= text["tokens"] - 1 - line["tokens"] < 64, name
        assert 0.99 * held_out < line["bytes"] <= held_out, name
    capsys.readouterr()
    files = {name: result.ledger_file for name, result in results.items()}
    words = (files["bytes"], "--with", files["windows"], files["halves"], "--json")
    call(monkeypatch, "compare", *words)
    found = json.loads(capsys.readouterr().out)
    assert (found["loss_unit"], found["steps_compare"]) == ("bits a byte", False)
    runs = {one["name"]: one for one in found["runs"]}
    for name, ledger in ledgers.items():
        line = ledger.validations[-1]
        bits = line["next_token_loss"] * line["tokens"] / line["bytes"] / math.log(2)
        assert runs[name]["final_loss"] == pytest.approx(bits)
        of_model = 1e12 if name == "windows" else 0
        assert runs[name]["flops"] == pytest.approx(line["flops"] + of_model)
    assert "a byte model of" in " ".join(runs["windows"]["notes"])


def test_of_text_in_two_forms_the_byte_model_is_a_parent_of_runs_that_read_the_compressed_one(
    prefixes, text, tmp_path, monkeypatch
) -> None:
    """And not of bytes alone, of the same vocabulary."""
    shutil.copytree(prefixes["windows"].parent / "windows", tmp_path / "ct")
    record = tmp_path / "ct/compressor.json"
    told = json.loads(record.read_bytes())
    told["model"] |= {"flops": 1e12, "gpu_hours": 0.5}
    record.write_text(json.dumps(told))
    call(monkeypatch, "compressor", "proxy", tmp_path / "ct", "--output", tmp_path / "proxy")
    words = ("--tokenizer", tmp_path / "proxy", "--output", tmp_path / "c")
    call(monkeypatch, "index", "build", text, *words)
    usual = (
        *(flag for flag in TINY if not flag.startswith("--tokenizer-type")),
        f"--data-path={tmp_path / 'c'}",
        f"--data-cache-path={tmp_path / 'cache'}",
    )
    jobs = [
        Job(tmp_path / name, (*usual, *flags))
        for name, flags in {"bytes": (), "both": ("--proxy-schedule=0.5",)}.items()
    ]
    found = [result.ledger.header["parents"] for result in run_all(jobs)]
    assert [[one["flops"] for one in parents] for parents in found] == [[], [1e12]]
    assert "c.compressed.tokenizer/compressed/tokenizer/compressor.json" in found[1][0]["what"]


def test_samples_are_shown_as_text(prefixes, corpus, monkeypatch, capsys) -> None:
    """Of windows of two ids, too, which begin where the document's own do."""
    between = str.maketrans("", "", "|[]·…")
    escaped = (text.encode("unicode_escape").decode() for text in corpus.documents)
    documents = "\n".join(escaped).translate(between)
    flags = ("--seq-length=16", "--global-batch-size=4", "--train-iters=10", "--samples=3")
    for name in ("windows", "halves"):
        capsys.readouterr()
        call(monkeypatch, "index", "inspect", prefixes[name], *flags, *BAGS)
        samples = capsys.readouterr().out.partition("\nsample ")[2]
        shown = re.findall(r"^  (?:inputs |targets)  (.*)$", samples, re.MULTILINE)
        # Three samples of bags and three of single tokens.
        assert len(shown) == 12
        for line in shown:
            # Ids of a window that began before, or of one that goes on, have no text here.
            text = re.sub(r"<[0-9a-f]{2}>|<cut>", "", line).partition("<|end of document|>")[0]
            assert text.translate(between)
            assert text.translate(between) in documents, (name, line)


def test_a_byte_model_is_trained_and_goes_on(text, tmp_path, monkeypatch, capsys) -> None:
    words = ("compressor", "train", text, "--size=tiny", "--steps=20", "--output", tmp_path / "m1")
    call(monkeypatch, *words)
    record = read_byte_model(tmp_path / "m1").record
    assert (record.kind, record.context) == ("transformer", 64)
    assert record.parameters == 139_712
    assert record.flops > 0
    # 20 steps: less than chance, and far from what text costs.
    assert 2 < record.bits_a_byte < 8
    (tmp_path / "m1").rename(tmp_path / "first")
    capsys.readouterr()
    call(monkeypatch, *words)
    assert "1 of 1 runs are done already" in capsys.readouterr().out
    assert (tmp_path / "m1" / "m1.json").read_bytes() == (tmp_path / "first/m1.json").read_bytes()
    build = ("compressor", "build", tmp_path / "m1", "--window-bits=9", "--output", tmp_path / "ct")
    call(monkeypatch, *build)
    assert "512 ids with the end of a document" in capsys.readouterr().out


def test_another_compressors_corpus_is_not_read_with_this_one(prefixes, tmp_path) -> None:
    both = ("--data-path", "0.5", str(prefixes["windows"]), "0.5", str(prefixes["halves"]))
    flags = tuple(flag for flag in TINY if not flag.startswith("--tokenizer-type"))
    result = run(Job(tmp_path, (*flags, *both)), check=False)
    assert result.code
    assert "were indexed with different tokenizers, and a run has one" in result.output
