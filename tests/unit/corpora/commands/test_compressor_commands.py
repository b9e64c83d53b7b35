"""``tst-megatron compressor`` as a user calls it, and a compressor as a tokenizer."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tst_megatron.corpora.commands import (
    compressor_build,
    compressor_inspect,
    compressor_measure,
    index_build,
    index_verify,
    tokenizer_inspect,
)
from tst_megatron.corpora.compression.folder import RECORD_FILE
from tst_megatron.corpora.manifest import read_manifest
from tst_megatron.corpora.token_text import TokenText, recorded_tokenizer
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.errors import UserError
from tst_megatron.experiments import compressor_train

SOURCE = Path(json.__file__).parent
TEXT = (SOURCE / "decoder.py").read_text()


def call(command: ModuleType, *flags: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    command.main(parser.parse_args([str(flag) for flag in flags]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m1"
    call(compressor_train, str(SOURCE), "--order=3", f"--output={folder}")
    return folder


@pytest.fixture(scope="module")
def build(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, ...], Path] = {}

    def build(*flags: str) -> Path:
        if flags not in made:
            folder = tmp_path_factory.mktemp("compressors") / "ct"
            named = () if "--method=gzip" in flags else (str(model),)
            call(compressor_build, *named, f"--output={folder}", *flags)
            made[flags] = folder
        return made[flags]

    return build


WAYS = {
    "a table": ("--window-bits=10",),
    "two ids a window": ("--window-bits=16", "--token-bits=8", "--rule=fit"),
    "steps": ("--window-bits=32",),
    "one code": ("--method=ac", "--token-bits=16"),
    "zlib": ("--method=gzip",),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_corpus_is_indexed_and_becomes_text_again(
    way: str, build: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build(*WAYS[way])
    texts = [TEXT[:3_000], "naïve\t世界 <|end of document|>", " "]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "text.jsonl").write_text(lines)
    prefix = tmp_path / "corpus"
    call(index_build, str(tmp_path / "text.jsonl"), f"--tokenizer={folder}", f"--output={prefix}")
    call(index_verify, str(prefix))
    manifest = read_manifest(prefix)
    assert manifest is not None
    assert manifest.text_bytes == sum(len(text.encode()) for text in texts)
    described = recorded_tokenizer(prefix, manifest.tokenizer)
    assert manifest.dtype == ("int32" if described.vocab_size > 65_500 else "uint16")
    ids = np.fromfile(f"{prefix}.bin", manifest.dtype).astype(np.int64)
    documents = np.split(ids, np.flatnonzero(ids == described.eod) + 1)[:-1]
    assert [described.library.decode(ids[:-1]) for ids in documents] == texts
    shown = TokenText(described)
    assert shown.document(documents[1]) == f"{texts[1]}<|end of document|>"
    assert shown.piece(manifest.tokenizer.eod) == "<|end of document|>"
    call(tokenizer_inspect, str(folder), "--text", "x = 1")
    assert "compressor" in capsys.readouterr().out


@pytest.mark.parametrize("way", WAYS)
def test_measured_and_looked_at(
    way: str, build: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, notes = build(*WAYS[way]), tmp_path / "notes.txt"
    notes.write_bytes(bytes(range(256)) + TEXT.encode())  # Bytes are bytes, UTF-8 or not.
    capsys.readouterr()
    call(compressor_measure, str(folder), str(notes), "--json", "--max-bytes=4000")
    found = json.loads(capsys.readouterr().out)
    assert found["lossless"] is True
    assert found["text_bytes"] == 4_000
    assert found["bytes_an_id"] == pytest.approx(4_000 / found["ids"])
    assert found["unigram_bits_a_byte"] <= found["uniform_bits_a_byte"]
    call(compressor_inspect, str(folder), "--text", "def f(x):")
    shown = capsys.readouterr().out
    assert "The text: 9 bytes" in shown
    assert "".join(shown.splitlines()[-2].split("|")) == "def f(x):"


def test_bytes_need_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aé")
    prefix = tmp_path / "corpus"
    call(index_build, str(tmp_path / "a.txt"), "--tokenizer=bytes", f"--output={prefix}")
    assert np.fromfile(f"{prefix}.bin", np.uint16).tolist() == [97, 0xC3, 0xA9, 256]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--window-bits=8",), "made for 9 to 24"),
        (("--window-bits=32", "--rule=all"), "larger windows go by --rule cells"),
        (("--window-bits=12", "--rule=cells"), "a multiple of 8 from 16 to 128"),
        (("--window-bits=24", "--token-bits=16"), "--token-bits 16 does not divide"),
        (("--token-bits=12",), "give 8 or 16"),
        (("--token-bits=0",), "give 8 or 16"),
        (("--reset-every=2", "--rule=all"), "a table holds windows that begin anew"),
        (("--reset-every=-1",), "is below 0"),
        (("--method=gzip",), "needs no byte model"),
        (("--method=ac", "--window-bits=16"), "--window-bits 16 is for --method equal-info"),
        (("--method=static-ac",), "make its byte model with --order 0"),
    ],
)
def test_a_code_that_there_is_none_of(
    flags: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        call(compressor_build, str(model), f"--output={tmp_path / 'ct'}", *flags)
    assert not (tmp_path / "ct").exists()


def test_what_is_there_is_left_alone(model: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        call(compressor_build, str(model), f"--output={model}")
    with pytest.raises(UserError, match="is there already"):
        call(compressor_train, str(SOURCE), f"--output={model}")


@pytest.mark.parametrize("flag", ["--order=2", "--max-bytes=100"])
def test_flags_of_counts_are_no_transformers(flag: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not go with --size tiny: leave it out"):
        call(compressor_train, str(SOURCE), f"--output={tmp_path / 'm'}", "--size=tiny", flag)


def test_a_table_of_another_compressor_is_found_out(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    ours, other = build(*WAYS["a table"]), build("--window-bits=11")
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in (RECORD_FILE, "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((ours / name).read_bytes())
    with pytest.raises(UserError, match=r"has no windows\.bin: copy the whole folder"):
        call(compressor_inspect, str(folder))
    (folder / "windows.bin").write_bytes((other / "windows.bin").read_bytes())
    with pytest.raises(UserError, match="text would be read as other text"):
        call(compressor_inspect, str(folder))
    (folder / RECORD_FILE).write_text("{}")
    with pytest.raises(UserError, match="is not what tst-megatron compressor build writes"):
        call(compressor_inspect, str(folder))
    with pytest.raises(UserError, match=r"is no compressor: it has no compressor\.json"):
        call(compressor_inspect, str(tmp_path))
    with pytest.raises(UserError, match=r"is no byte model: it has no m1\.json"):
        call(compressor_build, str(ours), f"--output={tmp_path / 'ct'}")


@pytest.mark.parametrize("way", ["two ids a window", "steps"])
def test_ids_in_a_row_are_shown_as_the_text_of_their_windows(
    way: str, build: Callable[..., Path]
) -> None:
    description = describe(str(build(*WAYS[way])))
    code, text = description.library.code, TokenText(description)
    width = {"two ids a window": 2, "steps": 2}[way]
    ids = code.encode([TEXT[:400].encode()]).ids.tolist()
    shown = ["".join(one) for one in zip(*[iter(text.pieces(ids, 0))] * width, strict=True)]
    assert all(one.endswith("…" * (width - 1)) for one in shown)
    told = TEXT[:400].encode("unicode_escape").decode()
    assert "".join(shown).replace("…", "") == told
    # From within a window, and to within one.
    found = text.pieces(ids[1:-1], 1)
    assert found[0].startswith("<")
    assert found[1:-1] == text.pieces(ids, 0)[2:-2]
    assert found[-1] == "<cut>"
    # Where it is not known where they begin, the end of a document tells.
    end = code.num_ids
    found = text.pieces([*ids[1:], end, *ids[:3]])
    assert found[1 : len(ids) - 1] == text.pieces(ids, 0)[2:]
    assert found[len(ids) - 1] == "<|end of document|>"
    assert found[-3:-1] == text.pieces(ids[:2], 0)
    assert found[-1] == "<cut>"
    assert all(one.startswith("<") for one in text.pieces(ids[1:9]))
