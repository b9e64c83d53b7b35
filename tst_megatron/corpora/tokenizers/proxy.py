"""A vocabulary that has text in two forms: its bytes, and the ids of another tokenizer
(arXiv 2602.04289).

The folder that ``compressor proxy`` writes::

    tokenizer.json, tokenizer_config.json   what Megatron and transformers read: bytes after a mark
    compressed/proxy.json                   which tokenizer compresses, and its SHA-256
    compressed/tokenizer/                   that tokenizer

The one idea: to all who read text it is a tokenizer of bytes, so that a prompt is bytes after their
mark, and a validation is of bytes. The other tokenizer's ids are in its vocabulary, and text alone
never becomes them: ``compressed/`` names the form that writes them, in a corpus of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from tst_megatron.corpora.compression.hugging_face import EOD_TOKEN, byte_alphabet
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import Encoded, Encoder
from tst_megatron.corpora.tokenizers.huggingface import TOKENIZER_FILE
from tst_megatron.corpora.tokenizers.proxy_folder import FORM, INNER, RECORD_FILE
from tst_megatron.errors import UserError

RAW_MARK = "<|raw bytes|>"
COMPRESSED_MARK = "<|compressed|>"
"""Sentinels in front of a form. Spaces are not in the byte alphabet."""

KIND = "proxy"
NUM_BYTES = 256
_FORMAT = 2
_CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class ProxyIds:
    """Where the vocabulary has what: bytes, the other tokenizer's ids, then three marks.

    Attributes:
        num_compressed: ids of the other tokenizer.
    """

    num_compressed: int

    @property
    def eod(self) -> int:
        """The end of a document."""
        return NUM_BYTES + self.num_compressed

    @property
    def raw(self) -> int:
        """The mark in front of bytes."""
        return self.eod + 1

    @property
    def compressed(self) -> int:
        """The mark in front of the other tokenizer's ids."""
        return self.eod + 2

    @property
    def vocab_size(self) -> int:
        """All of them."""
        return self.eod + 3


@dataclass(frozen=True)
class Proxy:
    """What writes the compressed form.

    Attributes:
        inner: the tokenizer that compresses.
        ids: of the vocabulary.
    """

    inner: TokenizerDescription = field(repr=False)
    ids: ProxyIds

    def around(self, encoder: Encoder) -> "ProxyEncoder":
        """An encoder of the inner tokenizer's, in this vocabulary."""
        return ProxyEncoder(encoder, self.ids)


class ProxyEncoder:
    """The inner tokenizer's ids after the mark that says so.

    Args:
        inner: writes them.
        ids: of the vocabulary.
    """

    def __init__(self, inner: Encoder, ids: ProxyIds) -> None:
        self.name = inner.name
        self.version = inner.version
        self._inner = inner
        self._ids = ids

    def encode(self, documents: Any) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        encoded = self._inner.encode(documents)
        begins = np.cumsum(encoded.lengths) - encoded.lengths
        ids = encoded.ids.astype(np.int32) + NUM_BYTES
        return Encoded(np.insert(ids, begins, self._ids.compressed), encoded.lengths + 1)


def proxy_files(inner: TokenizerDescription) -> dict[str, bytes]:
    """The folder's files, by their paths in it.

    Raises:
        UserError: the tokenizer reads no text, or is such a folder itself.
    """
    if inner.reads != "text" or inner.kind == KIND:
        raise UserError(
            f"the tokenizer {inner.source} cannot compress text: name a compressor's folder, or a "
            "tokenizer of text"
        )
    files = _tokenizer_files(ProxyIds(inner.vocab_size))
    record = {
        "format": _FORMAT,
        "tokenizer": _spec_within(inner),
        "tokenizer_sha256": inner.sha256,
        "num_ids": inner.vocab_size,
        "sha256": _digest(files),
    }
    files[f"{FORM}/{RECORD_FILE}"] = _json(record)
    return files | {f"{FORM}/{INNER}/{name}": one for name, one in inner.files.items()}


