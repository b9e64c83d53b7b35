"""`index build`: the bytes of Megatron's builder, whoever wrote them and however often it began."""

import gzip
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from rich.console import Console
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tst_megatron.corpora.indexing import build as build_module
from tst_megatron.corpora.indexing import workers
from tst_megatron.corpora.indexing.build import build
from tst_megatron.corpora.indexing.output import corpus_output
from tst_megatron.corpora.indexing.partial import partial_folder
from tst_megatron.corpora.indexing.plan import BuildSettings
from tst_megatron.corpora.manifest import LeftOutRecord, Manifest, megatron_flags, read_manifest
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.fields import parse_where
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.corpora.tokenizers.encoders import Encoded
from tst_megatron.errors import UserError

ALPHABET = "the quick brown fox jumps over ΑΒΓ 漢字 🙂 \t{}()=;:\n"


def random_text(rng: random.Random, number: int) -> str:
    words = ("".join(rng.choices(ALPHABET, k=rng.randint(1, 9))) for _ in range(number))
    return " ".join(words) + "."


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    return [random_text(rng, rng.choice([1, 5, 50, 400])) for _ in range(400)]


@pytest.fixture(scope="module")
def model(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("tokenizer") / "bpe"
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture
def inputs(texts: list[str], tmp_path: Path) -> list[str]:
    """The texts in files of several kinds."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_jsonl(folder / "0.jsonl", texts[:150])
    with gzip.open(folder / "1.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[150:200])
    pa.parquet.write_table(
        pa.table({"text": texts[200:390]}), folder / "2.parquet", row_group_size=7
    )
    for i, text in enumerate(texts[390:]):
        (folder / f"3-{i}.txt").write_text(text)
    return [str(folder)]


def write_jsonl(file: Path, texts: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def settings(inputs: list[str], model: Path | str, **others: Any) -> BuildSettings:
    given: dict[str, Any] = {
        "format": None,
        "options": ReadOptions(),
        "where": None,
        "workers": 2,
        "chunk_bytes": 5000,
    }
    tokenizer = describe(str(model))
    return BuildSettings(inputs=tuple(inputs), tokenizer=tokenizer, **given | others)


def quiet() -> Console:
    return Console(file=io.StringIO())


def built(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def by_megatron(texts: list[str], model: Path, prefix: Path, append_eod: bool = True) -> Any:
    processor = SentencePieceProcessor(model_file=str(model))
    builder = IndexedDatasetBuilder(
        f"{prefix}.bin", dtype=DType.optimal_dtype(processor.vocab_size())
    )
    for text in texts:
        ids = processor.encode(text) + [processor.eos_id()] * append_eod
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")
    return built(prefix)


@pytest.mark.parametrize("append_eod", [True, False])
def test_writes_the_bytes_of_megatrons_builder(
    append_eod: bool, inputs: list[str], texts: list[str], model: Path, tmp_path: Path
) -> None:
    build(settings(inputs, model, append_eod=append_eod), tmp_path / "ours", quiet())
    assert built(tmp_path / "ours") == by_megatron(texts, model, tmp_path / "theirs", append_eod)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk_bytes", [1, 777, 10**9])
def test_neither_workers_nor_chunks_can_be_seen(
    workers: int, chunk_bytes: int, inputs: list[str], texts: list[str], model: Path, tmp_path: Path
) -> None:
    if chunk_bytes == 1:
        # Every byte is a chunk, a file for each.
        texts = [text[:30] for text in texts[:20]]
        write_jsonl(tmp_path / "few.jsonl", texts)
        inputs = [str(tmp_path / "few.jsonl")]
    asked = settings(inputs, model, workers=workers, chunk_bytes=chunk_bytes)
    build(asked, tmp_path / "ours", quiet())
    assert built(tmp_path / "ours") == by_megatron(texts, model, tmp_path / "theirs")


def test_the_manifest_says_where_it_came_from(
    inputs: list[str], texts: list[str], model: Path, tmp_path: Path
) -> None:
    made = build(settings(inputs, model), tmp_path / "c", quiet())
    assert read_manifest(tmp_path / "c") == made
    files = sorted(Path(inputs[0]).iterdir())
    assert [one.path for one in made.inputs] == [str(file) for file in files]
    for one, file in zip(made.inputs, files, strict=True):
        assert one.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert one.size == file.stat().st_size
    assert [one.documents for one in made.inputs] == [150, 50, 190] + [1] * 10
    lengths = [len(SentencePieceProcessor(model_file=str(model)).encode(t)) + 1 for t in texts]
    assert made.documents == 400
    assert made.tokens == sum(lengths)
    assert made.longest_document == max(lengths)
    assert made.text_bytes == sum(len(text.encode()) for text in texts)
    assert made.tokenizer.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert made.tokenizer.fell_back is None
    assert made.tokenizer.encoder.startswith("gigatoken ")
    assert made.tokenizer.checked_documents > len(files)
    copied = tmp_path / "c.tokenizer" / "tokenizer.model"
    assert copied.read_bytes() == model.read_bytes()
    assert megatron_flags(tmp_path / "c", made.tokenizer)[-1] == str(copied)
    for record, file in ((made.bin, tmp_path / "c.bin"), (made.idx, tmp_path / "c.idx")):
        assert record.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert record.size == file.stat().st_size


def test_a_package_that_is_not_installed_has_no_version(
    inputs: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As this one, where it runs from a plain folder."""
    monkeypatch.setattr(build_module, "_PACKAGES", ("tst-megatron-of-a-plain-folder", "numpy"))
    versions = build(settings(inputs, model), tmp_path / "c", quiet()).versions
    assert versions["numpy"] == np.__version__
    assert "tst-megatron-of-a-plain-folder" not in versions


def test_an_encoder_that_differs_on_the_sample_is_not_used(
    inputs: list[str],
    texts: list[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tampered(monkeypatch, model, only_after=0)
    said = quiet()
    made = build(settings(inputs, model), tmp_path / "ours", said)
    assert built(tmp_path / "ours") == by_megatron(texts, model, tmp_path / "theirs")
    assert made.tokenizer.fell_back is not None
    assert made.tokenizer.encoder.startswith("sentencepiece ")
    assert "the slower way" in said.file.getvalue()  # type: ignore[attr-defined]


def test_an_encoder_that_differs_in_the_middle_begins_anew(
    inputs: list[str],
    texts: list[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is proven on a sample may still be wrong for a document that was not in it.
    monkeypatch.setattr(build_module, "_sample", lambda *_: ["nothing special"])
    tampered(monkeypatch, model, only_after=2)
    made = build(settings(inputs, model), tmp_path / "ours", quiet())
    assert built(tmp_path / "ours") == by_megatron(texts, model, tmp_path / "theirs")
    assert "other ids for a document of" in str(made.tokenizer.fell_back)
    assert made.tokenizer.encoder.startswith("sentencepiece ")


def tampered(monkeypatch: pytest.MonkeyPatch, model: Path, only_after: int) -> None:
    """Have the fast encoder wrong about some text: from the first call, or later."""
    from tst_megatron.corpora.tokenizers.proof import choose_encoder

    fast = type(choose_encoder(describe(str(model)), []).encoder)
    encode = fast.encode
    calls = [0]

    def wrong(self: Any, documents: list[str]) -> Encoded:
        right = encode(self, documents)
        calls[0] += 1
        if calls[0] <= only_after or not len(right.ids):
            return right
        ids = np.array(right.ids)
        ids[0] = (ids[0] + 1) % 500
        return Encoded(ids, right.lengths)

    monkeypatch.setattr(fast, "encode", wrong)


def test_the_reference_can_be_asked_for(
    inputs: list[str], texts: list[str], model: Path, tmp_path: Path
) -> None:
    made = build(settings(inputs, model, uses_reference=True), tmp_path / "ours", quiet())
    assert made.tokenizer.encoder.startswith("sentencepiece ")
    assert built(tmp_path / "ours") == by_megatron(texts, model, tmp_path / "theirs")


BAD = (
    '{"text": "good"}\n{"text": 7}\n\n{"txt": "?"}\n{"text": ""}\nno json\n{"text": "also good"}\n'
)


def test_the_first_bad_record_is_named_by_its_line(
    model: Path, texts: list[str], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "0.jsonl", texts)
    (tmp_path / "1.jsonl").write_text("".join('{"text": "a"}\n' for _ in range(5000)) + BAD)
    asked = settings([str(tmp_path / "0.jsonl"), str(tmp_path / "1.jsonl")], model)
    with pytest.raises(UserError, match=r"1\.jsonl, record 5,002: .*--on-error skip"):
        build(asked, tmp_path / "c", quiet())
    assert not (tmp_path / "c.bin").exists()


def test_bad_records_are_counted_and_listed(model: Path, tmp_path: Path) -> None:
    lines = ['{"text": "a"}\n'] * 5000 + [BAD] * 3
    (tmp_path / "1.jsonl").write_text("".join(lines))
    made = build(settings([str(tmp_path / "1.jsonl")], model, skips=True), tmp_path / "c", quiet())
    assert made.documents == 5000 + 3 * 2
    assert sum(made.skipped.values()) == 3 * 4
    assert len(made.skipped) == 4
    listed = [one.record for one in made.skipped_records]
    assert listed == [5000 + 7 * i + j for i in range(3) for j in (2, 4, 5, 6)]
    assert made.settings["on_error"] == "skip"


def test_goes_on_with_skipping_what_stopped_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text("".join(['{"text": "a"}\n'] * 5000) + BAD)
    inputs = [str(tmp_path / "1.jsonl")]
    with pytest.raises(UserError):
        build(settings(inputs, model), tmp_path / "c", quiet())
    begun = {p.name: p.stat().st_mtime_ns for p in partial_folder(tmp_path / "c").glob("*.shard")}
    assert begun, "finished shards are kept"
    build(settings(inputs, model, skips=True), tmp_path / "c", quiet())
    build(settings(inputs, model, skips=True), tmp_path / "whole", quiet())
    assert built(tmp_path / "c") == built(tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"append_eod": False}, "append-eod True, and this one has False"),
        ({"options": ReadOptions(field="body")}, "field text, and this one has body"),
        ({"chunk_bytes": 4000}, "--chunk-bytes 5000, and this one has 4000"),
        ({"uses_reference": True}, "whose ids gigatoken .* wrote"),
    ],
)
def test_never_goes_on_with_other_settings(
    other: dict[str, Any], message: str, model: Path, texts: list[str], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "1.jsonl", [*texts, ""])
    inputs = [str(tmp_path / "1.jsonl")]
    with pytest.raises(UserError, match="record 401"):
        build(settings(inputs, model), tmp_path / "c", quiet())
    with pytest.raises(UserError, match=message):
        build(settings(inputs, model, **other), tmp_path / "c", quiet())


def test_never_goes_on_with_a_changed_input(model: Path, texts: list[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "1.jsonl", [*texts, ""])
    inputs = [str(tmp_path / "1.jsonl")]
    with pytest.raises(UserError, match="record 401"):
        build(settings(inputs, model), tmp_path / "c", quiet())
    write_jsonl(tmp_path / "1.jsonl", texts)
    with pytest.raises(UserError, match=r"1\.jsonl has changed since.*delete"):
        build(settings(inputs, model), tmp_path / "c", quiet())


def test_a_built_corpus_is_left_as_it_is(inputs: list[str], model: Path, tmp_path: Path) -> None:
    made = build(settings(inputs, model), tmp_path / "c", quiet())
    written = (tmp_path / "c.bin").stat().st_mtime_ns
    assert build(settings(inputs, model), tmp_path / "c", quiet()) == made
    assert (tmp_path / "c.bin").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="is there already"):
        build(settings(inputs, model, append_eod=False), tmp_path / "c", quiet())


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_corpus_with_a_file_missing_is_not_taken_for_built(
    ending: str, inputs: list[str], model: Path, tmp_path: Path
) -> None:
    build(settings(inputs, model), tmp_path / "c", quiet())
    (tmp_path / f"c.{ending}").unlink()
    with pytest.raises(UserError, match="is there already: give another --output"):
        build(settings(inputs, model), tmp_path / "c", quiet())


def test_an_input_of_the_same_size_and_another_time_is_another_input(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "1.jsonl").write_text('{"text": "old"}\n')
    build(settings([str(tmp_path / "1.jsonl")], model), tmp_path / "c", quiet())
    (tmp_path / "1.jsonl").write_text('{"text": "new"}\n')
    with pytest.raises(UserError, match="is there already: give another --output"):
        build(settings([str(tmp_path / "1.jsonl")], model), tmp_path / "c", quiet())


def test_a_worker_that_is_killed_is_one_sentence(
    inputs: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    whole = workers.with_ends
    monkeypatch.setattr(workers, "with_ends", killed)
    with pytest.raises(UserError, match=r"a worker was killed, .* with fewer --workers"):
        build(settings(inputs, model), tmp_path / "c", quiet())
    monkeypatch.setattr(workers, "with_ends", whole)
    build(settings(inputs, model), tmp_path / "c", quiet())


def test_where_and_nothing_left(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"number {i}", "score": i}) + "\n" for i in range(100)]
    (tmp_path / "1.jsonl").write_text("".join(lines))
    inputs = [str(tmp_path / "1.jsonl")]

    def filtered(expression: str) -> dict[str, Any]:
        return {"options": ReadOptions(where=parse_where(expression)), "where": expression}

    made = build(settings(inputs, model, **filtered("score >= 90")), tmp_path / "c", quiet())
    assert (made.documents, made.filtered) == (10, 90)
    with pytest.raises(UserError, match=r"hold no documents: 0 .* skipped and 100 filtered out"):
        build(settings(inputs, model, **filtered("score > 100")), tmp_path / "none", quiet())
    # Nothing is in the way of the right filter.
    assert not list(tmp_path.glob("none*"))
    made = build(settings(inputs, model, **filtered("score > 98")), tmp_path / "none", quiet())
    assert made.documents == 1


def test_documents_without_a_token_are_left_out_and_listed(model: Path, tmp_path: Path) -> None:
    """As Megatron's preprocess_data.py leaves them out; they are no bad records."""
    rows = [" ", [1, 2], "  ", [3]]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    options = ReadOptions(field="ids", reads="ids")
    asked = settings([str(tmp_path / "1.jsonl")], "null:100", options=options, chunk_bytes=13)
    made = build(asked, tmp_path / "c", quiet())
    assert made.documents == made.inputs[0].documents == 2
    assert made.skipped == {"the document has no tokens": 2}
    assert [(one.record, one.reason) for one in made.skipped_records] == [
        (1, "the document has no tokens"),
        (3, "the document has no tokens"),
    ]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("some text")
    (tmp_path / "texts/b.txt").write_text("")
    made = build(settings([str(tmp_path / "texts")], model), tmp_path / "d", quiet())
    assert (made.documents, made.skipped) == (1, {"the file is empty": 1})
    with pytest.raises(
        UserError, match=r"no documents: 1 .* \(.*b\.txt, record 1: the file is empty"
    ):
        build(settings([str(tmp_path / "texts/b.txt")], model), tmp_path / "e", quiet())


def test_text_without_a_token_is_no_text_of_the_corpus(tmp_path: Path) -> None:
    """Bytes a token, and bits a byte in the ledger, are over the text that has tokens."""
    tokenizer = Tokenizer(WordLevel({"</s>": 0, "wörd": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_jsonl(tmp_path / "1.jsonl", ["wörd", " " * 10_000, "wörd wörd", "\u3000"])
    model = tmp_path / "tokenizer.json"
    made = build(settings([str(tmp_path / "1.jsonl")], model), tmp_path / "c", quiet())
    assert (made.documents, made.skipped) == (2, {"the document has no tokens": 2})
    assert made.text_bytes == len("wördwörd wörd".encode())


def test_a_build_that_left_out_documents_without_a_token_is_gone_on_with(tmp_path: Path) -> None:
    rows = [" ", [1, 2], [3], [4], "x"]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    options = ReadOptions(field="ids", reads="ids")
    asked = {"inputs": [str(tmp_path / "1.jsonl")], "model": "null:100", "options": options}
    for _ in range(2):
        with pytest.raises(UserError, match=r"1\.jsonl, record 5: .*cannot be encoded"):
            build(settings(**asked, chunk_bytes=13, workers=1), tmp_path / "c", quiet())
        assert partial_folder(tmp_path / "c").exists()
    made = build(settings(**asked, chunk_bytes=13, skips=True), tmp_path / "c", quiet())
    assert (made.documents, sorted(made.skipped.values())) == (3, [1, 1])


def test_a_field_that_is_not_there_is_met_with_those_that_are(model: Path, tmp_path: Path) -> None:
    table = pa.table({"id": [1], "body": ["a"]})
    pyarrow.parquet.write_table(table, tmp_path / "1.parquet")
    (tmp_path / "1.csv").write_text("id,body\n1,a\n")
    (tmp_path / "1.jsonl").write_text('{"id": 1, "body": "a"}\n')
    has = r": it has id, body; name one of these with --field$"
    for name, where in (
        ("1.jsonl", 'record 1: no field "text"'),
        ("1.csv", 'no column "text"'),
        ("1.parquet", 'no column "text"'),
    ):
        with pytest.raises(UserError, match=where + has):
            build(settings([str(tmp_path / name)], model), tmp_path / "c", quiet())
    where = parse_where("scor > 1")
    options = {"options": ReadOptions(field="body", where=where), "where": where.expression}
    with pytest.raises(UserError, match=r'"scor": it has id, body; name one of these with --where'):
        build(settings([str(tmp_path / "1.jsonl")], model, **options), tmp_path / "c", quiet())
    # One record that lacks it among others is a slip of that record.
    (tmp_path / "2.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(UserError, match=r"record 2: .* it has body; repair it, .*--on-error skip"):
        build(settings([str(tmp_path / "2.jsonl")], model), tmp_path / "c", quiet())


def test_a_field_that_only_what_is_filtered_may_have(model: Path, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"text": "a", "score": 1}\n{"body": "b", "score": 2}\n')
    where = parse_where("score > 1")
    options = {"options": ReadOptions(where=where), "where": where.expression}
    with pytest.raises(
        UserError, match=r"with --field, or leave such records out with --on-error skip$"
    ):
        build(settings([str(tmp_path / "1.jsonl")], model, **options), tmp_path / "c", quiet())


def test_what_is_not_read_of_a_broken_file_is_said(model: Path, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text('text\na\n"b\nc\nd\n')
    (tmp_path / "2.csv").write_text("body\na\n")
    (tmp_path / "3.parquet").write_bytes(b"PAR1")
    for name, says in (
        ("1.csv", r"record 2: .*; repair it, or leave the rest of the file out with --on-error"),
        ("2.csv", r"2\.csv: .*; name one of these with --field$"),
        ("3.parquet", r"3\.parquet: .*; repair it, or leave the file out with --on-error skip$"),
    ):
        with pytest.raises(UserError, match=says):
            build(settings([str(tmp_path / name)], model), tmp_path / "c", quiet())
    inputs = [str(tmp_path / name) for name in ("1.csv", "2.csv")]
    made = build(settings(inputs, model, skips=True), tmp_path / "c", quiet())
    assert (made.documents, made.skipped) == (
        1,
        {
            "not CSV that can be read, and the rest of the file was not read": 1,
            'no column "text", and the file was not read': 1,
        },
    )


def test_what_is_left_out_of_a_folder_is_said_and_kept(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.csv", "b.dat", "c.dat", ".hidden", "_SUCCESS"):
        (folder / name).write_text("text\na document\n")
    said = quiet()
    made = build(settings([str(folder)], model), tmp_path / "c", said)
    kinds = {".dat": 2, "hidden": 1, "without an ending": 1}
    assert made.left_out == [LeftOutRecord(str(folder), kinds)]
    assert read_manifest(tmp_path / "c") == made
    line = f"Left out of {folder}: 2 .dat, 1 hidden, 1 without an ending\n"
    assert said.file.getvalue() == line  # type: ignore[attr-defined]


def test_a_manifest_of_before_left_out_is_read(
    inputs: list[str], model: Path, tmp_path: Path
) -> None:
    made = build(settings(inputs, model), tmp_path / "c", quiet())
    content = json.loads((tmp_path / "c.manifest.json").read_bytes())
    del content["left_out"]
    (tmp_path / "c.manifest.json").write_text(json.dumps(content | {"schema_version": 1}))
    assert read_manifest(tmp_path / "c") == made


def test_ids_that_are_there_already(tmp_path: Path) -> None:
    rows = [[1, 2, 3], [70000, 5], [9]]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    options = ReadOptions(field="ids", reads="ids")
    made: Manifest = build(
        settings([str(tmp_path / "1.jsonl")], "null:100000", options=options),
        tmp_path / "c",
        quiet(),
    )
    builder = IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=np.int32)
    for row in rows:
        builder.add_document(torch.tensor([*row, 99999]), [len(row) + 1])
    builder.finalize(str(tmp_path / "m.idx"))
    assert built(tmp_path / "c") == built(tmp_path / "m")
    assert made.tokenizer.megatron_flags[:2] == ["--tokenizer-type", "NullTokenizer"]
    (tmp_path / "2.jsonl").write_text('{"ids": [1]}\n{"ids": [100000]}\n')
    with pytest.raises(UserError, match=r"record 2: .*100000"):
        build(
            settings([str(tmp_path / "2.jsonl")], "null:100000", options=options),
            tmp_path / "d",
            quiet(),
        )


def test_nothing_of_a_merge_that_was_killed_gets_into_a_build(
    inputs: list[str], model: Path, tmp_path: Path
) -> None:
    """A merge leaves the same files in the same folder, and no plan."""
    with corpus_output(tmp_path / "c") as output, output.appending(np.dtype(np.uint16)) as merged:
        merged.tokens(np.arange(10, dtype=np.uint16))
        merged.lengths(np.array([10], np.int32))
        merged.sync({})
    build(settings(inputs, model), tmp_path / "c", quiet())
    build(settings(inputs, model), tmp_path / "alone", quiet())
    assert built(tmp_path / "c") == built(tmp_path / "alone")


def test_a_flag_can_be_put_right_when_nothing_was_done_with_it(
    inputs: list[str], model: Path, tmp_path: Path
) -> None:
    wrong = {"options": ReadOptions(field="body"), "chunk_bytes": None}
    with pytest.raises(UserError, match='no field "body"'):
        build(settings(inputs, model, **wrong), tmp_path / "c", quiet())
    build(settings(inputs, model), tmp_path / "c", quiet())


def test_of_many_small_files_a_sample_and_one_a_chunk_are_checked(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(500):
        (folder / f"{i:03d}.txt").write_text(f"the quick fox number {i}\n" * 20)
    made = build(settings([str(folder)], model, chunk_bytes=None), tmp_path / "c", quiet())
    # The sample's, of the only chunk, and the chunk's.
    in_sample = made.tokenizer.checked_documents - 1
    assert 60 < in_sample <= 100


def test_a_file_that_cannot_be_read_at_all_has_no_record(model: Path, tmp_path: Path) -> None:
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1\.parquet: not Parquet that can be read"):
        build(settings([str(tmp_path / "1.parquet")], model), tmp_path / "c", quiet())


def test_a_whole_corpus_is_safe_from_the_folder_of_who_was_killed_last(
    inputs: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        if self == partial_folder(tmp_path / "c"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        build(settings(inputs, model), tmp_path / "c", quiet())
    monkeypatch.undo()
    (tmp_path / "c.done.partial").mkdir()  # Half removed when another was killed before that.
    (tmp_path / "c.done.partial" / "000001.shard").touch()
    build(settings(inputs, model), tmp_path / "c", quiet())
    whole = built(tmp_path / "c")
    with pytest.raises(UserError, match="is there already: give another --output"):
        build(settings(inputs, model, append_eod=False), tmp_path / "c", quiet())
    assert built(tmp_path / "c") == whole
    assert not list(tmp_path.glob("*.partial"))
