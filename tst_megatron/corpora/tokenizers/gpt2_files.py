"""GPT-2's own two files, a vocabulary and its merges, as the ``tokenizer.json`` that they mean.

They are what ``--vocab-file`` and ``--merge-file`` name for Megatron's ``GPT2BPETokenizer``.
Megatron asks the Hugging Face hub for the rest, which is the same for all such files and written
here: text is cut by GPT-2's expression, its bytes are characters of the vocabulary, and those are
merged.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from tst_megatron.errors import UserError

VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
_HEADER = "#version"
# As transformers writes it for GPT-2.
_BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}


def tokenizer_json(vocabulary_file: Path, merges_file: Path) -> bytes:
    """The two files in one; the same bytes each time.

    Raises:
        UserError: one of them is not what it should be.
        OSError: a file cannot be read.
    """
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL | {"add_prefix_space": False},
        "post_processor": _BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False},
        "decoder": _BYTE_LEVEL | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": _vocabulary(vocabulary_file),
            "merges": _merges(merges_file),
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def is_vocabulary(content: bytes) -> bool:
    """Whether a file is a vocabulary alone: tokens, each of the 256 bytes among them, and ids."""
    try:
        tokens = json.loads(content)
    except ValueError:
        return False
    return (
        isinstance(tokens, dict)
        and all(type(one) is int for one in tokens.values())
        and tokens.keys() >= set(pre_tokenizers.ByteLevel.alphabet())
    )


def _vocabulary(file: Path) -> dict[str, int]:
    content = file.read_bytes()
    if not is_vocabulary(content):
        # Bytes without a token the library would drop from text without a word.
        raise UserError(
            f"the vocabulary {file} is not one of GPT-2's kind, a JSON object of tokens and their "
            "ids in which each of the 256 bytes has one: name GPT-2's vocab.json"
        )
    tokens: dict[str, int] = json.loads(content)
    return tokens


def _merges(file: Path) -> list[Any]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"the merges {file} are not text in UTF-8") from None
    merges = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith(_HEADER)):
            continue
        pair = line.removesuffix("\r").split(" ")
        if len(pair) != 2:
            raise UserError(
                f"the merges {file} have no two tokens with a space between on line {number:,}: "
                "name GPT-2's merges.txt"
            )
        merges.append(pair)
    return merges