def read_proxy(spec: str, folder: Path) -> TokenizerDescription:
    """The compressed form, which is the tokenizer of a corpus of its own.

    Args:
        spec: as the user named it.
        folder: ``compressed/`` of what `proxy_files` has.

    Raises:
        UserError: it is not whole.
        OSError: a file cannot be read.
    """
    record = _record(folder)
    root = folder.parent
    inner = describe(_inner_spec(folder, record["tokenizer"]))
    files = {name: (root / name).read_bytes() for name in (TOKENIZER_FILE, _CONFIG_FILE)}
    told = (record["sha256"], record["tokenizer_sha256"], record["num_ids"])
    if (_digest(files), inner.sha256, inner.vocab_size) != told:
        raise UserError(
            f"{folder / RECORD_FILE} was written for other tokenizers than lie beside it: copy the "
            "whole folder of compressor proxy again"
        )
    files[f"{FORM}/{RECORD_FILE}"] = (folder / RECORD_FILE).read_bytes()
    ids = ProxyIds(inner.vocab_size)
    return TokenizerDescription(
        kind=KIND,
        source=spec,
        files=files | {f"{FORM}/{INNER}/{name}": one for name, one in inner.files.items()},
        # A corpus of either form is of the same tokenizer.
        sha256=_digest(files),
        vocab_size=ids.vocab_size,
        eod=ids.eod,
        megatron_flags=(
            *("--tokenizer-type", "HuggingFaceTokenizer"),
            *("--tokenizer-model", "{folder}"),
        ),
        special_tokens=(),
        library=Proxy(inner, ids),
    )


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_bytes())
        if record["format"] == _FORMAT:
            names = ("tokenizer", "tokenizer_sha256", "num_ids", "sha256")
            return {name: record[name] for name in names}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is not what tst-megatron compressor proxy writes") from None
    raise UserError(f"{path} is of another version of tst-megatron: make it again")


def _inner_spec(folder: Path, told: str) -> str:
    """What names the inner tokenizer to `describe`: its folder, or a file that lies in it.

    Raises:
        UserError: the record names something elsewhere.
    """
    name, mark, options = str(told).partition("?")
    if name != PurePath(name).name or name == "..":
        raise UserError(
            f"{folder / RECORD_FILE} names {name}, which is no file beside it: make the folder "
            "again with tst-megatron compressor proxy"
        )
    return f"{folder / INNER / name}{mark}{options}"


def _spec_within(inner: TokenizerDescription) -> str:
    """What names the tokenizer in the folder of its files, as `describe` takes it."""
    if inner.kind not in ("sentencepiece", "tiktoken"):
        return ""
    (name,) = inner.files
    if inner.kind == "sentencepiece":
        return name
    value = dict(zip(inner.megatron_flags[::2], inner.megatron_flags[1::2], strict=True))
    return (
        f"{name}?pattern={value['--tiktoken-pattern']}"
        f"&num_special_tokens={value['--tiktoken-num-special-tokens']}"
        f"&vocab_size={value['--vocab-size']}"
    )


def _digest(files: Mapping[str, bytes]) -> str:
    """Of the file that a corpus of bytes knows its tokenizer by."""
    return sha256(files[TOKENIZER_FILE]).hexdigest()


def _tokenizer_files(ids: ProxyIds) -> dict[str, bytes]:
    """BPE without merges: a text is bytes, whatever else is in the vocabulary."""
    names = {letter: byte for byte, letter in enumerate(byte_alphabet())}
    # Two characters and more, so that no byte is called so.
    names |= {f"<|{one}|>": NUM_BYTES + one for one in range(ids.num_compressed)}
    marks = {EOD_TOKEN: ids.eod, RAW_MARK: ids.raw, COMPRESSED_MARK: ids.compressed}
    of_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    of_bytes["use_regex"] = False
    mark = {"SpecialToken": {"id": RAW_MARK, "type_id": 0}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, one) for token, one in marks.items()],
        "normalizer": None,
        "pre_tokenizer": of_bytes,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [mark, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                mark,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {RAW_MARK: {"id": RAW_MARK, "ids": [ids.raw], "tokens": [RAW_MARK]}},
        },
        "decoder": of_bytes,
        "model": {"type": "BPE", "vocab": names | marks, "merges": []},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOD_TOKEN,
        "clean_up_tokenization_spaces": False,
        # A mark that is spelt out in a text is text.
        "split_special_tokens": True,
    }
    return {
        TOKENIZER_FILE: json.dumps(tokenizer, ensure_ascii=False).encode(),
        _CONFIG_FILE: _json(config),
    }


def _added(token: str, one: int) -> dict[str, Any]:
    how = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": one, "content": token, **how, "special": True}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
