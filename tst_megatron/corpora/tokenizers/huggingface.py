"""Hugging Face tokenizers as Megatron's ``HuggingFaceTokenizer`` loads them.

Megatron hands a folder to transformers' ``AutoTokenizer``, and what a folder's configuration says
can change what its ``tokenizer.json`` does. So a folder with one is loaded by ``AutoTokenizer``
here as well, and a bare ``tokenizer.json``, which gets a configuration of ours that changes
nothing, by the library alone, seconds sooner; so are GPT-2's two files, made into one.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from tst_megatron.corpora.tokenizers import auto_tokenizer, gpt2_files
from tst_megatron.corpora.tokenizers.auto_tokenizer import AutoTokenizerOf
from tst_megatron.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_SPECIAL_TOKENS_FILE = "special_tokens_map.json"
# All that AutoTokenizer may look at; code is not among it, as Megatron would not trust it.
_MODEL_CONFIG_FILE = "config.json"
_OTHER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    _MODEL_CONFIG_FILE,
    gpt2_files.MERGES_FILE,
    "tokenizer.model",
    gpt2_files.VOCABULARY_FILE,
)
# As models have called it, the most telling first.
_USUAL_EOD_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    "<|im_end|>",
)


@dataclass(frozen=True)
class HuggingFaceFiles:
    """A tokenizer and the files that make transformers load it.

    Attributes:
        files: by name.
        tokenizer: what transformers would encode with.
        eod_token: Megatron's end-of-document token.
    """

    files: Mapping[str, bytes]
    tokenizer: Tokenizer
    eod_token: str

    @property
    def defining(self) -> bytes:
        """The file that defines the ids, or the two of GPT-2's kind."""
        names = (gpt2_files.VOCABULARY_FILE, gpt2_files.MERGES_FILE)
        one = self.files.get(TOKENIZER_FILE)
        return b"\0".join(self.files[name] for name in names) if one is None else one


def read(path: Path, eod_token: str | None) -> HuggingFaceFiles:
    """Read a ``tokenizer.json``, or a folder with one or with GPT-2's two files.

    Raises:
        UserError: it cannot be loaded, or no token ends a document.
        OSError: a file cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        path = path / TOKENIZER_FILE
        if not path.is_file():
            return _of_two_files(folder, eod_token)
    files = {TOKENIZER_FILE: path.read_bytes()}
    if path.name == TOKENIZER_FILE:
        files |= _beside(folder)
    if files.keys().isdisjoint((_CONFIG_FILE, _SPECIAL_TOKENS_FILE)):
        return _bare(path, files[TOKENIZER_FILE], eod_token)
    return _configured(path, files, eod_token)


def _of_two_files(folder: Path, eod_token: str | None) -> HuggingFaceFiles:
    vocabulary, merges = folder / gpt2_files.VOCABULARY_FILE, folder / gpt2_files.MERGES_FILE
    if not (vocabulary.is_file() and merges.is_file()):
        raise UserError(
            f"the tokenizer {folder} is a folder without a {TOKENIZER_FILE}, or a "
            f"{vocabulary.name} and a {merges.name}: name a file, or a folder with these"
        )
    files = _beside(folder)
    if files.keys().isdisjoint((_CONFIG_FILE, _SPECIAL_TOKENS_FILE, _MODEL_CONFIG_FILE)):
        return read_gpt2(vocabulary, merges, eod_token)
    # Of another model, perhaps, which cuts text in another way.
    return _configured(vocabulary, files, eod_token)


def read_gpt2(vocabulary: Path, merges: Path, eod_token: str | None) -> HuggingFaceFiles:
    """Read GPT-2's two files.

    Raises:
        UserError: they are not what they should be, or no token ends a document.
        OSError: a file cannot be read.
    """
    return _bare(vocabulary, gpt2_files.tokenizer_json(vocabulary, merges), eod_token)


def _beside(folder: Path) -> dict[str, bytes]:
    names = (_CONFIG_FILE, _SPECIAL_TOKENS_FILE, *_OTHER_FILES)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _bare(path: Path, content: bytes, eod_token: str | None) -> HuggingFaceFiles:
    tokenizer = _load(path, content)
    eod_token = _eod_token(path, tokenizer, eod_token)
    # transformers does these three as well.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if eod_token not in {t.content for t in tokenizer.get_added_tokens_decoder().values()}:
        tokenizer.add_tokens([AddedToken(eod_token, special=True)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eod_token}
    files = {TOKENIZER_FILE: content, _CONFIG_FILE: _json(config)}
    return HuggingFaceFiles(files, tokenizer, eod_token)


def _configured(path: Path, files: dict[str, bytes], eod_token: str | None) -> HuggingFaceFiles:
    loaded = _auto_tokenizer(path, files)
    # Megatron takes the one for the other (megatron/core/tokenizers/text/libraries).
    named = loaded.eos_token
    if named is None or (eod_token is not None and eod_token != named):
        named = _eod_token(path, loaded.tokenizer, eod_token)
        files = _with_eos(path, files, named)
        loaded = _auto_tokenizer(path, files)
    return HuggingFaceFiles(files, loaded.tokenizer, named)


def _load(path: Path, content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # The library raises no narrower one.
        if gpt2_files.is_vocabulary(content):
            raise UserError(
                f"the tokenizer {path} is a vocabulary without its merges: name the folder of its "
                "vocab.json and merges.txt, or both files with --vocab-file and --merge-file"
            ) from None
        raise UserError(f"the tokenizer {path} cannot be loaded: {_reason(error)}") from None


def _auto_tokenizer(path: Path, files: Mapping[str, bytes]) -> AutoTokenizerOf:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        try:
            return auto_tokenizer.load(Path(folder))
        except auto_tokenizer.UnloadableError as error:
            raise UserError(
                f"the tokenizer {path.parent} cannot be loaded by transformers: {error}"
            ) from None


def _reason(error: Exception) -> str:
    return " ".join((str(error) or repr(error)).split())[:200]


def _eod_token(path: Path, tokenizer: Tokenizer, wanted: str | None) -> str:
    candidates = _USUAL_EOD_TOKENS if wanted is None else (wanted,)
    for token in candidates:
        if tokenizer.token_to_id(token) is not None:
            return token
    if wanted is not None:
        raise UserError(f"--eod-token {wanted} is not a token of the tokenizer {path}")
    raise UserError(
        f"the tokenizer {path} does not say which token ends a document: name one with --eod-token"
    )


def _with_eos(path: Path, files: Mapping[str, bytes], eos_token: str) -> dict[str, bytes]:
    """The files with another end-of-sentence token in their configuration."""
    changed = dict(files)
    try:
        config = json.loads(files.get(_CONFIG_FILE, b"{}")) | {"eos_token": eos_token}
        changed[_CONFIG_FILE] = _json(config)
        if _SPECIAL_TOKENS_FILE in files:
            special = json.loads(files[_SPECIAL_TOKENS_FILE]) | {"eos_token": eos_token}
            changed[_SPECIAL_TOKENS_FILE] = _json(special)
    except (ValueError, TypeError):
        raise UserError(f"the configuration in {path.parent} is not JSON objects") from None
    return changed


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
