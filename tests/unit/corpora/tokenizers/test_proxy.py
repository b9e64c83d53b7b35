"""A proxy's vocabulary: bytes for all who read text, and any tokenizer's ids in the other form."""

import json
from argparse import Namespace
from pathlib import Path

import made_tokenizers
import pytest

from tst_megatron.corpora.commands.compressor_flags import put_folder
from tst_megatron.corpora.compression.compressor import Compressor, Settings
from tst_megatron.corpora.compression.counts import CountModel
from tst_megatron.corpora.compression.growing import grown
from tst_megatron.corpora.compression.windows import Windows
from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.byte_lengths import byte_lengths
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import reference_encoder
from tst_megatron.corpora.tokenizers.proof import choose_encoder
from tst_megatron.corpora.tokenizers.proxy import (
    COMPRESSED_MARK,
    NUM_BYTES,
    RAW_MARK,
    ProxyIds,
    proxy_files,
)
from tst_megatron.corpora.tokenizers.proxy_folder import compressed_form
from tst_megatron.errors import UserError

KINDS = ("bytes", "sentencepiece-bpe", "gpt2", "tiktoken")
AWKWARD = [text for _, text in awkward_strings((RAW_MARK, COMPRESSED_MARK, "<|17|>"))]


def inner_of(kind: str, folder: Path) -> str:
    if kind == "bytes":
        return kind
    names = {"sentencepiece-bpe": next(iter(made_tokenizers.SENTENCEPIECE))}
    names["gpt2"] = next(iter(made_tokenizers.HUGGING_FACE))
    return str(made_tokenizers.tokenizer(folder, names.get(kind, kind)))


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory) -> tuple[Path, TokenizerDescription]:
    """A proxy's folder, and the tokenizer that compresses in it."""
    folder = tmp_path_factory.mktemp("proxy")
    inner = describe(inner_of(request.param, folder), None)
    put_folder(folder / "proxy", proxy_files(inner))
    return folder / "proxy", inner


def test_text_is_its_bytes_after_their_mark_whatever_it_says(made) -> None:
    folder, inner = made
    raw, ids = describe(str(folder)), ProxyIds(inner.vocab_size)
    assert (raw.kind, raw.vocab_size, raw.eod) == ("huggingface", ids.vocab_size, ids.eod)
    chosen = choose_encoder(raw, AWKWARD)
    assert chosen.fell_back is None
    encoded = chosen.encoder.encode(AWKWARD)
    begin = 0
    for text, length in zip(AWKWARD, encoded.lengths.tolist(), strict=True):
        found = encoded.ids[begin : begin + length].tolist()
        assert found == [ids.raw, *text.encode()]
        begin += length


def test_the_compressed_form_is_the_other_tokenizers_ids(made) -> None:
    folder, inner = made
    form = compressed_form(str(folder))
    assert form is not None
    compressed, ids = describe(form), ProxyIds(inner.vocab_size)
    raw = describe(str(folder))
    # A run has one tokenizer, so that corpora of both forms are of the same.
    for name in ("sha256", "vocab_size", "eod", "megatron_flags"):
        assert getattr(compressed, name) == getattr(raw, name)
    texts = [text for text in AWKWARD if text]
    ours = choose_encoder(compressed, texts).encoder.encode(texts)
    theirs = reference_encoder(inner).encode(texts)
    assert (ours.lengths == theirs.lengths + 1).all()
    begin = 0
    for text, length in zip(texts, ours.lengths.tolist(), strict=True):
        found = ours.ids[begin : begin + length].tolist()
        own = reference_encoder(inner).encode([text]).ids.tolist()
        assert found == [ids.compressed, *(NUM_BYTES + one for one in own)]
        begin += length


def test_it_is_the_same_after_a_copy(made, tmp_path) -> None:
    folder, _ = made
    compressed = describe(f"{folder}/compressed")
    compressed.copy_to(tmp_path / "copy")
    again = describe(f"{tmp_path / 'copy'}/compressed")
    assert again.files == compressed.files
    assert describe(str(tmp_path / "copy")).sha256 == compressed.sha256


