"""A vocabulary of byte strings as a ``tokenizer.json``.

The one idea: greedy longest match from the left is WordPiece without a mark for continued words,
over bytes written as the 256 printable characters of GPT-2's byte alphabet. The library looks at
every length before it takes one, so that it is for short texts: a corpus is walked by `windows`.
Bytes alone are BPE without merges, of any length.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

EOD_TOKEN = "<|end of document|>"
"""Raw spaces are not in the byte alphabet, so that no text walks into it."""
_UNKNOWN = EOD_TOKEN  # Never given: every byte is a string. The library asks for one.
_NO_LIMIT = 1 << 30


def byte_alphabet() -> list[str]:
    """The character of each byte, by GPT-2's rule."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    found = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    if sorted(found) != sorted(ByteLevel.alphabet()):
        raise RuntimeError("the library's byte alphabet is another one")
    return found


def tokenizer_files(strings: Sequence[bytes]) -> dict[str, bytes]:
    """The two files, by name, of strings numbered in this order and the end of a document."""
    letters = byte_alphabet()
    vocabulary = {"".join(letters[byte] for byte in one): i for i, one in enumerate(strings)}
    vocabulary[EOD_TOKEN] = len(strings)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(strings),
                "content": EOD_TOKEN,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "model": _bytes(vocabulary) if len(strings) == len(letters) else _longest(vocabulary),
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOD_TOKEN,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False).encode(),
        "tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode(),
    }


def _longest(vocabulary: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": "WordPiece",
        "unk_token": _UNKNOWN,
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": _NO_LIMIT,
        "vocab": vocabulary,
    }


def _bytes(vocabulary: Mapping[str, int]) -> dict[str, Any]:
    return {"type": "BPE", "vocab": vocabulary, "merges": []}
