"""Compressed text in Megatron's trainer, in bags, by windows and by bytes; and a byte model."""

import json
import re
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


def test_samples_are_shown_as_text(prefixes, monkeypatch, capsys) -> None:
    flags = ("--seq-length=16", "--global-batch-size=4", "--train-iters=10", "--samples=1")
    for name, shown in {"windows": r"targets  .*\|", "halves": r"<[0-9a-f]{2}>\|<"}.items():
        capsys.readouterr()
        call(monkeypatch, "index", "inspect", prefixes[name], *flags, *BAGS)
        assert re.search(shown, capsys.readouterr().out), name


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