def test_megatron_and_transformers_read_a_prompt_as_bytes(made) -> None:
    from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
    from transformers import AutoTokenizer

    folder, inner = made
    ids = ProxyIds(inner.vocab_size)
    theirs = AutoTokenizer.from_pretrained(folder)
    text = f"def f(x): {RAW_MARK} é <|17|>"
    assert theirs(text)["input_ids"] == [ids.raw, *text.encode()]
    assert theirs.decode([ids.raw, *text.encode(), ids.eod], skip_special_tokens=True) == text

    class Flags(Namespace):
        def __getattr__(self, name: str) -> None:
            return None

    flags = {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": str(folder)}
    megatrons = build_tokenizer(Flags(**flags))
    assert megatrons.vocab_size == ids.vocab_size
    assert megatrons.eod == ids.eod
    assert megatrons.tokenize(text) == [ids.raw, *text.encode()]


def test_a_byte_is_a_byte_and_a_mark_is_none(made) -> None:
    folder, inner = made
    lengths = byte_lengths(describe(str(folder)))
    assert lengths is not None
    ids = ProxyIds(inner.vocab_size)
    assert (lengths[:NUM_BYTES] == 1).all()
    assert not lengths[[ids.eod, ids.raw, ids.compressed]].any()


def test_windows_of_a_compressor_compress_too(tmp_path) -> None:
    model = CountModel.trained([b"def f(x): return x\n" * 50], 2)
    windows = Windows(grown(model, 9, "all", lambda number: None))
    settings = Settings("equal-info", 9, 9, "all")
    put_folder(tmp_path / "ct", Compressor(settings, windows, None, {}).files)
    inner = describe(str(tmp_path / "ct"))
    put_folder(tmp_path / "proxy", proxy_files(inner))
    encoded = choose_encoder(describe(f"{tmp_path / 'proxy'}/compressed"), ["def f(x)"])
    ids = encoded.encoder.encode(["def f(x)"]).ids.tolist()
    assert inner.library.decode([one - NUM_BYTES for one in ids[1:]]) == "def f(x)"


def test_what_cannot_compress_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot compress text"):
        proxy_files(describe("null:100"))
    put_folder(tmp_path / "proxy", proxy_files(describe("bytes")))
    with pytest.raises(UserError, match="cannot compress text"):
        proxy_files(describe(f"{tmp_path / 'proxy'}/compressed"))


@pytest.mark.parametrize("name", ["../../../other", "/etc", "..", "a/b", "../t.model?pattern=v1"])
def test_a_record_that_names_a_tokenizer_elsewhere_is_refused(tmp_path, name) -> None:
    put_folder(tmp_path / "proxy", proxy_files(describe("bytes")))
    record = tmp_path / "proxy/compressed/proxy.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"tokenizer": name}))
    with pytest.raises(UserError, match="which is no file beside it"):
        describe(f"{tmp_path / 'proxy'}/compressed")


def test_another_inner_tokenizer_of_as_many_ids_is_refused(tmp_path) -> None:
    models = [CountModel.trained([text * 50], 2) for text in (b"def f(x): return x\n", b"once ")]
    for name, model in zip(("ct", "other"), models, strict=True):
        windows = Windows(grown(model, 9, "all", lambda number: None))
        put_folder(tmp_path / name, Compressor(Settings("equal-info", 9, 9, "all"), windows).files)
    put_folder(tmp_path / "proxy", proxy_files(describe(str(tmp_path / "ct"))))
    other = describe(str(tmp_path / "other"))
    assert other.vocab_size == describe(str(tmp_path / "ct")).vocab_size
    inner = tmp_path / "proxy/compressed/tokenizer"
    for file, content in other.files.items():
        (inner / file).write_bytes(content)
    with pytest.raises(UserError, match=r"proxy\.json was written for other tokenizers"):
        describe(f"{tmp_path / 'proxy'}/compressed")


def test_a_folder_that_was_mixed_is_refused(tmp_path) -> None:
    put_folder(tmp_path / "proxy", proxy_files(describe("bytes")))
    record = tmp_path / "proxy/compressed/proxy.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"sha256": "0"}))
    with pytest.raises(UserError, match=r"proxy\.json was written for other tokenizers"):
        describe(f"{tmp_path / 'proxy'}/compressed")
    record.write_text(json.dumps(told | {"format": 1}))
    with pytest.raises(UserError, match="of another version"):
        describe(f"{tmp_path / 'proxy'}/compressed")
    record.write_text("{}")
    with pytest.raises(UserError, match="not what tst-megatron compressor proxy writes"):
        describe(f"{tmp_path / 'proxy'}/compressed")
